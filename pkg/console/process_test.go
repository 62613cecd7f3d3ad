package console

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/creack/pty"

	"github.com/lxcboot/lxcboot/pkg/tty"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	ptmx, terminal, err := pty.Open() // ours, and we are not libvirt_lxc
	must(t, err)
	defer ptmx.Close()
	defer terminal.Close()
	for _, controller := range []int{-1, 0, os.Getpid(), 1<<22 + 1} {
		if _, err := Open(controller); !errors.Is(err, ErrEnded) {
			t.Errorf("%d: %v", controller, err)
		}
	}
}

func TestStartFails(t *testing.T) {
	dir := t.TempDir()
	ptmx, terminal, err := pty.Open()
	must(t, err)
	defer ptmx.Close()
	console := &Terminal{Ends: tty.Ends{Host: terminal, Master: ptmx}, controller: terminal}
	defer terminal.Close()
	for _, tt := range []struct {
		exe  string
		o    Options
		want error
	}{
		{"/nonexistent", Options{LogPath: filepath.Join(dir, "log"), SocketPath: filepath.Join(dir, "sock")}, os.ErrNotExist},
		{"/bin/true", Options{LogPath: filepath.Join(dir, "none", "log"), SocketPath: filepath.Join(dir, "sock")}, os.ErrNotExist},
		{"/bin/true", Options{LogPath: filepath.Join(dir, "log"), SocketPath: filepath.Join(dir, "none", "sock")}, os.ErrNotExist},
	} {
		if _, err := Start([]string{tt.exe}, console, tt.o); !errors.Is(err, tt.want) {
			t.Errorf("%s %+v: %v", tt.exe, tt.o, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "sock")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	}
}
