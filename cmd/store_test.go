package cmd

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestKeeper holds that nothing is run as root which another user could have made.
func TestKeeper(t *testing.T) {
	program := []byte("#!/bin/sh\n")
	for name, c := range map[string]struct {
		put func(path string) error
		own bool // this program itself keeps the console
	}{
		"good":       {func(p string) error { return os.WriteFile(p, program, 0o755) }, false},
		"none":       {func(string) error { return nil }, true},
		"a link":     {func(p string) error { return os.Symlink("/bin/true", p) }, true},
		"directory":  {func(p string) error { return os.Mkdir(p, 0o755) }, true},
		"no program": {func(p string) error { return os.WriteFile(p, program, 0o644) }, true},
		"writable": {func(p string) error {
			return errors.Join(os.WriteFile(p, program, 0o755), os.Chmod(p, 0o775))
		}, true},
		"another's": {func(p string) error {
			return errors.Join(os.WriteFile(p, program, 0o755), os.Chown(p, 65534, 65534))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			small, self := filepath.Join(dir, "lxcboot-console"), filepath.Join(dir, "lxcboot")
			if err := c.put(small); err != nil {
				t.Fatal(err)
			}
			want := []string{small}
			if c.own {
				want = []string{self, "console-serve"}
			}
			if got := keeper(self); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
