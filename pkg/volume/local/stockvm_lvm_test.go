//go:build stockvm

package local

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/volumetest"
)

// thinPool makes a volume group with a thin pool of 1 GiB, and takes them away at the end.
func thinPool(t *testing.T) string {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	write(t, disk, nil)
	if err := os.Truncate(disk, 2<<30); err != nil {
		t.Fatal(err)
	}
	dev := command(t, "losetup", "--find", "--show", disk)
	group := "lxcboot-local"
	t.Cleanup(func() {
		command(t, "vgremove", "-q", "--yes", group)
		command(t, "pvremove", "-q", dev)
		command(t, "losetup", "--detach", dev)
	})
	command(t, "vgcreate", "-q", group, dev)
	command(t, "lvcreate", "-q", "--type", "thin-pool", "--size", "1G", "--name", "pool", group)
	return group + "/pool"
}

func lvmStore(t *testing.T, pool string) *Store {
	return openAs(t, t.TempDir(), Options{Host: here, Pool: pool, Run: lvmRun})
}

// lvNames are the logical volumes of a pool's group, but the pool.
func lvNames(t *testing.T) []string {
	return strings.Fields(command(t, "lvs", "--noheadings", "--options", "lv_name", "--select", "pool_lv=pool", "lxcboot-local"))
}

// TestConformanceOnLVM: a store on LVM does what one of files does.
func TestConformanceOnLVM(t *testing.T) {
	pool := thinPool(t)
	o := conformance
	o.Timeout = 10 * time.Minute
	o.ReadAt = readLV
	o.Elsewhere = func(t *testing.T, s volumetest.Store) volumetest.Store {
		t.Helper()
		return openAs(t, s.(*Store).dir, Options{Host: there, Pool: pool, Run: lvmRun})
	}
	volumetest.Run(t, func(t *testing.T) volumetest.Store { return lvmStore(t, pool) }, o)
}

// TestLVM: an image is written once, and what is made of it, of a snapshot or of a volume,
// shares its blocks; each goes with its logical volume.
func TestLVM(t *testing.T) {
	pool, ctx := thinPool(t), t.Context()
	s := lvmStore(t, pool)
	img := importRaw(t, s, fullFile(t, 64<<20))
	first := volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: img.ID})
	before, err := s.pool(pool).Usage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	second := volumeOf(t, s, volume.CreateVolume{Size: 2, ImageID: img.ID})
	snap, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "snap", VolumeID: second.ID})
	if err != nil {
		t.Fatal(err)
	}
	third := volumeOf(t, s, volume.CreateVolume{SnapshotID: snap.ID})
	fourth := volumeOf(t, s, volume.CreateVolume{SourceID: third.ID, Size: 3})
	after, err := s.pool(pool).Usage(ctx)
	if err != nil || after.Data > before.Data+0.5 {
		t.Errorf("four copies of 64 MiB: the pool was filled by %v %%, and is by %v, %v", before.Data, after.Data, err)
	}
	want, err := os.ReadFile(filepath.Join(s.images.path(img.ID), dataName))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []volume.Volume{first, second, third, fourth} {
		got := make([]byte, len(want)+1)
		readLV(t, s, v, got, 0)
		if !bytes.Equal(got[:len(want)], want) || got[len(want)] != 0 {
			t.Errorf("volume %s does not hold the image's disk, and zeros after it", v.ID)
		}
	}
	// A pool that is not the store's any more: volumes stay where they are, and can be copied
	// to files.
	files := openAs(t, s.dir, Options{Host: here, Run: lvmRun})
	copied := volumeOf(t, files, volume.CreateVolume{SourceID: second.ID})
	if copied.Pool != "" {
		t.Errorf("a copy without a pool is %+v", copied)
	}
	got := make([]byte, len(want))
	conformance.ReadAt(t, files, copied, got, 0)
	if !bytes.Equal(got, want) {
		t.Error("the copy in a file has another content")
	}
	back := volumeOf(t, s, volume.CreateVolume{SourceID: copied.ID})
	readLV(t, s, back, got, 0)
	if back.Pool != pool || !bytes.Equal(got, want) {
		t.Errorf("back in the pool: %+v", back)
	}
	// Of one that an instance writes to the content of one moment is exported.
	held, err := s.Reserve(ctx, second.ID, volume.Instance{ID: "instance"}, false)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := s.ExportVolume(ctx, volume.ExportVolume{VolumeID: second.ID, DiskFormat: formatRaw, To: out}); err != nil {
		t.Error(err)
	}
	if _, err := out.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was exported has another content, %v", err)
	}
	// What is being read so is no left-over.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- s.ExportVolume(ctx, volume.ExportVolume{VolumeID: second.ID, DiskFormat: formatRaw, To: w})
		w.Close()
	}()
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if did, err := s.Repair(ctx); err != nil || len(did) != 0 {
		t.Errorf("repair beside an export: %q, %v", did, err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := s.Detach(ctx, held); err != nil {
		t.Fatal(err)
	}
	if did, err := s.Repair(ctx); err != nil || len(did) != 0 {
		t.Errorf("left over: %q, %v", did, err)
	}
	if pruned, err := s.PruneImages(ctx); err != nil || len(pruned) != 1 {
		t.Errorf("pruned %v, %v", pruned, err)
	}
	fifth := volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: img.ID})
	for _, v := range []volume.Volume{first, second, third, fourth, fifth, copied, back} {
		if err := s.DeleteVolume(ctx, v.ID); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(s.DeleteSnapshot(ctx, snap.ID), s.DeleteImage(ctx, img.ID)); err != nil {
		t.Error(err)
	}
	if left := lvNames(t); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// TestLVMLeftOver: a logical volume without its volume, and an image's half made, go by
// repair; one of another store, and one that is nobody's, stay.
func TestLVMLeftOver(t *testing.T) {
	pool, ctx := thinPool(t), t.Context()
	s, other := lvmStore(t, pool), lvmStore(t, pool)
	img := importRaw(t, s, fullFile(t, 8<<20))
	v := volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: img.ID})
	blank := volumeOf(t, other, volume.CreateVolume{Size: 1})
	command(t, "lvcreate", "-q", "--type", "thin", "--thinpool", pool, "--virtualsize", "4M", "--name", "theirs", "lxcboot-local")
	if err := os.RemoveAll(s.volumes.path(v.ID)); err != nil {
		t.Fatal(err)
	}
	command(t, "lvchange", "-q", "--addtag", tagMaking, "lxcboot-local/"+lvName(img.ID))
	did, err := s.Repair(ctx)
	if err != nil || len(did) != 2 {
		t.Errorf("repaired: %q, %v", did, err)
	}
	left := lvNames(t)
	if len(left) != 2 || !strings.Contains(strings.Join(left, " "), lvName(blank.ID)) || !strings.Contains(strings.Join(left, " "), "theirs") {
		t.Errorf("left: %q", left)
	}
	volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: img.ID})
}
