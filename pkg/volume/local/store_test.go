package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

func TestOpenRefusesWhatOthersCanWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "state")
	open(t, dir)
	for _, path := range []string{dir, filepath.Join(dir, "images"), filepath.Join(dir, "volumes"), filepath.Join(dir, "snapshots")} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
		for _, mode := range []os.FileMode{0o770, 0o702, 0o777 | os.ModeSticky} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, Options{Host: here}); err == nil || !strings.Contains(err.Error(), "chmod 0700 "+path) {
				t.Errorf("%s of mode %v: %v", path, mode, err)
			}
		}
		if err := os.Chmod(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 12345, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{Host: here}); err == nil || !strings.Contains(err.Error(), "user 12345") || !strings.Contains(err.Error(), "chown 0 "+path) {
			t.Errorf("%s of another user: %v", path, err)
		}
		if err := os.Chown(path, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	if _, err := Open(file, Options{Host: here}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file for a directory: %v", err)
	}
}

// blank makes a volume of 1 GiB.
func blank(t testing.TB, s *Store) volume.Volume {
	t.Helper()
	v, err := s.CreateVolume(testCtx(t), volume.CreateVolume{Name: "blank", Size: 1})
	if err != nil || v.Status != volume.StatusAvailable {
		t.Fatalf("a blank volume: %+v, %v", v, err)
	}
	return v
}

// importRaw makes an image of a raw file.
func importRaw(t testing.TB, s *Store, path string) volume.Image {
	t.Helper()
	img, err := s.ImportImage(testCtx(t), volume.ImportImage{Name: "img", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// rawFile makes a sparse file with a little content.
func rawFile(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	write(t, path, []byte("content"))
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestImageSizeAgainstVolumeSize(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	big := importRaw(t, s, rawFile(t, 2<<30+1))
	for size, ok := range map[int]bool{1: false, 2: false, 3: true} {
		err := s.CheckCreate(ctx, []volume.CreateVolume{{Name: "root", Size: size, ImageID: big.ID}})
		if (err == nil) != ok {
			t.Errorf("%d GiB: %v", size, err)
		}
		if err == nil {
			continue
		}
		for _, word := range []string{big.ID, "3 GiB", `"root"`} {
			if !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), word) {
				t.Errorf("%d GiB: %v does not say %s", size, err, word)
			}
		}
		if _, err := s.CreateVolume(ctx, volume.CreateVolume{Size: size, ImageID: big.ID}); !errors.Is(err, failure.ErrInvalid) {
			t.Errorf("creating it all the same: %v", err)
		}
	}
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 3, ImageID: big.ID})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitVolume(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(s.dataOf(v.ID)); err != nil || fi.Size() != 3<<30 {
		t.Errorf("the volume's file: %v, %v", fi.Size(), err)
	}
	if n := allocated(t, s.dataOf(v.ID)); n > 1<<20 {
		t.Errorf("%d bytes of holes were written", n)
	}
	if err := s.CheckCreate(ctx, []volume.CreateVolume{{Size: 1, Type: "fast"}}); !errors.Is(err, failure.ErrInvalid) {
		t.Errorf("a volume type: %v", err)
	}
}

func allocated(t testing.TB, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// A record that can not be read is named, the others keep working, and nobody
// concludes from it that something is not there.
func TestDamagedRecord(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	good, bad := blank(t, s), blank(t, s)
	attachment, err := s.Reserve(ctx, good.ID, volume.Instance{ID: "instance"}, false)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.volumes.path(bad.ID), metaName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, content := range map[string][]byte{
		"truncated": whole[:len(whole)/2],
		"empty":     nil,
		"garbled":   append([]byte("\x00\x00"), whole[2:]...),
		"newer":     []byte(strings.Replace(string(whole), `"format": 1`, `"format": 2`, 1)),
		"another's": []byte(strings.ReplaceAll(string(whole), bad.ID, good.ID)),
		"missing":   nil,
	} {
		write(t, path, content)
		if what == "missing" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		all, err := s.Volumes(ctx)
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) || len(all) != 1 || all[0].ID != good.ID {
			t.Errorf("%s: the list is %v, %v", what, all, err)
		}
		for doing, call := range map[string]func() error{
			"show":                   func() error { _, err := s.Volume(ctx, bad.ID); return err },
			"delete":                 func() error { return s.DeleteVolume(ctx, bad.ID) },
			"reserve":                func() error { _, err := s.Reserve(ctx, bad.ID, volume.Instance{ID: "i"}, false); return err },
			"attachments":            func() error { _, err := s.AttachmentsOf(ctx, bad.ID, "i"); return err },
			"wait":                   func() error { _, err := s.WaitVolume(ctx, bad.ID); return err },
			"detach something":       func() error { return s.Detach(ctx, uuid.NewString()) },
			"an instance's volumes":  func() error { _, err := s.VolumesOf(ctx, "i"); return err },
			"a name that is missing": func() error { _, err := s.Volume(ctx, "missing"); return err },
			"repair":                 func() error { _, err := s.Repair(ctx); return err },
		} {
			if err := call(); !errors.Is(err, ErrDamaged) || errors.Is(err, volume.ErrNotFound) {
				t.Errorf("%s, %s: %v", what, doing, err)
			}
		}
		if got, err := s.Volume(ctx, "blank"); err != nil || got.ID != good.ID {
			t.Errorf("%s: the other one by name: %v, %v", what, got.ID, err)
		}
		if _, err := s.Connect(ctx, attachment); err != nil {
			t.Errorf("%s: connecting the other one: %v", what, err)
		}
	}
	write(t, path, whole)
	if err := s.DeleteVolume(ctx, bad.ID); err != nil {
		t.Errorf("after the record was restored: %v", err)
	}
}

// A copy that fails on the way leaves a volume in error that says why, takes no
// room, and can be deleted; the wait for it ends at once.
func TestFailedCopy(t *testing.T) {
	dir, _ := samples(t)
	s, ctx := newStore(t), testCtx(t)
	img := importRaw(t, s, filepath.Join(dir, "v3.qcow2"))
	// A table of the image is garbled, at the length it had.
	f, err := os.OpenFile(filepath.Join(s.images.path(img.ID), dataName), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0x80, 0, 0, 0, 0, 1, 2, 0}, 3<<16); err != nil {
		t.Fatal(err)
	}
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: img.ID})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.WaitVolume(ctx, v.ID)
	var state *volume.StateError
	if !errors.As(err, &state) || state.Status != volume.StatusError || !strings.Contains(state.Detail, img.ID) {
		t.Fatalf("waiting for it: %v", err)
	}
	if got, err := s.Volume(ctx, v.ID); err != nil || got.Status != volume.StatusError {
		t.Errorf("it shows as %+v, %v", got, err)
	}
	if n := allocated(t, s.dataOf(v.ID)); n != 0 {
		t.Errorf("it takes %d bytes", n)
	}
	if _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "i"}, false); !errors.Is(err, volume.ErrConflict) {
		t.Errorf("reserving it: %v", err)
	}
	if err := s.DeleteVolume(ctx, v.ID); err != nil {
		t.Errorf("deleting it: %v", err)
	}
}

