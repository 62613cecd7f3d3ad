package local

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/blockdev"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/test/host"
)

// looped is a loop device on a file of its own.
func looped(t *testing.T, o loop.Options) (device, file string) {
	t.Helper()
	file = rawFile(t, 4<<20)
	return loopOf(t, file, o), file
}

func loopOf(t *testing.T, file string, o loop.Options) string {
	t.Helper()
	dev, f, err := loop.Attach(testCtx(t), file, o)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	t.Cleanup(func() {
		if err := loop.Detach(dev); err != nil {
			t.Error(err)
		}
	})
	return dev.Path
}

func manage(t *testing.T, s *Store, device, name string) volume.Volume {
	t.Helper()
	v, err := s.ManageVolume(testCtx(t), volume.ManageVolume{Device: device, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// refusal holds an error against the kind and the words that it should have.
func refusal(t *testing.T, err error, kind error, words string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(fmt.Sprint(err), words) {
		t.Errorf("%v\nis no %v with %q", err, kind, words)
	}
}

// connected gives the connection of a volume, as an instance that takes it has it.
func connected(t *testing.T, s *Store, v volume.Volume) volume.Connection {
	t.Helper()
	a, err := s.Reserve(testCtx(t), v.ID, volume.Instance{ID: "web1"}, false)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := s.Connect(testCtx(t), a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Detach(testCtx(t), a) })
	return conn
}

func TestManageLoop(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	device, file := looped(t, loop.Options{})
	v := manage(t, s, device, "web1")
	if v.Size != 1 || v.Bytes() != 4<<20 || v.Status != volume.StatusAvailable || v.Bootable || v.Managed.Path != file {
		t.Errorf("%+v %+v", v, v.Managed)
	}
	for _, ref := range []string{v.ID, "web1", device} {
		if found, err := s.Volume(ctx, ref); err != nil || found.ID != v.ID {
			t.Errorf("%s is %+v, %v", ref, found, err)
		}
	}
	conn := connected(t, s, v)
	if conn.Driver != Driver || conn.Data["device_path"] != file || conn.Data["hold"] != nil || conn.Data["limit"] != nil {
		t.Errorf("%+v", conn)
	}
	_, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{VolumeID: v.ID})
	refusal(t, err, volume.ErrInUse, "stop the instance, or detach the volume")
	refusal(t, s.DeleteVolume(ctx, v.ID), volume.ErrInUse, "holds it")
	refusal(t, s.UnmanageVolume(ctx, v.ID), volume.ErrInUse, "holds it")
	all, _ := s.AttachmentsOf(ctx, v.ID, "")
	if err := s.Detach(ctx, all[0].ID); err != nil {
		t.Fatal(err)
	}
	refusal(t, s.DeleteVolume(ctx, v.ID), volume.ErrManaged, "volume unmanage")
	_, err = s.ExtendVolume(ctx, v.ID, 2, "")
	refusal(t, err, volume.ErrManaged, "without --size")

	// Copies have the content, and are of whole GiB.
	snap, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "snap", VolumeID: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	made, err := s.CreateVolume(ctx, volume.CreateVolume{SourceID: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitVolume(ctx, made.ID); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(s.snapshots.path(snap.ID), dataName), s.dataOf(made.ID)} {
		head := make([]byte, 7)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.ReadAt(head, 0)
		if fi, _ := f.Stat(); err != nil || string(head) != "content" || fi.Size() != 1<<30 {
			t.Errorf("%s has %q and %d bytes, %v", path, head, fi.Size(), err)
		}
		f.Close()
	}

	// It became larger, and takes note of that; then another file is in its place.
	if err := os.Truncate(file, 5<<20); err != nil {
		t.Fatal(err)
	}
	if v, err = s.ExtendVolume(ctx, v.ID, 0, ""); err != nil || v.Bytes() != 5<<20 {
		t.Errorf("%+v, %v", v.Managed, err)
	}
	if err := os.Truncate(file, 1<<20); err != nil {
		t.Fatal(err)
	}
	_, err = s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
	refusal(t, err, volume.ErrConflict, "has 1048576 bytes, and should have 5242880")
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
	refusal(t, err, volume.ErrNotFound, "no such file")
	write(t, file, bytes.Repeat([]byte{1}, 5<<20))
	_, err = s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
	refusal(t, err, volume.ErrConflict, "another file by now")
	if err := s.UnmanageVolume(ctx, v.ID); err != nil {
		t.Error(err)
	}
	refusal(t, s.UnmanageVolume(ctx, v.ID), volume.ErrNotFound, "not found")
	if did, err := s.Repair(ctx); err != nil || len(did) > 0 {
		t.Errorf("repair: %q, %v", did, err)
	}
}

// TestManagePart: two parts of a file are two volumes, and what overlaps is refused.
func TestManagePart(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	first, file := looped(t, loop.Options{Offset: 1 << 20, SizeLimit: 1 << 20})
	second, both := loopOf(t, file, loop.Options{Offset: 2 << 20, SizeLimit: 1 << 20, ReadOnly: true}), loopOf(t, file, loop.Options{})
	a, b := manage(t, s, first, ""), manage(t, s, second, "")
	_, err := s.ManageVolume(ctx, volume.ManageVolume{Device: both})
	refusal(t, err, volume.ErrConflict, "is managed already")
	if !b.ReadOnly || a.ReadOnly {
		t.Error("a device that cannot be written to is so")
	}
	conn := connected(t, s, b)
	if conn.Data["offset"] != int64(2<<20) || conn.Data["limit"] != int64(1<<20) || !conn.ReadOnly {
		t.Errorf("%+v", conn)
	}
	if found, err := s.Volume(ctx, second); err != nil || found.ID != b.ID {
		t.Errorf("%+v, %v", found, err)
	}
	_, err = s.Volume(ctx, both)
	refusal(t, err, volume.ErrNotFound, both)
	made, err := s.CreateVolume(ctx, volume.CreateVolume{SourceID: a.ID})
	if err == nil {
		_, err = s.WaitVolume(ctx, made.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []volume.Volume{a, made} {
		if err := errors.Join(s.UnmanageVolume(ctx, v.ID)); (err == nil) != (v.ID == a.ID) {
			t.Errorf("%s: %v", v.ID, err)
		}
	}
}

func TestManageRefuses(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	device, file := looped(t, loop.Options{})
	try := func(device string) error {
		_, err := s.CheckManage(ctx, volume.ManageVolume{Device: device})
		_, again := s.ManageVolume(ctx, volume.ManageVolume{Device: device})
		if fmt.Sprint(err) != fmt.Sprint(again) {
			t.Errorf("it was checked for: %v\nand refused for: %v", err, again)
		}
		return err
	}
	refusal(t, try("/dev/nowhere"), volume.ErrNotFound, "there is no device")
	refusal(t, try(file), failure.ErrInvalid, "is no block device")
	refusal(t, try(filepath.Dir(file)), failure.ErrInvalid, "is no block device")
	_, err := s.ManageVolume(ctx, volume.ManageVolume{Device: device, Name: "a\nb"})
	refusal(t, err, failure.ErrInvalid, "control character")
	// Its own volume's file; a file that is gone; one that is open, by a program or a device.
	own := blank(t, s)
	refusal(t, try(loopOf(t, s.dataOf(own.ID), loop.Options{})), volume.ErrConflict, "lxcboot's own")
	gone, path := looped(t, loop.Options{})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	refusal(t, try(gone), volume.ErrConflict, "no such file any more")
	hold := exec.Command("sh", "-c", "exec 7<>"+file+"; echo; read x")
	in, _ := hold.StdinPipe()
	out, _ := hold.StdoutPipe()
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = out.Read(make([]byte, 1))
	refusal(t, try(device), volume.ErrInUse, "open")
	in.Close()
	_ = hold.Wait()
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	refusal(t, try(device), volume.ErrInUse, "is used")
	f.Close()
	if err := try(device); err != nil {
		t.Error(err)
	}
}

// TestManageOnce: of many who manage a device at once one does.
func TestManageOnce(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	device, _ := looped(t, loop.Options{})
	var all sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		all.Go(func() {
			other := open(t, s.dir)
			_, errs[i] = other.ManageVolume(ctx, volume.ManageVolume{Device: device, Name: fmt.Sprint(i)})
		})
	}
	all.Wait()
	done := 0
	for _, err := range errs {
		if err == nil {
			done++
		} else if !errors.Is(err, volume.ErrConflict) {
			t.Error(err)
		}
	}
	if all, err := s.Volumes(ctx); done != 1 || len(all) != 1 {
		t.Errorf("%d did, and there are %d, %v", done, len(all), err)
	}
}

// ram is a disk in memory.
func ram(t *testing.T) string {
	t.Helper()
	path, remove, err := host.RAMDisk(8 << 20)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("this kernel makes no disks in memory (zram): %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	return path
}

// named makes a tree in which disks in memory are logical volumes of these UUIDs, for a
// store to look at; empty: there is none.
func named(t *testing.T, s *Store, uuids map[string]string) {
	t.Helper()
	root := t.TempDir()
	for path, uuid := range uuids {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(root, "sys/dev/block", fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
		for name, text := range map[string]string{"dm/uuid": uuid, "size": "16384", "ro": "0"} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, name), []byte(text))
		}
		// The kernel's name is that of the directory.
		real := filepath.Join(root, "sys/devices", filepath.Base(path))
		if err := errors.Join(os.MkdirAll(filepath.Dir(real), 0o755), os.Rename(dir, real), os.Symlink(real, dir), os.MkdirAll(filepath.Join(root, "dev"), 0o755), unix.Mknod(filepath.Join(root, "dev", filepath.Base(path)), unix.S_IFBLK|0o600, int(st.Rdev))); err != nil {
			t.Fatal(err)
		}
	}
	s.o.Devices = blockdev.Host{Root: root}
}

// TestManageDevice: a device is found again by its UUID, whatever it is called, and not by
// what it was called.
func TestManageDevice(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	a, b := ram(t), ram(t)
	content := map[string]string{}
	s.o.Content = func(path string) string { return content[filepath.Base(path)] }
	named(t, s, map[string]string{a: "LVM-one", b: "LVM-two"})
	content[filepath.Base(a)] = "fs-1"
	v := manage(t, s, a, "lv")
	path := func(d string) string { return filepath.Join(s.o.Devices.Root, d) }
	conn := connected(t, s, v)
	if conn.Data["device_path"] != path(a) || conn.Data["hold"] != true {
		t.Errorf("%+v", conn)
	}
	all, _ := s.AttachmentsOf(ctx, v.ID, "")
	if err := s.Detach(ctx, all[0].ID); err != nil {
		t.Fatal(err)
	}
	// The host restarts, and the names are the other way round.
	named(t, s, map[string]string{a: "LVM-two", b: "LVM-one"})
	content = map[string]string{filepath.Base(b): "fs-1"}
	if conn := connected(t, s, v); conn.Data["device_path"] != path(b) {
		t.Errorf("%+v", conn)
	}
	all, _ = s.AttachmentsOf(ctx, v.ID, "")
	// What was made on it while it was used here is what is on it.
	content[filepath.Base(b)] = "fs-2"
	if err := s.Detach(ctx, all[0].ID); err != nil {
		t.Fatal(err)
	}
	if v, _ = s.Volume(ctx, v.ID); v.Managed.Content != "fs-2" {
		t.Errorf("%+v", v.Managed)
	}
	// And what was made otherwise is not what was there.
	content[filepath.Base(b)] = "fs-3"
	_, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
	refusal(t, err, volume.ErrConflict, "its UUID was fs-2")
	content[filepath.Base(b)] = "fs-2"

	// In use; two of one name; and gone.
	f, err := os.OpenFile(b, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
	refusal(t, err, volume.ErrInUse, "for itself alone")
	f.Close()
	named(t, s, map[string]string{a: "LVM-one", b: "LVM-one"})
	_, err = s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
	refusal(t, err, volume.ErrConflict, "several that are called so")
	named(t, s, map[string]string{a: "LVM-three"})
	_, err = s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
	refusal(t, err, volume.ErrNotFound, "(dm-uuid-LVM-one), and this host has no such device now")
	if err := s.UnmanageVolume(ctx, v.ID); err != nil {
		t.Error(err)
	}
	// Without a name that stays the filesystem has to tell it.
	named(t, s, map[string]string{a: "", b: ""})
	_, err = s.ManageVolume(ctx, volume.ManageVolume{Device: a})
	refusal(t, err, failure.ErrInvalid, "could be known again")
	content = map[string]string{filepath.Base(a): "fs-4"}
	v = manage(t, s, a, "")
	content = map[string]string{filepath.Base(b): "fs-4"}
	if conn := connected(t, s, v); conn.Data["device_path"] != path(b) {
		t.Errorf("%+v", conn)
	}
}

// TestManageCopies reads a block device that nobody else has meanwhile.
func TestManageCopies(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	a := ram(t)
	if err := os.WriteFile(a, []byte("content"), 0); err != nil {
		t.Fatal(err)
	}
	named(t, s, map[string]string{a: "LVM-one"})
	v := manage(t, s, a, "")
	made, err := s.CreateVolume(ctx, volume.CreateVolume{SourceID: v.ID})
	if err == nil {
		_, err = s.WaitVolume(ctx, made.ID)
	}
	head := make([]byte, 7)
	if err != nil {
		t.Fatal(err)
	}
	conformance.ReadAt(t, s, made, head, 0)
	if string(head) != "content" {
		t.Errorf("the copy has %q", head)
	}
	if err := exec.Command("mke2fs", "-q", "-F", a).Run(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", a, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, err = s.CreateSnapshot(ctx, volume.CreateSnapshot{VolumeID: v.ID})
	refusal(t, err, volume.ErrInUse, "it is mounted at "+dir)
	if err := exec.Command("umount", dir).Run(); err != nil {
		t.Fatal(err)
	}
}
