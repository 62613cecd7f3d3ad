package connector

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// mute is a tool that waits for a storage which says nothing, for as long as it is let.
func mute(ctx context.Context, _ ...string) (string, error) {
	<-ctx.Done()
	return "", context.Cause(ctx)
}

// lasts is how long f takes, on a clock that jumps to what is waited for.
func lasts(t *testing.T, f func(t *testing.T)) (d time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		f(t)
		d = time.Since(began)
	})
	return d
}

// An NFS server that says nothing is given up after the time that the documentation says.
func TestNFSSilent(t *testing.T) {
	h := New(Options{StateDir: t.TempDir(), Run: mute, Timeout: time.Hour})
	req := request("s1", "nfs", nfsData("/export", "volume", "raw"))
	dev := prepare(t, nfsDriver{h}, req)
	took := lasts(t, func(t *testing.T) {
		if _, err := h.Connect(t.Context(), req, dev); err == nil || !strings.Contains(err.Error(), "did not answer within 30s") {
			t.Errorf("got %v", err)
		}
	})
	if took != 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if left, _ := filepath.Glob(h.o.StateDir + "/mounts/*/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// So is a storage that does not take what was written; the disk stays then, and goes once
// the storage is back.
func TestFlushSilent(t *testing.T) {
	w, h := newWorld(t)
	h.o.Timeout = time.Hour
	const dir = "sys/devices/platform/host7/7:0:0:1"
	w.mu.Lock()
	w.disk(dir, "7:0:0:1", "sdz", "naa.silent")
	w.mu.Unlock()
	disk, err := h.scsiDiskAt("7:0:0:1")
	if err != nil {
		t.Fatal(err)
	}
	h.o.Run = mute
	took := lasts(t, func(t *testing.T) {
		if err := h.removeDisk(t.Context(), *disk, false); !errors.Is(err, ErrNotFlushed) || !strings.Contains(err.Error(), "within 30s") {
			t.Errorf("got %v", err)
		}
	})
	if took != 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if !exists(w.root + "/dev/sdz") {
		t.Error("the disk is gone")
	}
	h.o.Run = w.run
	if err := h.removeDisk(t.Context(), *disk, false); err != nil || exists(w.root+"/dev/sdz") {
		t.Errorf("once the storage is back: %v", err)
	}
}

// inUse sees that a disk which something of this host uses is waited for, with LVM told to
// let go of what it may have activated on it, and then neither flushed nor let go.
func inUse(t *testing.T, w *world, h *Host, dev Device) {
	t.Helper()
	name := filepath.Base(dev.Path)
	loop := filepath.Join(w.root, "sys/block/loop9/loop/backing_file")
	holder := filepath.Join(w.root, "sys/class/block", name, "holders")
	put(t, w.root, "sys/block/loop9/loop/backing_file", "/dev/"+name+"\n")
	put(t, w.root, "sys/class/block/"+name+"/holders/dm-9", "")
	put(t, w.root, "sys/block/dm-9/dm/uuid", "LVM-abc\n")
	var ran []string
	timeout := h.o.Timeout
	h.o.Timeout = time.Hour
	h.o.Run = func(_ context.Context, argv ...string) (string, error) {
		if !slices.Contains(ran, argv[0]) {
			ran = append(ran, argv[0])
		}
		return "vg\n", nil
	}
	took := lasts(t, func(t *testing.T) {
		if err := h.Disconnect(t.Context(), dev); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "/dev/loop9") {
			t.Errorf("in use: %v", err)
		}
	})
	if took < idleLimit || took > 2*idleLimit {
		t.Errorf("it was waited for %v", took)
	}
	expect(t, "what ran while it was in use", ran, []string{"lvs", "vgchange"})
	if !exists(dev.Path) {
		t.Error("it was let go")
	}
	h.o.Run, h.o.Timeout = w.run, timeout
	for _, path := range []string{loop, holder} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}