// Data that became shorter than its record says is noticed before it is used: its
// missing end would read as zeros.
func TestTruncatedData(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	img := importRaw(t, s, rawFile(t, 8<<20))
	v := blank(t, s)
	a, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "i"}, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(s.images.path(img.ID), dataName), s.dataOf(v.ID)} {
		if err := os.Truncate(path, 4096); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: img.ID}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a volume from a truncated image: %v", err)
	}
	if _, err := s.Connect(ctx, a); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), s.dataOf(v.ID)) {
		t.Errorf("connecting a truncated volume: %v", err)
	}
	if err := s.Detach(ctx, a); err != nil {
		t.Errorf("letting go of it: %v", err)
	}
	if err := os.Remove(s.dataOf(v.ID)); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteVolume(ctx, v.ID); err != nil {
		t.Errorf("deleting a volume whose data is gone: %v", err)
	}
}

// A volume that is being filled can be deleted, and so can what it is filled from
// once it is done, but not before; and the end of CreateVolume's context is not
// the end of the work.
func TestDeleteWhileFilling(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	img := importRaw(t, s, fullFile(t, 256<<20))
	// While its content is being read, as a volume is made of it, it stays.
	src, err := s.openSource(ctx, source{kind: "image", id: img.ID, bytes: img.Size})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteImage(ctx, img.ID); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("deleting an image that a volume is being made of: %v", err)
	}
	src.Close()

	short, cancel := context.WithCancel(ctx)
	v, err := s.CreateVolume(short, volume.CreateVolume{Size: 1, ImageID: img.ID})
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	// Another process can not delete it before it is done.
	other := open(t, s.dir)
	switch err := other.DeleteVolume(ctx, v.ID); {
	case err == nil:
		t.Log("the copy was done before it could be deleted")
	case !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())):
		t.Errorf("another process deletes a volume that is being made: %v", err)
	}
	if err := s.DeleteVolume(ctx, v.ID); err != nil && !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("deleting a volume that is being made: %v", err)
	}
	if err := s.DeleteImage(ctx, img.ID); err != nil {
		t.Errorf("deleting the image after that: %v", err)
	}
	if left, err := os.ReadDir(s.volumes.dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// fullFile makes a file without holes.
func fullFile(t testing.TB, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "full.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 1<<20)
	for i := range chunk {
		chunk[i] = byte(i*7 + i>>8)
	}
	for range size / len(chunk) {
		if _, err := f.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// Close ends the work, and what it was for is an error.
func TestClose(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	img := importRaw(t, s, fullFile(t, 256<<20))
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: img.ID})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	got, err := s.Volume(ctx, v.ID)
	if err != nil || got.Status != volume.StatusError && got.Status != volume.StatusAvailable {
		t.Errorf("after Close: %+v, %v", got, err)
	}
}

// An id is never looked up as a name.
func TestNameThatIsAnotherID(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	a := blank(t, s)
	if _, err := s.CreateVolume(ctx, volume.CreateVolume{Name: a.ID, Size: 1}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteVolume(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Volume(ctx, a.ID); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("a deleted id: %v", err)
	}
	for _, ref := range []string{"", "../" + filepath.Base(s.dir), "..", "/", strings.ToUpper(a.ID)} {
		if _, err := s.Volume(ctx, ref); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("volume %q: %v", ref, err)
		}
		if err := s.DeleteVolume(ctx, ref); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("deleting volume %q: %v", ref, err)
		}
	}
}

