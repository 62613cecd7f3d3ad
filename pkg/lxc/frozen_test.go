package lxc

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// A libvirtd that is there and does not answer is given up, also by Close.
func TestFrozenDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	was := openLimit
	openLimit = 300 * time.Millisecond
	defer func() { openLimit = was }()
	done := make(chan error, 1)
	go func() {
		_, err := Open(t.Context(), "lxc:///?socket="+path)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, ErrNoDaemon) {
			t.Errorf("%v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it is waited for without a limit")
	}
}
