package imagefile

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

func in(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// A file is there when it is whole, in place of none or, when that is said, of another.
func TestOutput(t *testing.T) {
	for what, open := range map[string]func(string) (*os.File, error){
		"nameless": nameless,
		"named":    func(string) (*os.File, error) { return nil, unix.EOPNOTSUPP },
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "disk.raw")
			make := func(text string, force, commit bool) error {
				o, err := create(path, os.Stdout, force, open)
				if err != nil {
					return err
				}
				defer o.Close()
				if _, err := o.WriteString(text); err != nil {
					return err
				}
				if b, err := os.ReadFile(path); err == nil && string(b) == text {
					t.Error("it has its name before it is whole")
				}
				if !commit {
					return nil
				}
				return o.Commit()
			}
			holds := func(want string) {
				t.Helper()
				if b, err := os.ReadFile(path); err != nil || string(b) != want || in(t, dir) != "disk.raw" {
					t.Errorf("it holds %q, %v, beside %q", b, err, in(t, dir))
				}
			}
			if err := make("given up", false, false); err != nil || in(t, dir) != "" {
				t.Errorf("given up: %v, left %q", err, in(t, dir))
			}
			if err := make("first", false, true); err != nil {
				t.Fatal(err)
			}
			holds("first")
			if err := make("second", false, true); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "--force") {
				t.Errorf("over a file: %v", err)
			}
			if err := make("given up", true, false); err != nil {
				t.Error(err)
			}
			holds("first")
			if err := make("second", true, true); err != nil {
				t.Error(err)
			}
			holds("second")
			// One that comes meanwhile is not replaced.
			os.Remove(path)
			o, err := create(path, os.Stdout, false, open)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("other"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := o.Commit(); !errors.Is(err, ErrExists) {
				t.Errorf("over a file that came meanwhile: %v", err)
			}
			if err := o.Close(); err != nil {
				t.Error(err)
			}
			holds("other")
		})
	}
}

// What is no regular file is refused, or written to as it is; a link leads to what is replaced.
func TestOutputElsewhere(t *testing.T) {
	dir := t.TempDir()
	for path, says := range map[string]string{dir: "a directory", filepath.Join(dir, "none", "x"): "none/x"} {
		if _, err := Create(path, os.Stdout, true); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := Create("/dev/null", os.Stdout, false); err != nil {
		t.Error(err)
	}
	if fi, err := os.Stat("/dev/null"); err != nil || fi.Mode().IsRegular() {
		t.Fatal("/dev/null was replaced")
	}
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dev, err := exec.Command("losetup", "--find", "--show", disk).Output()
	if err != nil {
		t.Fatal(err)
	}
	loop := strings.TrimSpace(string(dev))
	defer exec.Command("losetup", "--detach", loop).Run()
	if _, err := Create(loop, os.Stdout, true); !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), loop) {
		t.Errorf("a block device: %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("disk", link); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(link, os.Stdout, false); !errors.Is(err, ErrExists) {
		t.Errorf("a link to a file: %v", err)
	}
	o, err := Create(link, os.Stdout, true)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if _, err := o.WriteString("new"); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(disk); err != nil || string(b) != "new" {
		t.Errorf("what the link leads to holds %d bytes, %v", len(b), err)
	}
	if to, err := os.Readlink(link); err != nil || to != "disk" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
}
