package local

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// dirty makes a qcow2 with 4 MiB of data that its writer did not close.
func dirty(t *testing.T, path string) {
	t.Helper()
	qemu(t, filepath.Dir(path), "create", "-f", "qcow2", "-o", "lazy_refcounts=on", path, "64M")
	cmd := exec.Command("prlimit", "--core=0", "qemu-io", "-c", "write -P 7 0 4M", "-c", "flush", "-c", "abort", path)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(err.Error(), "abort") {
		t.Fatalf("%v: %s", err, out)
	}
}

// An image that its writer did not close is taken as QEMU reads it, with a word of that.
func TestUnclean(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dirty.qcow2")
	dirty(t, path)
	s, ctx := newStore(t), testCtx(t)
	var told string
	img, err := s.ImportImage(ctx, volume.ImportImage{Name: "dirty", Path: path, Warn: func(text string) { told += text }})
	if err != nil || !strings.Contains(told, "not closed cleanly") || strings.Count(told, path) != 1 {
		t.Fatalf("%v; %q", err, told)
	}
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: img.ID})
	if err == nil {
		v, err = s.WaitVolume(ctx, v.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(s.volumes.path(v.ID), dataName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, 5<<20)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got[:4<<20], bytes.Repeat([]byte{7}, 4<<20)) || bytes.Count(got[4<<20:], []byte{0}) != 1<<20 {
		t.Errorf("the volume is not what was written, %v", err)
	}
}
