package console

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a block device, and opens it for its user alone.
func disk(t *testing.T) (path string, take func() (*os.File, error)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(file, make([]byte, 1<<20), 0o600))
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	must(t, err)
	path = strings.TrimSpace(string(out))
	t.Cleanup(func() { must(t, exec.Command("losetup", "--detach", path).Run()) })
	return path, func() (*os.File, error) { return os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0) }
}

// The process that keeps the console keeps block devices from others, that it was given or
// was asked to, until the container has ended.
func TestClaims(t *testing.T) {
	given, takeGiven := disk(t)
	asked, takeAsked := disk(t)
	w := newWorld(t, "sleep 1000")
	f, err := takeGiven()
	must(t, err)
	w.Devices = []*os.File{f}
	w.start(t)
	must(t, f.Close())
	free := func(take func() (*os.File, error)) bool {
		f, err := take()
		if err == nil {
			f.Close()
		} else if !errors.Is(err, unix.EBUSY) {
			t.Error(err)
		}
		return err == nil
	}
	if free(takeGiven) {
		t.Error("what it was given is free")
	}
	ctx := t.Context()
	for range 2 { // a second time changes nothing
		must(t, Claim(ctx, w.SocketPath, w.process, asked))
		must(t, Claim(ctx, w.SocketPath, w.process, given))
		if free(takeGiven) || free(takeAsked) {
			t.Error("what it was asked to take is free")
		}
	}
	must(t, Unclaim(ctx, w.SocketPath, w.process, asked))
	must(t, Unclaim(ctx, w.SocketPath, w.process, asked))
	must(t, Unclaim(ctx, w.SocketPath, w.process, "/dev/nowhere"))
	if !free(takeAsked) || free(takeGiven) {
		t.Error("it let go of another one")
	}
	// What another has it cannot take, and says so.
	f, err = takeAsked()
	must(t, err)
	if err := Claim(ctx, w.SocketPath, w.process, asked); err == nil || !strings.Contains(err.Error(), asked) {
		t.Errorf("taken from another: %v", err)
	}
	must(t, f.Close())
	must(t, Claim(ctx, w.SocketPath, w.process, asked))
	w.end()
	w.ended(t)
	eventually(t, "the devices", func() bool { return free(takeGiven) && free(takeAsked) })
	must(t, Unclaim(ctx, w.SocketPath, w.process, asked))
	if err := Claim(ctx, w.SocketPath, w.process, asked); !errors.Is(err, ErrNotServed) {
		t.Errorf("claimed by nobody: %v", err)
	}
}
