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
	"github.com/lxcboot/lxcboot/pkg/volume/volumetest"
)

// filesystem mounts a new filesystem of its own for the test.
func filesystem(t testing.TB, kind string, mib int64, mkfs ...string) string {
	t.Helper()
	dir := t.TempDir()
	disk, target := filepath.Join(dir, "disk"), filepath.Join(dir, "fs")
	write(t, disk, nil)
	if err := os.Truncate(disk, mib<<20); err != nil {
		t.Fatal(err)
	}
	command(t, append(append([]string{"mkfs." + kind}, mkfs...), disk)...)
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { exec.Command("umount", target).Run() })
	command(t, "mount", "-t", kind, "-o", "loop", disk, target)
	return target
}

// command runs a command that must work. Others use loop devices at the same time
// and may take the one that it was about to use, so it is tried some times.
func command(t testing.TB, argv ...string) string {
	t.Helper()
	for try := 1; ; try++ {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err == nil {
			return strings.TrimSpace(string(out))
		}
		if try == 10 || argv[0] != "mount" && argv[0] != "losetup" {
			t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// used says how much of a filesystem is taken.
func used(t testing.TB, dir string) int64 {
	t.Helper()
	command(t, "sync", "-f", dir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// volumeOf makes a volume of an image and waits for it.
func volumeOf(t testing.TB, s *Store, req volume.CreateVolume) volume.Volume {
	t.Helper()
	v, err := s.CreateVolume(testCtx(t), req)
	if err == nil {
		v, err = s.WaitVolume(testCtx(t), v.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var sharing = map[string][]string{"btrfs": {"-q"}, "xfs": {"-q", "-m", "reflink=1"}}

// Where the filesystem can share blocks, every copy does: it takes next to no
// room, and the copies are independent all the same.
func TestReflink(t *testing.T) {
	for kind, args := range sharing {
		t.Run(kind, func(t *testing.T) {
			fs := filesystem(t, kind, 512, args...)
			s, ctx := open(t, filepath.Join(fs, "state")), testCtx(t)
			img := importRaw(t, s, fullFile(t, 64<<20))
			before := used(t, fs)
			v := volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: img.ID})
			clone := volumeOf(t, s, volume.CreateVolume{SourceID: v.ID, Size: 2})
			snap, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "snap", VolumeID: v.ID})
			if err != nil {
				t.Fatal(err)
			}
			restored := volumeOf(t, s, volume.CreateVolume{SnapshotID: snap.ID})
			if more := used(t, fs) - before; more > 8<<20 {
				t.Errorf("four copies of 64 MiB took %d MiB: blocks are not shared", more>>20)
			}
			image, err := os.ReadFile(filepath.Join(s.images.path(img.ID), dataName))
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(s.dataOf(v.ID), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("changed"), 0); err != nil {
				t.Fatal(err)
			}
			for what, id := range map[string]string{"the clone": clone.ID, "the volume from the snapshot": restored.ID} {
				got := make([]byte, len(image))
				conformance.ReadAt(t, s, volume.Volume{ID: id}, got, 0)
				if !bytes.Equal(got, image) {
					t.Errorf("%s does not hold the image", what)
				}
			}
			// Also of a volume that is in use, as it is at this moment.
			if _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false); err != nil {
				t.Fatal(err)
			}
			inUse := volumeOf(t, s, volume.CreateVolume{SourceID: v.ID})
			if _, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "in use", VolumeID: v.ID}); err != nil {
				t.Errorf("a snapshot of a volume in use: %v", err)
			}
			got := make([]byte, 8)
			conformance.ReadAt(t, s, inUse, got, 0)
			if string(got[:7]) != "changed" {
				t.Errorf("a clone of a volume in use holds %q", got)
			}
		})
	}
}

// The suite on filesystems that share blocks, on one that does not, and on one
// without extents.
func TestConformanceOnFilesystems(t *testing.T) {
	kinds := map[string][]string{"ext4": {"-q"}, "btrfs": {"-q"}, "xfs": {"-q", "-m", "reflink=1"}, "ext2": {"-q"}}
	for kind, args := range kinds {
		t.Run(kind, func(t *testing.T) {
			fs := filesystem(t, kind, 512, args...)
			volumetest.Run(t, func(t *testing.T) volumetest.Store { return open(t, filepath.Join(fs, "state")) }, conformance)
			left, err := open(t, filepath.Join(fs, "state")).Repair(testCtx(t))
			if err != nil || len(left) != 0 {
				t.Errorf("left over: %q, %v", left, err)
			}
		})
	}
}

// Holes are not written, from another filesystem and from a block device as well, and not
// read but for an image's checksum.
func TestImportKeepsHoles(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	const size = 1 << 30
	for what, dir := range map[string]string{
		"the same filesystem": t.TempDir(),
		"another filesystem":  filesystem(t, "xfs", 512, "-q"),
		"tmpfs":               tmpfs(t),
	} {
		path := filepath.Join(dir, "disk.raw")
		write(t, path, []byte("head"))
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("tail"), size-4); err != nil {
			t.Fatal(err)
		}
		f.Close()
		img := importRaw(t, s, path)
		start := time.Now()
		v := volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: img.ID})
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: 1 GiB of holes took %v", what, took)
		}
		got := make([]byte, 4)
		conformance.ReadAt(t, s, v, got, 0)
		if string(got) != "head" {
			t.Errorf("%s: the first bytes are %q", what, got)
		}
		conformance.ReadAt(t, s, v, got, size-4)
		if string(got) != "tail" {
			t.Errorf("%s: the last bytes are %q", what, got)
		}
		if n := allocated(t, s.dataOf(v.ID)); n > 1<<20 {
			t.Errorf("%s: the volume takes %d bytes", what, n)
		}
	}

	path := rawFile(t, 64<<20)
	dev := command(t, "losetup", "--find", "--show", path)
	t.Cleanup(func() { exec.Command("losetup", "--detach", dev).Run() })
	img, err := s.ImportImage(ctx, volume.ImportImage{Path: dev})
	if err != nil {
		t.Fatalf("importing a block device: %v", err)
	}
	data := filepath.Join(s.images.path(img.ID), dataName)
	if sum := command(t, "sha512sum", path)[:128]; img.Checksum != "sha512:"+sum {
		t.Errorf("its checksum is %s, and should be %s", img.Checksum, sum)
	}
	if fi, err := os.Stat(data); err != nil || fi.Size() != 64<<20 || img.Size != 64<<20 || allocated(t, data) > 1<<20 {
		t.Errorf("a block device became %+v, a file of %d bytes that takes %d", img, fi.Size(), allocated(t, data))
	}
	if b, err := os.ReadFile(data); err != nil || string(b[:7]) != "content" {
		t.Errorf("it holds %q, %v", b[:7], err)
	}
}

