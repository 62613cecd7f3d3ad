package rootfs

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// larger makes an image larger, sparse.
func larger(t testing.TB, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// tables are partition tables of images, with the size to which each is made larger, and
// where its first partition ends then.
var tables = map[string]struct {
	script    string
	size, end int64 // MiB
}{
	"gpt":                {"label: gpt\n1: 2048,40960\n", 256, 255},
	"gpt of a cloud":     {"label: gpt\n1: 16384,32768\n14: 2048,4096\n15: 8192,4096\n", 256, 255},
	"gpt, another after": {"label: gpt\n1: 2048,20480\n2: 40960,8192\n", 256, 20},
	"gpt, 4096":          {"label: gpt\nsector-size: 4096\n1: 256,5120\n", 256, 255},
	"gpt, by a little":   {"label: gpt\n1: 2048,40960\n", 27, 26},
	"mbr":                {"label: dos\n1: 2048,40960,83\n", 256, 256},
	"mbr, extended":      {"label: dos\n1: 2048,20480,83\n2: 40960,8192,5\n5: 43008,2048,83\n", 256, 20},
	"mbr, logical":       {"label: dos\n1: 2048,40960,5\n5: 4096,20480,83\n", 256, 12},
}

// TestGrowTable grows partitions, and holds the tables against what sfdisk and sgdisk say.
func TestGrowTable(t *testing.T) {
	for name, test := range tables {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := disk(t, 26*mib, test.script)
			before, err := tableOf(t, path)
			if err != nil {
				t.Fatal(err)
			}
			first, sector := before.part.Offset, before.sector
			put(t, format(t, "ext4"), path, first) // cut short, but with its superblock
			larger(t, path, test.size*mib)
			content := fingerprintFrom(t, path, first, 8*mib)
			for range 2 { // the second time there is nothing to do
				if err := growPartition(path, 0); err != nil {
					t.Fatal(err)
				}
			}
			now, err := tableOf(t, path)
			if err != nil {
				t.Fatal(err)
			}
			if end := now.part.Offset + now.part.Size; now.part.Offset != first || end != test.end*mib || now.note != before.note {
				t.Errorf("the partition begins at %d and ends at %d: %+v", now.part.Offset, end, now)
			}
			if len(now.used) != len(before.used) {
				t.Errorf("there are %d partitions, and were %d", len(now.used), len(before.used))
			}
			for i, p := range now.used[1:] {
				if p != before.used[i+1] {
					t.Errorf("partition %+v became %+v", before.used[i+1], p)
				}
			}
			if fingerprintFrom(t, path, first, 8*mib) != content {
				t.Error("the partition's content changed")
			}
			if sector == 512 {
				if out := run(t, "sfdisk", "--verify", path); strings.Contains(strings.ToLower(out), "mismatch") {
					t.Error(out)
				}
			}
			if sector == 512 && now.kind == tableGPT {
				if out := run(t, "sgdisk", "-v", path); !strings.Contains(out, "No problems found") {
					t.Error(out)
				}
			}
		})
	}
}

func tableOf(t *testing.T, path string) (*table, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return readTable(f, sizeOf(t, path), 0, 0)
}

// TestGrowTableCutShort stops the growing of a partition after each of its writes, and in
// the midst of each: the table can be read, and the next call comes to the same end.
func TestGrowTableCutShort(t *testing.T) {
	for name, test := range tables {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := disk(t, 26*mib, test.script)
			was, err := tableOf(t, image)
			if err != nil {
				t.Fatal(err)
			}
			put(t, format(t, "ext4"), image, was.part.Offset)
			larger(t, image, test.size*mib)
			f, err := os.Open(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var edits []edit
			if was.kind == tableGPT {
				edits, err = was.growGPT(f, test.size*mib)
			} else {
				edits, err = was.growMBR(f, test.size*mib)
			}
			if err != nil {
				t.Fatal(err)
			}
			whole := copyOf(t, image)
			if err := growPartition(whole, 0); err != nil {
				t.Fatal(err)
			}
			want := fingerprint(t, whole)
			for i, e := range edits {
				for _, part := range []int{0, 8, len(e.data) / 2, len(e.data) - 8, len(e.data)} {
					if len(e.data) == 512 && e.offset == 0 && part%512 != 0 {
						continue // a sector is written whole
					}
					cut := copyOf(t, image)
					for _, done := range edits[:i] {
						patch(t, cut, done.offset, done.data)
					}
					patch(t, cut, e.offset, e.data[:part])
					now, err := tableOf(t, cut)
					if err != nil {
						t.Fatalf("cut at byte %d of write %d: %v", part, i, err)
					}
					if size := now.part.Size; now.part.Offset != was.part.Offset || size != was.part.Size && size != test.end*mib-was.part.Offset {
						t.Errorf("cut at byte %d of write %d: %+v", part, i, now.part)
					}
					if err := growPartition(cut, 0); err != nil {
						t.Fatalf("cut at byte %d of write %d, then: %v", part, i, err)
					}
					if fingerprint(t, cut) != want {
						t.Errorf("cut at byte %d of write %d, it came to another end", part, i)
					}
				}
			}
		})
	}
}

