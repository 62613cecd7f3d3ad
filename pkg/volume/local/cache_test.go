package local

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// packedImage imports a compressed qcow2 of so many bytes that are all there, and gives
// those as well.
func packedImage(t *testing.T, s *Store, size int) (volume.Image, []byte) {
	t.Helper()
	raw, packed := fullFile(t, size), filepath.Join(t.TempDir(), "disk.qcow2")
	qemu(t, "/", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, packed)
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return importRaw(t, s, packed), b
}

// rawOf is where an image's raw form is.
func (s *Store) rawOf(id string) string { return filepath.Join(s.images.path(id), rawName) }

// cachedOf is what the store tells of an image's raw form, alone and in the list.
func cachedOf(t *testing.T, s *Store, id string) int64 {
	t.Helper()
	img, err := s.Image(testCtx(t), id)
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.Images(testCtx(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.ID == id && i.Cached != img.Cached {
			t.Errorf("the list says %d of what is %d", i.Cached, img.Cached)
		}
	}
	return img.Cached
}

func holdsDisk(t *testing.T, s *Store, v volume.Volume, disk []byte) {
	t.Helper()
	got := make([]byte, len(disk))
	conformance.ReadAt(t, s, v, got, 0)
	if !bytes.Equal(got, disk) {
		t.Errorf("volume %s does not hold the image's disk", v.ID)
	}
}

// An image that is not raw is converted once: its second volume takes no qemu-img. What is
// kept for that is counted, goes when it is told to, and with the image; volumes stay.
func TestConvertOnce(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	img, disk := packedImage(t, s, 8<<20)
	of := volume.CreateVolume{Size: 1, ImageID: img.ID}
	if n := cachedOf(t, s, img.ID); n != 0 {
		t.Errorf("an image that was never used has %d bytes beside it", n)
	}
	first := volumeOf(t, s, of)
	if n := cachedOf(t, s, img.ID); n < int64(len(disk)) || n != allocated(t, s.rawOf(img.ID)) {
		t.Errorf("its raw form is said to take %d bytes", n)
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", "/nonexistent")
	second := volumeOf(t, s, of)
	for _, v := range []volume.Volume{first, second} {
		holdsDisk(t, s, v, disk)
	}
	pruned, err := s.PruneImages(ctx)
	if err != nil || len(pruned) != 1 || pruned[0].ID != img.ID || pruned[0].Cached < int64(len(disk)) {
		t.Errorf("pruned %+v, %v", pruned, err)
	}
	if n := cachedOf(t, s, img.ID); n != 0 {
		t.Errorf("pruned, it takes %d bytes", n)
	}
	if pruned, err := s.PruneImages(ctx); err != nil || len(pruned) != 0 {
		t.Errorf("pruned again: %+v, %v", pruned, err)
	}
	bad, err := s.CreateVolume(ctx, of)
	if err == nil {
		_, err = s.WaitVolume(ctx, bad.ID)
	}
	if err == nil || !strings.Contains(err.Error(), "qemu-img is not installed") {
		t.Errorf("after that it takes qemu-img: %v", err)
	}
	t.Setenv("PATH", path)
	for _, v := range []volume.Volume{first, second, volumeOf(t, s, of)} {
		holdsDisk(t, s, v, disk)
	}
	if err := s.DeleteImage(ctx, img.ID); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(s.images.dir); err != nil || len(left) != 0 {
		t.Errorf("left of the image: %v, %v", left, err)
	}
}

// A raw form that is not as long as the disk is none, and one that a killed conversion left
// is begun anew, or removed by repair.
func TestHalfRawForm(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	img, disk := packedImage(t, s, 4<<20)
	write(t, s.rawOf(img.ID), []byte("half"))
	half := filepath.Join(s.images.path(img.ID), rawNewName)
	write(t, half, bytes.Repeat([]byte{0xff}, 5<<20))
	holdsDisk(t, s, volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: img.ID}), disk)
	if got, err := os.ReadFile(s.rawOf(img.ID)); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("the raw form has %d bytes, %v", len(got), err)
	}
	if did, err := s.Repair(ctx); err != nil || len(did) != 0 {
		t.Errorf("left over: %q, %v", did, err)
	}
	write(t, half, []byte("half"))
	if did, err := s.Repair(ctx); err != nil || len(did) != 1 || !strings.Contains(did[0], img.ID) {
		t.Errorf("repaired: %q, %v", did, err)
	}
	if _, err := os.Lstat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after repair: %v", err)
	}
	write(t, half, []byte("half"))
	if err := s.DeleteImage(ctx, img.ID); err != nil {
		t.Errorf("deleting an image with a half raw form: %v", err)
	}
}