func TestBadNames(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	v := blank(t, s)
	for _, name := range []string{"a\nb", "\x1b[31m", "a\x00", "\xff\xfe", strings.Repeat("é", 256), "\u202egpj", "a\u2028b"} {
		for what, call := range map[string]func() error{
			"volume":      func() error { _, err := s.CreateVolume(ctx, volume.CreateVolume{Name: name, Size: 1}); return err },
			"description": func() error { return s.CheckCreate(ctx, []volume.CreateVolume{{Description: name, Size: 1}}) },
			"metadata": func() error {
				return s.CheckCreate(ctx, []volume.CreateVolume{{Metadata: map[string]string{name: ""}, Size: 1}})
			},
			"snapshot": func() error {
				_, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: name, VolumeID: v.ID})
				return err
			},
			"image": func() error {
				_, err := s.ImportImage(ctx, volume.ImportImage{Name: name, Path: "/dev/null"})
				return err
			},
			"instance": func() error { _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: name}, false); return err },
		} {
			if err := call(); !errors.Is(err, failure.ErrInvalid) || strings.ContainsAny(err.Error(), "\n\x1b\x00") {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
	}
	if _, err := s.CreateVolume(ctx, volume.CreateVolume{Name: strings.Repeat("é", 255), Size: 1}); err != nil {
		t.Errorf("255 characters: %v", err)
	}
}

// Deleting a volume leaves its snapshots whole.
func TestSnapshotOutlivesVolume(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	img := importRaw(t, s, rawFile(t, 1<<20))
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: img.ID})
	if err != nil {
		t.Fatal(err)
	}
	if v, err = s.WaitVolume(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	snap, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "snap", VolumeID: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteVolume(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	r, err := s.CreateVolume(ctx, volume.CreateVolume{SnapshotID: snap.ID})
	if err != nil {
		t.Fatal(err)
	}
	if r, err = s.WaitVolume(ctx, r.ID); err != nil || !r.Bootable {
		t.Fatalf("%+v, %v", r, err)
	}
	b := make([]byte, 7)
	conformance.ReadAt(t, s, r, b, 0)
	if string(b) != "content" {
		t.Errorf("the volume from the snapshot holds %q", b)
	}
}

// A waiter in another process sees the end of the work.
func TestWaitFromElsewhere(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	img := importRaw(t, s, fullFile(t, 64<<20))
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: img.ID})
	if err != nil {
		t.Fatal(err)
	}
	other := open(t, s.dir)
	if got, err := other.WaitVolume(ctx, v.ID); err != nil || got.Status != volume.StatusAvailable {
		t.Errorf("%+v, %v", got, err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	unlock, err := s.volumes.lock(ctx, v.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := other.Reserve(short, v.ID, volume.Instance{ID: "i"}, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a lock: %v", err)
	}
}
