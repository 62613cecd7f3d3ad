package rootfs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// TestUnpackFull: a disk that is too small in bytes, or in inodes, is told from an archive
// that is none.
func TestUnpackFull(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "many"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 6000 { // of an ext4 of 16 MiB
		if err := os.WriteFile(filepath.Join(tree, "many", strconv.Itoa(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "data"), []byte(strings.Repeat("data", 8<<20)), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{"inodes": {"-C", tree, "."}, "bytes": {"-C", dir, "data"}, "nothing": nil} {
		t.Run(name, func(t *testing.T) {
			archive := filepath.Join(t.TempDir(), "tar")
			if args != nil {
				if out, err := exec.Command("tar", append([]string{"-cf", archive}, args...)...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			} else if err := os.WriteFile(archive, []byte(strings.Repeat("no archive ", 1000)), 0o644); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(archive)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			disk := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(disk, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(disk, 16<<20); err != nil {
				t.Fatal(err)
			}
			_, err = Unpack(t.Context(), f, disk)
			if !errors.Is(err, failure.ErrInvalid) || strings.Contains(err.Error(), "does not fit") != (args != nil) {
				t.Errorf("it gives %v", err)
			}
		})
	}
}

// TestUnpackUnwritten: what the file of the disk cannot hold is an error, and not a hole.
func TestUnpackUnwritten(t *testing.T) {
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), []byte(strings.Repeat("data", 8<<20)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-C", dir, "-cf", filepath.Join(dir, "tar"), "data").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.Open(filepath.Join(dir, "tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	disk := filepath.Join(small, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 256<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := Unpack(t.Context(), f, disk); err == nil || errors.Is(err, failure.ErrInvalid) {
		t.Errorf("32 MiB in a file that has 8: %v", err)
	}
}
