package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// emptyFile makes a file to write to.
func emptyFile(t *testing.T, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "out"), os.O_RDWR|os.O_CREATE|flags, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// piped gives what is written to a pipe.
func piped(t *testing.T, write func(to *os.File) error) []byte {
	t.Helper()
	var b bytes.Buffer
	through(t, &b, write)
	return b.Bytes()
}

// through hands on what is written to a pipe.
func through(t *testing.T, to io.Writer, write func(to *os.File) error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make(chan error)
	go func() {
		_, err := io.Copy(to, r)
		got <- err
	}()
	err = write(w)
	w.Close()
	if err := errors.Join(err, <-got); err != nil {
		t.Error(err)
	}
}

// hashOf is that of a disk, which is too large to be held in memory, and more so by the race
// detector.
func hashOf(t *testing.T, r io.Reader) string {
	t.Helper()
	hash := sha256.New()
	n, err := io.Copy(hash, r)
	if err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("%d bytes, %x", n, hash.Sum(nil))
}

func hashOfFile(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return hashOf(t, f)
}

// partly is a volume with content at its beginning and its end, and a hole between them, and
// what it holds.
func partly(t *testing.T, s *Store) (v volume.Volume, hash string) {
	t.Helper()
	v = blank(t, s)
	f, err := os.OpenFile(s.dataOf(v.ID), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, text := range map[int64]string{0: strings.Repeat("head", 1<<16), 1<<30 - 4: "tail"} {
		if _, err := f.WriteAt([]byte(text), at); err != nil {
			t.Fatal(err)
		}
	}
	return v, hashOfFile(t, s.dataOf(v.ID))
}

func sameFile(t *testing.T, what string, f *os.File, want string, most int64) {
	t.Helper()
	if got := hashOfFile(t, f.Name()); got != want {
		t.Errorf("%s: %s, and wanted are %s", what, got, want)
	}
	if n := allocated(t, f.Name()); n > most {
		t.Errorf("%s: it takes %d bytes", what, n)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if at, err := f.Seek(0, io.SeekCurrent); err != nil || at != info.Size() {
		t.Errorf("%s: whoever goes on writing does so at %d, %v", what, at, err)
	}
}

// An image is saved as it was imported, whatever it is made of, to files and streams.
func TestSaveImage(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	for what, path := range map[string]string{"raw": rawFile(t, 16<<20), "qcow2": qcow2File(t)} {
		img := importRaw(t, s, path)
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		last := int64(0)
		f := emptyFile(t, 0)
		if err := s.SaveImage(ctx, img.ID, f, func(done, total int64) { last = done }); err != nil || last != img.Size {
			t.Errorf("%s: %v, told %d", what, err, last)
		}
		sameFile(t, what, f, hashOf(t, bytes.NewReader(want)), 1<<20)
		if got := piped(t, func(to *os.File) error { return s.SaveImage(ctx, img.ID, to, nil) }); !bytes.Equal(got, want) {
			t.Errorf("%s through a pipe: %d bytes of %d", what, len(got), len(want))
		}
		// What is there already stays, in front.
		f = emptyFile(t, os.O_APPEND)
		if _, err := f.WriteString("before"); err != nil {
			t.Fatal(err)
		}
		if err := s.SaveImage(ctx, img.ID, f, nil); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, append([]byte("before"), want...)) {
			t.Errorf("%s behind something: %d bytes, %v", what, len(got), err)
		}
	}
	if err := s.SaveImage(ctx, blank(t, s).ID, emptyFile(t, 0), nil); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("no image: %v", err)
	}
}

// A volume is exported raw or as qcow2, to files and streams, and takes no more room than
// what is in it.
func TestExportVolume(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	v, disk := partly(t, s)
	export := func(format string, to *os.File) error {
		return s.ExportVolume(ctx, volume.ExportVolume{VolumeID: v.ID, DiskFormat: format, To: to})
	}
	unpacked := func(what string, path string) {
		t.Helper()
		qemu(t, "/", "check", "-q", path)
		raw := emptyFile(t, 0)
		qemu(t, "/", "convert", "-f", "qcow2", "-O", "raw", path, raw.Name())
		if got := hashOfFile(t, raw.Name()); got != disk {
			t.Errorf("%s does not hold the volume: %s, and wanted are %s", what, got, disk)
		}
		if n := allocated(t, path); n > 8<<20 {
			t.Errorf("%s takes %d bytes", what, n)
		}
	}
	f := emptyFile(t, 0)
	if err := export("raw", f); err != nil {
		t.Error(err)
	}
	sameFile(t, "raw", f, disk, 4<<20)
	hash := sha256.New()
	through(t, hash, func(to *os.File) error { return export("raw", to) })
	if got := fmt.Sprintf("%d bytes, %x", 1<<30, hash.Sum(nil)); got != disk {
		t.Errorf("through a pipe: %s, and wanted are %s", got, disk)
	}
	f = emptyFile(t, 0)
	if err := export("qcow2", f); err != nil {
		t.Error(err)
	}
	unpacked("qcow2", f.Name())
	f = emptyFile(t, 0)
	if _, err := f.Write(piped(t, func(to *os.File) error { return export("qcow2", to) })); err != nil {
		t.Fatal(err)
	}
	unpacked("qcow2 through a pipe", f.Name())
	if err := export("vmdk", f); !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), "vmdk") {
		t.Errorf("as vmdk: %v", err)
	}
	if left, err := s.Repair(ctx); err != nil || len(left) != 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
}

