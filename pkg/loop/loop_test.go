package loop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// image makes a file of the size, whose sectors of 512 bytes begin with their
// number.
func image(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	data := make([]byte, size)
	for i := int64(0); i+512 <= size; i += 512 {
		copy(data[i:], fmt.Sprintf("sector %d.", i/512))
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func attached(t testing.TB, path string, o Options) (Device, *os.File) {
	t.Helper()
	dev, f, err := Attach(context.Background(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		if err := Detach(dev); err != nil {
			t.Error(err)
		}
	})
	return dev, f
}

// free waits until no loop device has the file behind it.
func free(t testing.TB, path string) {
	t.Helper()
	for range 200 {
		found, err := Find(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s still has a loop device", path)
}

func TestAttach(t *testing.T) {
	path := image(t, 1<<20)
	dev, f := attached(t, path, Options{Offset: 4096, SizeLimit: 8192})
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size != 8192 {
		t.Errorf("the device has %d bytes, %v", size, err)
	}
	buf := make([]byte, 9)
	if _, err := f.ReadAt(buf, 512); err != nil || string(buf) != "sector 9." {
		t.Errorf("its second sector is %q, %v", buf, err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte("x"), 512), 0); err != nil {
		t.Error(err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	data, _ := os.ReadFile(path)
	if data[4096] != 'x' || data[4095] == 'x' {
		t.Error("the write did not go to the offset")
	}

	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	found, err := Find(path)
	if err != nil || len(found) != 1 || found[0] != dev {
		t.Fatalf("find: %+v, %v; attached %+v", found, err, dev)
	}
	if dev.BackingDev != st.Dev || dev.BackingIno != st.Ino || dev.BackingFile != path || dev.Offset != 4096 || dev.SizeLimit != 8192 || dev.ReadOnly || dev.Autoclear {
		t.Errorf("%+v", dev)
	}
	text, err := json.Marshal(dev)
	if err != nil {
		t.Fatal(err)
	}
	var back Device
	if err := json.Unmarshal(text, &back); err != nil || back != dev {
		t.Errorf("as JSON it came back as %+v, %v", back, err)
	}
}

func TestSectorSize(t *testing.T) {
	_, f := attached(t, image(t, 1<<20), Options{SectorSize: 4096})
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil || n != 4096 {
		t.Errorf("sectors of %d bytes, %v", n, err)
	}
}

func TestReadOnly(t *testing.T) {
	path := image(t, 1<<20)
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	dev, f := attached(t, path, Options{ReadOnly: true})
	if !dev.ReadOnly {
		t.Error("the device is not read-only")
	}
	ro, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET)
	if err != nil || ro != 1 {
		t.Errorf("BLKROGET: %d, %v", ro, err)
	}
	if w, err := os.OpenFile(dev.Path, os.O_WRONLY, 0); err == nil {
		if _, err := w.WriteAt(make([]byte, 512), 0); err == nil {
			t.Error("a read-only device was written to")
		}
		w.Close()
	}
}

func TestAutoclear(t *testing.T) {
	path := image(t, 1<<20)
	dev, f := attached(t, path, Options{Autoclear: true})
	if !dev.Autoclear {
		t.Error("autoclear is not set")
	}
	if found, _ := Find(path); len(found) != 1 {
		t.Errorf("while it is open there are %d devices", len(found))
	}
	f.Close()
	free(t, path)
}

func TestKeep(t *testing.T) {
	path := image(t, 1<<20)
	dev, f := attached(t, path, Options{Autoclear: true})
	if err := Keep(f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	time.Sleep(50 * time.Millisecond)
	found, err := Find(path)
	if err != nil || len(found) != 1 || found[0].Autoclear {
		t.Fatalf("a device that is kept is %+v, %v", found, err)
	}
	if err := Detach(dev); err != nil {
		t.Fatal(err)
	}
	if found, _ := Find(path); len(found) != 0 {
		t.Errorf("Detach returned, and there is still %+v", found)
	}
}

// TestParallel runs twenty for free devices at once, several times: each gets one
// of its own.
func TestParallel(t *testing.T) {
	const n, rounds = 20, 5
	dir := t.TempDir()
	for round := range rounds {
		var wg sync.WaitGroup
		devices, files, errs := make([]Device, n), make([]*os.File, n), make([]error, n)
		for i := range n {
			path := filepath.Join(dir, fmt.Sprint("disk", i))
			if err := os.WriteFile(path, make([]byte, 1<<16), 0o600); err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				devices[i], files[i], errs[i] = Attach(context.Background(), path, Options{Autoclear: true})
			})
		}
		wg.Wait()
		seen := map[int]bool{}
		for i := range n {
			if errs[i] != nil {
				t.Errorf("round %d: %v", round, errs[i])
				continue
			}
			if seen[devices[i].Number] {
				t.Errorf("round %d: two files behind %s", round, devices[i].Path)
			}
			seen[devices[i].Number] = true
		}
		for i := range n {
			if files[i] == nil {
				continue
			}
			wg.Go(func() {
				files[i].Close()
				if err := Detach(devices[i]); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i := range n {
			if found, err := Find(filepath.Join(dir, fmt.Sprint("disk", i))); err != nil || len(found) != 0 {
				t.Errorf("round %d: left %+v, %v", round, found, err)
			}
		}
	}
}

func TestAttachRefuses(t *testing.T) {
	path := image(t, 1<<20)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, path string
		o          Options
		want       string
	}{
		{"misaligned offset", path, Options{Offset: 100}, "not whole sectors of 512"},
		{"misaligned limit", path, Options{SizeLimit: 513}, "not whole sectors of 512"},
		{"misaligned for 4096", path, Options{Offset: 512, SectorSize: 4096}, "not whole sectors of 4096"},
		{"negative offset", path, Options{Offset: -512}, "not whole sectors"},
		{"sector size", path, Options{SectorSize: 1000}, "sector size of 1000"},
		{"past the end", path, Options{Offset: 1 << 20}, "it has 1048576 bytes"},
		{"too long", path, Options{Offset: 512, SizeLimit: 1 << 20}, "it has 1048576 bytes"},
		{"overflow", path, Options{Offset: 512, SizeLimit: 1<<63 - 512}, "it has 1048576 bytes"},
		{"directory", dir, Options{ReadOnly: true}, "neither a regular file nor a block device"},
		{"fifo", fifo, Options{}, "neither a regular file nor a block device"},
		{"device", "/dev/null", Options{}, "neither a regular file nor a block device"},
		{"empty file", empty, Options{}, "it has 0 bytes"},
		{"missing", filepath.Join(dir, "missing"), Options{}, "no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, f, err := Attach(context.Background(), test.path, test.o)
			if err == nil {
				f.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	if found, _ := Find(path); len(found) != 0 {
		t.Errorf("a refused attach left %+v", found)
	}
}

// TestNode makes the node of a device anew, as where no devtmpfs does.
func TestNode(t *testing.T) {
	dev, f := attached(t, image(t, 1<<20), Options{})
	f.Close()
	if err := os.Remove(dev.Path); err != nil {
		t.Fatal(err)
	}
	again, err := openNode(dev.Number, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if now, err := identify(again, dev.Number); err != nil || now != dev {
		t.Errorf("the new node is of %+v, %v", now, err)
	}
	if _, err := openNode(1<<19, os.O_RDONLY); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a node of no device: %v", err)
	}
}

func TestDetachIdentity(t *testing.T) {
	mine, other := image(t, 1<<20), image(t, 1<<20)
	dev, f := attached(t, mine, Options{})
	for name, change := range map[string]func(*Device){
		"inode":  func(d *Device) { d.BackingIno++ },
		"device": func(d *Device) { d.BackingDev++ },
		"offset": func(d *Device) { d.Offset = 512 },
	} {
		wrong := dev
		change(&wrong)
		if err := Detach(wrong); err != nil {
			t.Errorf("another %s: %v", name, err)
		}
		if found, _ := Find(mine); len(found) != 1 {
			t.Fatalf("a device was detached by one with another %s", name)
		}
	}
	f.Close()
	if err := Detach(dev); err != nil {
		t.Fatal(err)
	}
	if err := Detach(dev); err != nil {
		t.Errorf("detached twice: %v", err)
	}
	// The number comes back for another file: the old record leaves it alone.
	_, _ = attached(t, other, Options{})
	if err := Detach(dev); err != nil {
		t.Error(err)
	}
	if found, _ := Find(other); len(found) != 1 {
		t.Error("another file's device was detached")
	}
	if err := Detach(Device{Number: 1 << 19, Path: "/dev/loop524288"}); err != nil {
		t.Errorf("a number that never was: %v", err)
	}
}

// TestDetachWaits detaches a device that another opener closes a little later.
func TestDetachWaits(t *testing.T) {
	path := image(t, 1<<20)
	dev, f := attached(t, path, Options{})
	go func() {
		time.Sleep(150 * time.Millisecond)
		f.Close()
	}()
	if err := Detach(dev); err != nil {
		t.Fatal(err)
	}
	if found, _ := Find(path); len(found) != 0 {
		t.Errorf("Detach returned too early: %+v", found)
	}
}

// TestAttachEnds ends the race for a device when the context does.
func TestAttachEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	path := image(t, 1<<20)
	_, f, err := Attach(ctx, path, Options{Autoclear: true})
	// A device that is free at once needs no wait.
	if err == nil {
		f.Close()
		free(t, path)
	} else if !errors.Is(err, ErrBusy) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestLostRace(t *testing.T) {
	for err, want := range map[error]bool{unix.EBUSY: true, unix.EAGAIN: true, unix.ENXIO: true, unix.EINVAL: false, unix.EPERM: false} {
		if got := lostRace(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestStatDev(t *testing.T) {
	for _, d := range [][2]uint32{{0, 45}, {7, 3}, {8, 255}, {8, 256}, {254, 0}, {4095, 1<<20 - 1}} {
		kernel := uint64(d[1]&0xff | d[0]<<8 | (d[1]&^0xff)<<12)
		if got := statDev(kernel); got != unix.Mkdev(d[0], d[1]) {
			t.Errorf("%v: %x", d, got)
		}
	}
}

// TestDetachInVain: a device that others have open all the while stays when they close it.
func TestDetachInVain(t *testing.T) {
	defer func(was time.Duration) { detachLimit = was }(detachLimit)
	detachLimit = 200 * time.Millisecond
	path := image(t, 1<<20)
	dev, f := attached(t, path, Options{})
	if err := Detach(dev); !errors.Is(err, ErrInUse) {
		t.Fatalf("detached under an opener: %v", err)
	}
	f.Close()
	if found, err := Find(path); err != nil || len(found) != 1 || found[0].Autoclear {
		t.Errorf("it went with its last opener, or will: %+v, %v", found, err)
	}
	if err := Detach(dev); err != nil {
		t.Error(err)
	}
}

// TestResize makes the file behind two devices larger: one has all of it, and one a part.
func TestResize(t *testing.T) {
	path := image(t, 1<<20)
	whole, _ := attached(t, path, Options{})
	part, _ := attached(t, path, Options{Offset: 65536, SizeLimit: 65536})
	if err := os.Truncate(path, 2<<20); err != nil {
		t.Fatal(err)
	}
	size := func(d Device) int64 {
		t.Helper()
		f, err := os.Open(d.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		n, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, test := range []struct{ offset, limit, whole, part int64 }{{0, 0, 2 << 20, 65536}, {65536, 131072, 2 << 20, 131072}} {
		found, err := Resize(path, test.offset, test.limit)
		if err != nil || len(found) != 1 {
			t.Fatalf("%d devices, %v", len(found), err)
		}
		if w, p := size(whole), size(part); w != test.whole || p != test.part {
			t.Errorf("the devices have %d and %d bytes, and not %d and %d", w, p, test.whole, test.part)
		}
	}
}

// TestOnDevice: a loop device on a block device is found by that one's number, and can have
// its sectors; one on a file that is there is no loop device on what the file lies on.
func TestOnDevice(t *testing.T) {
	lower, _ := attached(t, image(t, 1<<20), Options{SectorSize: 4096})
	upper, f := attached(t, lower.Path, Options{SameSectors: true, Mark: "a mark"})
	var st unix.Stat_t
	if err := unix.Stat(lower.Path, &st); err != nil {
		t.Fatal(err)
	}
	if upper.BackingRdev != st.Rdev || lower.BackingRdev != 0 || upper.Mark != "a mark" || lower.Mark != "" {
		t.Errorf("%+v on %+v", upper, lower)
	}
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err != nil || n != 4096 {
		t.Errorf("sectors of %d bytes, %v", n, err)
	}
	other := filepath.Join(t.TempDir(), "node")
	if err := unix.Mknod(other, unix.S_IFBLK|0o600, int(st.Rdev)); err != nil {
		t.Fatal(err)
	}
	if found, err := Find(other); err != nil || len(found) != 1 || found[0] != upper {
		t.Errorf("by another node: %+v, %v", found, err)
	}
	if found, err := Marked("a mark"); err != nil || len(found) != 1 || found[0] != upper {
		t.Errorf("by its mark: %+v, %v", found, err)
	}
	if dev, is, err := At(st.Rdev); err != nil || !is || dev != lower {
		t.Errorf("%+v, %v, %v", dev, is, err)
	}
	if _, is, err := At(unix.Mkdev(8, 0)); is || err != nil {
		t.Errorf("a disk is a loop device: %v", err)
	}
	if _, _, err := Attach(context.Background(), image(t, 1<<20), Options{SameSectors: true}); err == nil {
		t.Error("a file has sectors")
	}
	if _, _, err := Attach(context.Background(), image(t, 1<<20), Options{Mark: strings.Repeat("x", 60)}); err == nil {
		t.Error("a mark that does not fit")
	}
}
