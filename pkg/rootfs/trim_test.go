package rootfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// takes is how many bytes of the disk a file takes.
func takes(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// What was removed from a filesystem is given back by its file, and nothing of what is there:
// of one that is mounted, and of one that is not, which is mounted nowhere then.
func TestTrim(t *testing.T) {
	for _, fstype := range []string{"ext2", "ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			path := blank(t, 512*mib)
			put(t, format(t, fstype), path, 0)
			for _, mounted := range []bool{true, false} {
				target, fsys := mountAt(t, path, MountOptions{})
				kept := bytes.Repeat([]byte("kept"), 1<<18)
				if err := errors.Join(os.WriteFile(filepath.Join(target, "fill"), bytes.Repeat([]byte("x"), 8<<20), 0o600),
					os.WriteFile(filepath.Join(target, "kept"), kept, 0o600)); err != nil {
					t.Fatal(err)
				}
				unix.Sync()
				before := takes(t, path)
				if err := os.Remove(filepath.Join(target, "fill")); err != nil {
					t.Fatal(err)
				}
				carrier := ""
				if mounted {
					devices, err := loopsOf(path)
					if err != nil || len(devices) != 1 {
						t.Fatalf("%v, %v", devices, err)
					}
					carrier = devices[0].Path
				} else {
					if err := Unmount(target); err != nil {
						t.Fatal(err)
					}
					gone(t, path)
				}
				discarded, after := int64(0), before
				for until := time.Now().Add(10 * time.Second); before-after < 7<<20 && time.Now().Before(until); { // xfs frees in the background
					n, err := Trim(t.Context(), path, fsys, carrier)
					if err != nil {
						t.Fatal(err)
					}
					discarded, after = discarded+n, takes(t, path)
				}
				if discarded < 8<<20 || before-after < 7<<20 {
					t.Errorf("mounted %v: %d bytes discarded, and it takes %d after %d", mounted, discarded, after, before)
				}
				if mounted {
					if err := Unmount(target); err != nil {
						t.Fatal(err)
					}
				}
				gone(t, path)
				target, _ = mountAt(t, path, MountOptions{ReadOnly: true})
				if text, err := os.ReadFile(filepath.Join(target, "kept")); err != nil || !bytes.Equal(text, kept) {
					t.Errorf("what was kept is %d bytes, %v", len(text), err)
				}
				if err := Unmount(target); err != nil {
					t.Fatal(err)
				}
				gone(t, path)
			}
		})
	}
}

func TestTrimFails(t *testing.T) {
	ext4 := format(t, "ext4")
	_, fsys := mountAt(t, ext4, MountOptions{ReadOnly: true})
	devices, err := loopsOf(ext4)
	if err != nil || len(devices) != 1 {
		t.Fatalf("%v, %v", devices, err)
	}
	if _, err := Trim(t.Context(), ext4, fsys, devices[0].Path); !errors.Is(err, ErrTrim) || !errors.Is(err, unix.EBUSY) {
		t.Errorf("of what is mounted read-only: %v", err)
	}
	for name, fsys := range map[string]Filesystem{"squashfs": {Type: "squashfs", ReadOnly: true}, "vfat": {Type: "vfat"}} {
		if _, err := Trim(t.Context(), ext4, fsys, ""); !errors.Is(err, ErrTrim) {
			t.Errorf("of %s: %v", name, err)
		}
	}
}