// A volume that somebody has is copied when it is known that nobody writes to it, and else
// only at one moment; and nobody gets it before the copy is made.
func TestExportVolumeInUse(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	v, disk := partly(t, s)
	attachment, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
	if err != nil {
		t.Fatal(err)
	}
	req := volume.ExportVolume{VolumeID: v.ID, DiskFormat: "raw", To: emptyFile(t, 0)}
	err = s.ExportVolume(ctx, req)
	if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "web1") || !strings.Contains(err.Error(), "stop the instance") {
		t.Errorf("a volume in use: %v", err)
	}
	req.Copying.Still = true
	if err := s.ExportVolume(ctx, req); err != nil {
		t.Error(err)
	}
	sameFile(t, "one that nobody writes to", req.To, disk, 4<<20)
	if err := s.Detach(ctx, attachment); err != nil {
		t.Fatal(err)
	}
	// As long as it is read nobody else may have it.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- s.ExportVolume(ctx, volume.ExportVolume{VolumeID: v.ID, DiskFormat: "raw", To: w})
		w.Close()
	}()
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web2"}, false); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "being copied") {
		t.Errorf("reserved while it is exported: %v", err)
	}
	if err := s.DeleteVolume(ctx, v.ID); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("deleted while it is exported: %v", err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Where blocks can be shared a volume is taken at one moment, and only for that is anybody
// held back.
func TestMoment(t *testing.T) {
	fs := filesystem(t, "btrfs", 512, "-q")
	s, ctx := open(t, filepath.Join(fs, "state")), testCtx(t)
	v := volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: importRaw(t, s, fullFile(t, 8<<20)).ID})
	if _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(s.dataOf(v.ID), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte(text), 0)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("before the moment")
	moments := 0
	how := volume.Copying{Moment: func(take func() error) error {
		moments++
		write("at the moment....")
		err := take()
		write("after the moment.")
		return err
	}}
	heads := map[string]func(p []byte) error{
		"a snapshot": func(p []byte) error {
			n, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "n", VolumeID: v.ID, Copying: how})
			if err != nil {
				return err
			}
			f, err := os.Open(filepath.Join(s.snapshots.path(n.ID), dataName))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.ReadAt(p, 0)
			return err
		},
		"an export": func(p []byte) error {
			f := emptyFile(t, 0)
			if err := s.ExportVolume(ctx, volume.ExportVolume{VolumeID: v.ID, DiskFormat: "raw", To: f, Copying: how}); err != nil {
				return err
			}
			_, err := f.ReadAt(p, 0)
			return err
		},
		"a volume": func(p []byte) error {
			conformance.ReadAt(t, s, volumeOf(t, s, volume.CreateVolume{SourceID: v.ID, Copying: how}), p, 0)
			return nil
		},
	}
	for what, head := range heads {
		got := make([]byte, 17)
		if err := head(got); err != nil || string(got) != "at the moment...." {
			t.Errorf("%s holds %q, %v", what, got, err)
		}
	}
	if moments != len(heads) {
		t.Errorf("there were %d moments", moments)
	}
	failed := errors.New("cannot be held back")
	how.Moment = func(func() error) error { return failed }
	if _, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "failed", VolumeID: v.ID, Copying: how}); !errors.Is(err, failed) {
		t.Errorf("when nothing can be held back: %v", err)
	}
	if _, err := s.Snapshot(ctx, "failed"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("the failed snapshot: %v", err)
	}
}

