package cmd

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBegin holds that neither the umask nor the descriptors of whoever calls lxcboot
// reach further than itself.
func TestBegin(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	begin()
	for _, fd := range pipe {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d is inherited: %#x, %v", fd, flags, err)
		}
	}
	dir := t.TempDir()
	hook := filepath.Join(dir, "hooks", "lxc.d", "lxcboot")
	if err := install(hook, "#!/bin/sh\n", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{hook, filepath.Dir(hook), filepath.Dir(filepath.Dir(hook))} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

// TestInstallUmask holds that a file is installed with its mode whatever the umask.
func TestInstallUmask(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	path := filepath.Join(t.TempDir(), "unit")
	if err := install(path, "x", 0o644); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