// TestGrow grows each type, on a partition and without, and finds all that was in it.
func TestGrow(t *testing.T) {
	for _, fstype := range []string{"ext2", "ext3", "ext4", "xfs", "btrfs"} {
		for _, place := range []string{"whole", "partition"} {
			t.Run(fstype+" "+place, func(t *testing.T) {
				t.Parallel()
				path := format(t, fstype)
				if place == "partition" {
					whole := path
					path = disk(t, sizeOf(t, whole)+4*mib, fmt.Sprintf("label: gpt\n2048,%d\n", (sizeOf(t, whole)+511)/512))
					put(t, whole, path, mib)
				}
				target, _ := mountAt(t, path, MountOptions{IDMap: ids})
				if err := WriteFile(target, File{Path: "/kept", Data: []byte("kept"), Mode: 0o600}, ids); err != nil {
					t.Fatal(err)
				}
				if err := Unmount(target); err != nil {
					t.Fatal(err)
				}
				gone(t, path)
				larger(t, path, 512*mib)
				path = copyOf(t, path)
				fsys, err := Probe(path)
				if err != nil || !fsys.Growable() {
					t.Fatalf("%+v, %v", fsys, err)
				}
				begun := 0
				fsys, err = Grow(context.Background(), path, fsys, func() error { begun++; return nil })
				if err != nil || (begun == 1) != isExt(fstype) {
					t.Fatalf("begun %d times: %v", begun, err)
				}
				if err := Mount(context.Background(), path, fsys, target, MountOptions{IDMap: ids}); err != nil {
					t.Fatal(err)
				}
				dir, err := os.Open(target)
				if err != nil {
					t.Fatal(err)
				}
				err = GrowMounted(dir, fsys)
				dir.Close()
				if err != nil {
					t.Fatal(err)
				}
				var st unix.Statfs_t
				if err := unix.Statfs(target, &st); err != nil {
					t.Fatal(err)
				}
				if size := int64(st.Blocks) * st.Bsize; size < 440*mib {
					t.Errorf("it has %d bytes", size)
				}
				if data, err := os.ReadFile(target + "/kept"); string(data) != "kept" {
					t.Errorf("%q, %v", data, err)
				}
				if err := Unmount(target); err != nil {
					t.Fatal(err)
				}
				gone(t, path)
				if fsys, err = Probe(path); err != nil || fsys.Size-fsys.Taken >= 2*mib {
					t.Errorf("%+v, %v", fsys, err)
				}
				if err := Check(context.Background(), path, fsys); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestGrowAgain: a filesystem that is as large as it can be is neither checked nor resized.
func TestGrowAgain(t *testing.T) {
	for name, size := range map[string]int64{"all of the device": 256 * mib, "a last group too small for its tables": 257 * mib} {
		t.Run(name, func(t *testing.T) {
			path := disk(t, 128*mib, "label: gpt\n2048,129024\n")
			put(t, format(t, "ext4", "-b", "4096"), path, mib)
			larger(t, path, size+2*mib) // those are for the tables of partitions
			begun := 0
			grow := func() (Filesystem, error) {
				fsys, err := Probe(path)
				if err != nil {
					t.Fatal(err)
				}
				return Grow(context.Background(), path, fsys, func() error { begun++; return nil })
			}
			if _, err := grow(); err != nil || begun != 1 {
				t.Fatalf("begun %d times: %v", begun, err)
			}
			before := fingerprint(t, path)
			t.Setenv("PATH", t.TempDir()) // no e2fsck, no resize2fs
			if fsys, err := grow(); err != nil || begun != 1 || fingerprint(t, path) != before {
				t.Errorf("begun %d times: %+v, %v", begun, fsys, err)
			}
		})
	}
}

// TestGrowCutShort kills resize2fs at its writes: the filesystem is whole again, with all
// that was in it, and grows the next time.
func TestGrowCutShort(t *testing.T) {
	for name, extra := range map[string][]string{
		"usual":                     nil,
		"no room for descriptors":   {"-O", "^resize_inode"},
		"some room for descriptors": {"-b", "1024", "-E", "resize=32768"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := format(t, "ext4", append(slices.Clone(extra), "-d", tree(t))...)
			larger(t, image, 256*mib)
			image = copyOf(t, image)
			run(t, "e2fsck", "-f", "-p", image)
			fsys, err := Probe(image)
			if err != nil {
				t.Fatal(err)
			}
			for at := 1; ; at += 1 + at/2 {
				path := copyOf(t, image)
				inject := fmt.Sprintf("--inject=pwrite64:signal=KILL:when=%d", at)
				err := exec.Command("strace", "-f", "-o", "/dev/null", "--trace=pwrite64", inject, "resize2fs", path).Run()
				if err == nil {
					t.Logf("it writes less than %d times", at)
					break
				}
				if err := MendGrown(context.Background(), path, fsys); err != nil {
					t.Fatalf("killed at its write %d: %v", at, err)
				}
				unhurt(t, path)
				grown, err := Grow(context.Background(), path, fsys, func() error { return nil })
				if err != nil || grown.Size-grown.Taken > 8*mib {
					t.Errorf("killed at its write %d, then: %+v, %v", at, grown, err)
				}
				unhurt(t, path)
			}
		})
	}
}

// unhurt sees that an ext4 made of a tree is sound.
func unhurt(t *testing.T, path string) {
	t.Helper()
	run(t, "e2fsck", "-f", "-n", path)
	if got := run(t, "debugfs", "-R", "cat /sbin/init", path); got != "#!/bin/sh\n" {
		t.Errorf("its file has %q", got)
	}
	gone(t, path)
}

// TestGrowFails has resize2fs end early in a Grow that lives on.
func TestGrowFails(t *testing.T) {
	image := format(t, "ext4", "-d", tree(t))
	larger(t, image, 1<<30)
	fsys, err := Probe(image)
	if err != nil {
		t.Fatal(err)
	}
	real, err := exec.LookPath("resize2fs")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := "#!/bin/sh\nexec strace -f -o /dev/null --trace=pwrite64 --inject=pwrite64:signal=KILL:when=20 " + real + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "resize2fs"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", dir+":"+path)
	begin := func() error { return nil }
	if _, err := Grow(context.Background(), image, fsys, begin); !errors.Is(err, ErrGrow) || !strings.Contains(err.Error(), "resize2fs") {
		t.Errorf("grown by a resize2fs that was killed: %v", err)
	}
	unhurt(t, image)
	t.Setenv("PATH", t.TempDir())
	if _, err := Grow(context.Background(), image, fsys, begin); !errors.Is(err, ErrGrow) || !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "install e2fsprogs") {
		t.Errorf("without tools: %v", err)
	}
	// What e2fsck does not mend by itself is not touched.
	t.Setenv("PATH", path)
	damaged := copyOf(t, image)
	run(t, "debugfs", "-w", "-R", "clri /sbin", damaged)
	if _, err := Grow(context.Background(), damaged, fsys, func() error { t.Error("begun"); return nil }); !errors.Is(err, ErrGrow) || !strings.Contains(err.Error(), "e2fsck -f -p") {
		t.Errorf("a damaged one: %v", err)
	}
}

// copyOf copies an image, with its holes: into memory where that is possible, for what is
// tested with it waits for the disk all the time.
func copyOf(t testing.TB, path string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "lxcboot-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	to := filepath.Join(dir, "copy.img")
	run(t, "cp", "--sparse=always", path, to)
	return to
}

// fingerprintFrom is of a part of an image.
func fingerprintFrom(t testing.TB, path string, offset, n int64) uint32 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := crc32.New(castagnoli)
	if _, err := io.Copy(sum, io.NewSectionReader(f, offset, n)); err != nil {
		t.Fatal(err)
	}
	return sum.Sum32()
}
