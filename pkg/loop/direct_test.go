package loop

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// cached is how many bytes of a file are in the page cache.
func cached(t *testing.T, path string) int {
	t.Helper()
	out, err := exec.Command("fincore", "--noheadings", "--bytes", "--output", "RES", path).Output()
	n, err2 := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil || err2 != nil {
		t.Fatalf("fincore: %v, %v", err, err2)
	}
	return n
}

// What is read through a device is in memory once with direct I/O, and twice without; and
// both ways what was last written is what is read, whichever way it was written.
func TestDirectIO(t *testing.T) {
	for _, direct := range []bool{false, true} {
		path := image(t, 16<<20)
		dev, f := attached(t, path, Options{DirectIO: direct})
		if dev.DirectIO != direct {
			t.Fatalf("asked for %v, it is %v", direct, dev.DirectIO)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		before := cached(t, path)
		data := make([]byte, 16<<20)
		if n, err := f.ReadAt(data, 0); n != len(data) || !bytes.HasPrefix(data[16<<20-512:], []byte("sector 32767.")) {
			t.Fatalf("%d bytes, %v", n, err)
		}
		if after := cached(t, path); (after-before > 8<<20) == direct {
			t.Errorf("direct %v: %d bytes of the file are in memory, after %d", direct, after, before)
		}
		// Written by the device, read of the file.
		if _, err := f.WriteAt(bytes.Repeat([]byte("d"), 4096), 1<<20); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4096)
		if _, err := file.ReadAt(got, 1<<20); err != nil || got[0] != 'd' || got[4095] != 'd' {
			t.Errorf("direct %v: the file holds %q, %v", direct, got[:1], err)
		}
	}
}

// What was written to a file, and is not on disk yet, is there.
func TestDirectIOAfterWriting(t *testing.T) {
	path := image(t, 1<<20)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte("new"), 4096); err != nil {
		t.Fatal(err)
	}
	_, f := attached(t, path, Options{DirectIO: true, ReadOnly: true})
	got := make([]byte, 4096)
	if _, err := f.ReadAt(got, 4096); err != nil || string(got[:3]) != "new" {
		t.Errorf("%q, %v", got[:3], err)
	}
}

// Where the file's filesystem has larger sectors than the device, there is no direct I/O: the
// device says so, and works.
func TestDirectIOFallsBack(t *testing.T) {
	outer := image(t, 64<<20)
	dev, _ := attached(t, outer, Options{SectorSize: 4096})
	if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", dev.Path).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	dir := t.TempDir()
	if err := unix.Mount(dev.Path, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	path := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	inner, f, err := Attach(t.Context(), path, Options{DirectIO: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		f.Close()
		if err := Detach(inner); err != nil {
			t.Error(err)
		}
	}()
	got := make([]byte, 512)
	if _, err := f.ReadAt(got, 512); err != nil || got[0] != 'x' || inner.DirectIO {
		t.Errorf("%q, %v, direct %v", got[:1], err, inner.DirectIO)
	}
}