// What is on a block device counts, and not what the kernel has cached of it.
func TestDevicePastTheCache(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	path := fullFile(t, 4<<20)
	dev := command(t, "losetup", "--find", "--show", path)
	t.Cleanup(func() { exec.Command("losetup", "--detach", dev).Run() })
	d, err := os.Open(dev) // what is cached goes with the last who has it open
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := os.ReadFile(dev); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat([]byte("new!"), 1<<19), 1<<20); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if cached, err := os.ReadFile(dev); err != nil || bytes.Equal(cached, want) {
		t.Fatalf("the cache is not old: this test tests nothing (%v)", err)
	}
	img, err := s.ImportImage(ctx, volume.ImportImage{Path: dev})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(s.images.path(img.ID), dataName))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image is what was cached, %v", err)
	}
	if got := piped(t, func(to *os.File) error { return copyOut(ctx, to, d, int64(len(want)), nil) }); !bytes.Equal(got, want) {
		t.Error("what is streamed is what was cached")
	}
	q, raw := emptyFile(t, 0), emptyFile(t, 0)
	if err := pack(ctx, d, q, int64(len(want)), nil); err != nil {
		t.Fatal(err)
	}
	qemu(t, "/", "convert", "-f", "qcow2", "-O", "raw", q.Name(), raw.Name())
	if got, err := os.ReadFile(raw.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the qcow2 file holds what was cached, %v", err)
	}
}

// An image of a volume holds what that does, and has the properties of the image that the
// volume was made of. What it cannot be made of leaves nothing.
func TestCreateImage(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	old, err := s.ImportImage(ctx, volume.ImportImage{Name: "old", Path: fullFile(t, 8<<20), MinDisk: 2, MinRAM: 64, Properties: map[string]string{"os": "busybox", "a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	v := volumeOf(t, s, volume.CreateVolume{Size: 2, ImageID: old.ID})
	if err := s.DeleteImage(ctx, old.ID); err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	img, err := s.CreateImage(ctx, volume.CreateImage{Name: "new", VolumeID: v.ID, Properties: map[string]string{"a": "c"}, Progress: func(done, total int64) { last = done }})
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != "new" || img.Status != volume.ImageActive || img.DiskFormat != "raw" || img.VirtualSize != 2<<30 || img.Size != 2<<30 || last != 2<<30 ||
		img.MinDisk != 2 || img.MinRAM != 64 || len(img.Properties) != 2 || img.Properties["os"] != "busybox" || img.Properties["a"] != "c" {
		t.Errorf("the image is %+v, told %d", img, last)
	}
	if sum := command(t, "sha512sum", filepath.Join(s.images.path(img.ID), dataName))[:128]; img.Checksum != "sha512:"+sum {
		t.Errorf("its checksum is %q", img.Checksum)
	}
	if n := allocated(t, filepath.Join(s.images.path(img.ID), dataName)); n > 9<<20 {
		t.Errorf("it takes %d bytes", n)
	}
	if err := s.DeleteVolume(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	again := volumeOf(t, s, volume.CreateVolume{Size: 2, ImageID: img.ID})
	want, err := os.ReadFile(fullFile(t, 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	holdsDisk(t, s, again, want)
	if !again.Bootable || again.ImageProps["os"] != "busybox" {
		t.Errorf("a volume of it is %+v", again)
	}
	// In use, and not known to be still.
	if _, err := s.Reserve(ctx, again.ID, volume.Instance{ID: "web1"}, false); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		req  volume.CreateImage
		kind error
	}{
		"in use":       {volume.CreateImage{Name: "x", VolumeID: again.ID}, volume.ErrInUse},
		"not there":    {volume.CreateImage{Name: "x", VolumeID: img.ID}, volume.ErrNotFound},
		"as qcow2":     {volume.CreateImage{Name: "x", VolumeID: again.ID, DiskFormat: "qcow2"}, failure.ErrInvalid},
		"a wrong name": {volume.CreateImage{Name: "x\ny", VolumeID: again.ID}, failure.ErrInvalid},
	} {
		if _, err := s.CreateImage(ctx, c.req); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.CreateImage(ctx, volume.CreateImage{Name: "still", VolumeID: again.ID, Copying: volume.Copying{Still: true}}); err != nil {
		t.Error(err)
	}
	gone, cancel := context.WithCancel(ctx)
	if _, err := s.CreateImage(gone, volume.CreateImage{Name: "x", VolumeID: again.ID, Copying: volume.Copying{Still: true}, Progress: func(int64, int64) { cancel() }}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left, err := os.ReadDir(s.images.dir); err != nil || len(left) != 2 {
		t.Errorf("images: %v, %v", left, err)
	}
}

// Nobody else gets a volume of several while it is copied as one that nobody writes to.
func TestStillMultiattach(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	v := volumeOf(t, s, volume.CreateVolume{Size: 1, Multiattach: true})
	if _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- s.ExportVolume(ctx, volume.ExportVolume{VolumeID: v.ID, DiskFormat: "raw", To: w, Copying: volume.Copying{Still: true}})
		w.Close()
	}()
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web2"}, false); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "being copied") {
		t.Errorf("reserved while it is copied: %v", err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web2"}, false); err != nil {
		t.Error(err)
	}
}
