package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// TestBombs holds images that are small and describe much to bounds of time, memory and
// disk.
func TestBombs(t *testing.T) {
	dir := t.TempDir()
	s, ctx := newStore(t), testCtx(t)
	begin := time.Now()

	// A terabyte of nothing costs nothing.
	qemu(t, dir, "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", "zeros.qcow2", "1T")
	img := importRaw(t, s, filepath.Join(dir, "zeros.qcow2"))
	v := volumeOf(t, s, volume.CreateVolume{Size: 1 << 10, ImageID: img.ID})
	if n := allocated(t, s.dataOf(v.ID)); n > 1<<20 {
		t.Errorf("a terabyte of zeros takes %d bytes", n)
	}

	// One byte over and over, packed about a thousand to one, is no more than the size
	// that the image says, and that the user has to give.
	write(t, filepath.Join(dir, "ones.raw"), bytes.Repeat([]byte{1}, 64<<20))
	qemu(t, dir, "convert", "-q", "-f", "raw", "-O", "qcow2", "-c", "-o", "cluster_size=2M", "ones.raw", "ones.qcow2")
	packed, err := os.ReadFile(filepath.Join(dir, "ones.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	img = importRaw(t, s, filepath.Join(dir, "ones.qcow2"))
	v = volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: img.ID})
	if n := allocated(t, s.dataOf(v.ID)); n < 64<<20 || n > 65<<20 {
		t.Errorf("64 MiB take %d bytes", n)
	}
	t.Logf("%d bytes became 64 MiB", allocated(t, filepath.Join(dir, "ones.qcow2")))

	// Every cluster of a terabyte is the same packed one: refused at the import.
	be := binary.BigEndian
	l1 := be.Uint64(packed[40:])
	l2 := be.Uint64(packed[l1:]) &^ (1<<63 | 511)
	cluster := be.Uint64(packed[l2:])
	be.PutUint64(packed[24:], 1<<39) // 512 GiB: one table of the second level
	for i := range uint64(1 << 18) {
		be.PutUint64(packed[l2+8*i:], cluster)
	}
	write(t, filepath.Join(dir, "same.qcow2"), packed)
	_, err = s.ImportImage(ctx, volume.ImportImage{Path: filepath.Join(dir, "same.qcow2")})
	if !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), "same.qcow2") {
		t.Errorf("one cluster in the place of all: %v", err)
	}

	if took := time.Since(begin); took > time.Minute {
		t.Errorf("it took %v", took)
	}
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &usage); err != nil || usage.Maxrss > 512<<10 {
		t.Errorf("a program took %d KiB, %v", usage.Maxrss, err)
	}
}

// TestAbsurdHeaders refuses sizes, counts and offsets that no tool writes, of real
// images, with one error that names the file.
func TestAbsurdHeaders(t *testing.T) {
	dir, _ := samples(t)
	qemu(t, dir, "convert", "-q", "-f", "raw", "-O", "qcow2", "raw.img", "snap.qcow2")
	qemu(t, dir, "snapshot", "-c", "one", "snap.qcow2")
	s, ctx := newStore(t), testCtx(t)
	all := bytes.Repeat([]byte{0xff}, 8)
	for name, change := range map[string]struct {
		of     string
		offset int
		with   []byte
	}{
		"l1 size":          {"v3.qcow2", 36, all[:4]},
		"l1 offset":        {"v3.qcow2", 40, all},
		"l1 unaligned":     {"v3.qcow2", 47, []byte{1}},
		"refcount offset":  {"v3.qcow2", 48, all},
		"refcount size":    {"v3.qcow2", 56, all[:4]},
		"snapshot count":   {"snap.qcow2", 60, all[:4]},
		"snapshot offset":  {"snap.qcow2", 64, all},
		"refcount order":   {"v3.qcow2", 96, all[:4]},
		"header length":    {"v3.qcow2", 100, all[:4]},
		"extension length": {"v3.qcow2", 116, all[:4]},
		"vmdk capacity":    {"mono.vmdk", 12, all},
		"vmdk descriptor":  {"mono.vmdk", 28, all},
		"vmdk length":      {"mono.vmdk", 36, all},
		"vmdk grain size":  {"mono.vmdk", 20, all},
		"vmdk tables":      {"mono.vmdk", 44, all[:4]},
		"vdi size":         {"dynamic.vdi", 0x170, all},
		"vdi blocks":       {"dynamic.vdi", 0x184, all[:4]},
		"vdi data":         {"dynamic.vdi", 0x158, all[:4]},
		"vdi map":          {"dynamic.vdi", 0x154, all[:4]},
		"vhdx regions":     {"disk.vhdx", 192<<10 + 8, all[:4]},
		"vhdx metadata":    {"disk.vhdx", 192<<10 + 16 + 16, all},
	} {
		t.Run(name, func(t *testing.T) {
			content, err := os.ReadFile(filepath.Join(dir, change.of))
			if err != nil {
				t.Fatal(err)
			}
			copy(content[change.offset:], change.with)
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			write(t, path, content)
			_, err = s.ImportImage(ctx, volume.ImportImage{Path: path})
			if !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), filepath.Base(path)) {
				t.Errorf("got %v", err)
			}
		})
	}
	// A snapshot inside is no other file: what counts is the disk as it is now.
	img := importRaw(t, s, filepath.Join(dir, "snap.qcow2"))
	volumeOf(t, s, volume.CreateVolume{Size: 1, ImageID: img.ID})
	if left, err := os.ReadDir(s.images.dir); err != nil || len(left) != 1 {
		t.Errorf("refused images left %v, %v", left, err)
	}
}
