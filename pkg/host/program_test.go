package host

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBeside holds that nothing is run as root which another user could have made.
func TestProgram(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := []byte("#!/bin/sh\n")
	for name, c := range map[string]struct {
		put  func(path string) error
		good bool
	}{
		"good":       {func(p string) error { return os.WriteFile(p, program, 0o755) }, true},
		"none":       {func(string) error { return nil }, false},
		"a link":     {func(p string) error { return os.Symlink("/bin/true", p) }, false},
		"directory":  {func(p string) error { return os.Mkdir(p, 0o755) }, false},
		"no program": {func(p string) error { return os.WriteFile(p, program, 0o644) }, false},
		"writable": {func(p string) error {
			return errors.Join(os.WriteFile(p, program, 0o755), os.Chmod(p, 0o775))
		}, false},
		"another's": {func(p string) error {
			return errors.Join(os.WriteFile(p, program, 0o755), os.Chown(p, 65534, 65534))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(filepath.Dir(exe), "lxcboot-test")
			t.Cleanup(func() { os.RemoveAll(path) })
			if err := c.put(path); err != nil {
				t.Fatal(err)
			}
			got, err := Program("lxcboot-test")
			if (err == nil) != c.good || c.good && got != path {
				t.Errorf("got %q, %v", got, err)
			}
			if !c.good && !errors.Is(err, exec.ErrNotFound) {
				t.Errorf("the kind of %v", err)
			}
		})
	}
}