// Several processes want one image at once, while another prunes: each volume is whole.
func TestRawFormBetweenProcesses(t *testing.T) {
	s := newStore(t)
	img, _ := packedImage(t, s, 8<<20)
	raw := fullFile(t, 8<<20)
	fill := []string{"create", raw}
	together(t, s, fill, fill, fill, []string{"prune"})
	if err := s.DeleteImage(testCtx(t), img.ID); err != nil {
		t.Error(err)
	}
}

// Who waits for a conversion waits no longer than they have patience, and is told for whom.
func TestStoppedConversion(t *testing.T) {
	const wait = 300 * time.Millisecond
	s, ctx := openAs(t, t.TempDir(), Options{Host: here, Wait: wait}), testCtx(t)
	img, _ := packedImage(t, s, 1<<20)
	holding(t, s, "convert", img.ID)
	if did, err := s.Repair(ctx); err != nil || len(did) != 0 {
		t.Errorf("repair of what somebody is at: %q, %v", did, err)
	}
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: img.ID})
	if err == nil {
		_, err = s.WaitVolume(ctx, v.ID)
	}
	if err == nil || !strings.Contains(err.Error(), "stopped)") || !strings.Contains(err.Error(), wait.String()) {
		t.Errorf("waiting for a conversion that stands still: %v", err)
	}
}

// Where there is no room to keep a raw form none is kept, and what is kept goes before
// anything fails for want of room.
func TestRawFormGivesWay(t *testing.T) {
	fs := filesystem(t, "ext4", 208, "-q", "-m", "0")
	s, ctx := open(t, filepath.Join(fs, "state")), testCtx(t)
	img, disk := packedImage(t, s, 48<<20)
	of := volume.CreateVolume{Size: 1, ImageID: img.ID}
	first := volumeOf(t, s, of)
	if n := cachedOf(t, s, img.ID); n < 48<<20 {
		t.Fatalf("the raw form takes %d bytes", n)
	}
	// What is to come needs the place of the raw form.
	raw := importRaw(t, s, fullFile(t, 40<<20))
	if err := s.CheckCreate(ctx, []volume.CreateVolume{{Size: 1, ImageID: raw.ID}, {Size: 1, ImageID: raw.ID}}); err != nil {
		t.Errorf("the check does not count on the raw form's place: %v", err)
	}
	if n := cachedOf(t, s, img.ID); n == 0 {
		t.Error("the check removed the raw form")
	}
	volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: raw.ID})
	snap, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "snap", VolumeID: first.ID})
	if err != nil {
		t.Fatal(err)
	}
	if n := cachedOf(t, s, img.ID); n != 0 {
		t.Errorf("after that the raw form takes %d bytes", n)
	}
	holdsDisk(t, s, first, disk)
	if err := s.DeleteSnapshot(ctx, snap.ID); err != nil {
		t.Fatal(err)
	}
	// Not twice 48 MiB are free: the volume is made, and nothing kept.
	holdsDisk(t, s, volumeOf(t, s, of), disk)
	if n := cachedOf(t, s, img.ID); n != 0 {
		t.Errorf("without room for it a raw form takes %d bytes", n)
	}
	_, err = s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "snap", VolumeID: first.ID})
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("without room, and nothing to give up: %v", err)
	}
}

// Where blocks can be shared neither the raw form nor its volumes take more than one of them.
func TestRawFormShares(t *testing.T) {
	for kind, args := range sharing {
		t.Run(kind, func(t *testing.T) {
			fs := filesystem(t, kind, 512, args...)
			s := open(t, filepath.Join(fs, "state"))
			img, disk := packedImage(t, s, 64<<20)
			before := used(t, fs)
			for range 3 {
				holdsDisk(t, s, volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: img.ID}), disk)
			}
			if more := used(t, fs) - before; more > 72<<20 {
				t.Errorf("three volumes of 64 MiB take %d MiB", more>>20)
			}
		})
	}
}

// A conversion that is given up leaves nothing.
func TestCancelledConversion(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	img, _ := packedImage(t, s, 256<<20)
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: img.ID})
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(s.images.path(img.ID), rawNewName)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if fi, err := os.Stat(half); err == nil && fi.Size() > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not begin")
		}
	}
	if err := s.DeleteVolume(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ls", s.images.path(img.ID)).Output()
	if err != nil || string(out) != "data\nmeta.json\n" {
		t.Errorf("left: %q, %v", out, err)
	}
}
