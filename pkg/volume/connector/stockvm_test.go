//go:build stockvm

// The tests in the files stockvm_*_test.go take the kernel's own drivers, and run on a host
// that has them: test/stockvm builds them and runs them there. With -short only those that
// do not wait for time limits.
package connector

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// realPassword is a secret of each service that has one; it must be left nowhere.
const realPassword = "the-password"

// wholeWay connects a volume, writes to it, and reads it back after it was connected anew.
// Then it is used in each of the ways, and is not let go and stays as it was; and of the
// last it is waited for the end.
func wholeWay(t *testing.T, h *Host, req Request, uses ...use) {
	t.Helper()
	dev := connect(t, h, req)
	useVolume(t, dev.Path)
	disconnect(t, h, dev)
	dev = connect(t, h, req)
	if !hasExt4(t, dev.Path) {
		t.Error("what was written is not there after connecting again")
	}
	for n, u := range uses {
		by, letGo := u(t, dev.Path)
		began := time.Now()
		err := h.Disconnect(t.Context(), dev)
		if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), by) {
			t.Errorf("used by %s: %v", by, err)
		}
		if took := time.Since(began); took < idleLimit/2 {
			t.Errorf("used by %s: it was waited for %v", by, took)
		}
		if n < len(uses)-1 {
			letGo()
			useVolume(t, dev.Path)
		} else {
			time.AfterFunc(300*time.Millisecond, letGo)
		}
	}
	disconnect(t, h, dev)
}

// A use begins to use a disk or file, and says how the user is named and how it ends.
type use func(t *testing.T, path string) (by string, letGo func())

func byMount(t *testing.T, path string) (string, func()) {
	t.Helper()
	at := t.TempDir()
	run(t, "mount", path, at)
	t.Cleanup(func() { exec.Command("umount", at).Run() })
	return "the mount " + at, func() { run(t, "umount", at) }
}

func byLoop(t *testing.T, path string) (string, func()) {
	t.Helper()
	loop := losetup(t, path)
	return loop, func() { run(t, "losetup", "-d", loop) }
}

func disconnect(t *testing.T, h *Host, dev Device) {
	t.Helper()
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
}

// refused is the error of a connection that is not made, which is there within limit.
func refused(t *testing.T, h *Host, req Request, limit time.Duration, words ...string) {
	t.Helper()
	began := time.Now()
	dev, err := h.Prepare(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	dev, err = h.Connect(t.Context(), req, dev)
	if err == nil {
		t.Fatalf("connected as %+v", dev)
	}
	took := time.Since(began).Round(time.Second / 10)
	t.Logf("refused after %v: %v", took, err)
	if took > limit {
		t.Errorf("it took %v", took)
	}
	for _, s := range secretsOf(req.Connection.Data) {
		if strings.Contains(err.Error(), s) {
			t.Error("the error holds the secret")
		}
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("it does not say %q", w)
		}
	}
}

// dies writes to a volume whose storage stands still from then on: it is not let go then,
// within the time that the documentation says, and is once the storage is back. A loop
// device on a file that a program serves does not end before what was written is there, so
// that there the volume is in use.
func dies(t *testing.T, h *Host, dev Device, still, back func()) {
	t.Helper()
	to := dev.Path
	if dev.Driver == "nfs" { // whose files are brought to the server when a program closes them
		to = losetup(t, dev.Path)
	}
	run(t, "dd", "if=/dev/zero", "of="+to, "bs=64k", "count=16", "conv=fsync,notrunc", "status=none")
	// Kept open, or the kernel would flush it at the close and wait without end.
	f, err := os.OpenFile(to, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	still()
	stopped := true
	goOn := func() {
		if stopped {
			back()
		}
		stopped = false
	}
	t.Cleanup(goOn)
	if _, err := f.WriteAt(bytes.Repeat([]byte("words"), 64<<10), 0); err != nil {
		t.Fatal(err)
	}
	if to != dev.Path {
		f.Close()
		run(t, "losetup", "-d", to)
	}
	began := time.Now()
	var busy *BusyError
	if err := h.Disconnect(t.Context(), dev); !errors.Is(err, ErrNotFlushed) && !(errors.As(err, &busy) && busy.By == to) {
		t.Errorf("got %v", err)
	}
	took := time.Since(began)
	t.Logf("given up after %v", took)
	if took > 2*flushLimit {
		t.Errorf("it took %v", took)
	}
	goOn()
	f.Close()
	disconnect(t, h, dev)
}

// silent takes connections and says nothing.
func silent(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// noSecret sees that the password is in none of the files where the tools keep things.
func noSecret(t *testing.T, dirs ...string) {
	t.Helper()
	out, _ := exec.Command("grep", append([]string{"-rl", realPassword}, dirs...)...).Output()
	if len(out) > 0 {
		t.Errorf("the secret is left in %s", out)
	}
}

// noneOf sees that the kernel shows nothing of these patterns' any more.
func noneOf(t *testing.T, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if left, _ := filepath.Glob(p); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// shell runs a script of the test's world, with what it is told as $1 and so on.
func shell(t testing.TB, script string, args ...string) string {
	t.Helper()
	return run(t, append([]string{"sh", "-ec", script, "sh"}, args...)...)
}