func tmpfs(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	command(t, "mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", dir)
	return dir
}

// A full disk gives one clear error, and the room back.
func TestNoSpace(t *testing.T) {
	fs := filesystem(t, "ext4", 96, "-q", "-m", "0")
	s, ctx := open(t, filepath.Join(fs, "state")), testCtx(t)
	img := importRaw(t, s, fullFile(t, 40<<20))
	v := volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: img.ID})
	before := used(t, fs)

	full := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, unix.ENOSPC) || strings.Count(err.Error(), "does not fit") > 1 || !strings.Contains(err.Error(), s.dir) || !strings.Contains(err.Error(), "free") {
			t.Errorf("%s: %v", what, err)
		}
		if now := used(t, fs); now > before+1<<20 {
			t.Errorf("%s: %d KiB more are taken", what, (now-before)>>10)
		}
	}
	_, err := s.ImportImage(ctx, volume.ImportImage{Name: "big", Path: fullFile(t, 40<<20)})
	full("import", err)
	_, err = s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "snap", VolumeID: v.ID})
	full("snapshot", err)
	full("check", s.CheckCreate(ctx, []volume.CreateVolume{{Size: 1, ImageID: img.ID}}))

	dir := t.TempDir()
	qemu(t, dir, "convert", "-f", "raw", "-O", "qcow2", "-c", fullFile(t, 64<<20), filepath.Join(dir, "c.qcow2"))
	packed := importRaw(t, s, filepath.Join(dir, "c.qcow2"))
	before = used(t, fs)
	for what, id := range map[string]string{"raw": img.ID, "qcow2": packed.ID} {
		bad, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: id})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		_, err = s.WaitVolume(ctx, bad.ID)
		var state *volume.StateError
		if !errors.As(err, &state) || state.Status != volume.StatusError || !strings.Contains(state.Detail, "does not fit") || !strings.Contains(state.Detail, s.dir) {
			t.Errorf("%s: waiting for a volume without room: %v", what, err)
		}
		if n := allocated(t, s.dataOf(bad.ID)); n != 0 {
			t.Errorf("%s: the failed volume takes %d bytes", what, n)
		}
		if err := s.DeleteVolume(ctx, bad.ID); err != nil {
			t.Errorf("%s: deleting it: %v", what, err)
		}
	}
	if now := used(t, fs); now > before+1<<20 {
		t.Errorf("failed volumes left %d KiB", (now-before)>>10)
	}

	// Not a block left: nothing works, everything says why, and no record is lost.
	filler, err := os.Create(filepath.Join(fs, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for chunk := make([]byte, 1<<20); len(chunk) > 0; {
		if _, err := filler.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
	for what, call := range map[string]func() error{
		"create":  func() error { _, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1}); return err },
		"reserve": func() error { _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false); return err },
		"import": func() error {
			_, err := s.ImportImage(ctx, volume.ImportImage{Path: rawFile(t, 1<<20)})
			return err
		},
	} {
		if err := call(); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s on a full disk: %v", what, err)
		}
	}
	if got, err := s.Volume(ctx, v.ID); err != nil || got.Status != volume.StatusAvailable {
		t.Errorf("after that the volume is %+v, %v", got, err)
	}
	if err := s.DeleteVolume(ctx, v.ID); err != nil {
		t.Errorf("deleting on a full disk: %v", err)
	}
	if left, err := s.Repair(ctx); err != nil || len(left) != 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
}
