package rootfs

import (
	"compress/gzip"
	"context"
	"encoding/json"
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
	"time"

	"github.com/lxcboot/lxcboot/pkg/loop"
)

const mib = 1 << 20

// run runs a tool that the test needs, and gives what it printed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return runIn(t, "", name, args...)
}

func runIn(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	var out []byte
	var stderr strings.Builder
	var err error
	for range formatTries {
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		cmd.Stdin = strings.NewReader(stdin)
		stderr.Reset()
		cmd.Stderr = &stderr
		if out, err = cmd.Output(); err == nil || !strings.Contains(stderr.String(), mkfsBtrfsRace) {
			break
		}
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// blank makes a sparse file of the size.
func blank(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

// tree is a directory with a few files, for the filesystems made of one.
func tree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sbin/init"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mkfs is the arguments of the tool of each type; what is made of a tree comes after.
var mkfsArgs = map[string][]string{
	"ext2": {"mkfs.ext2", "-q", "-F", "-L", "my ext2"}, "ext3": {"mkfs.ext3", "-q", "-F"},
	"ext4": {"mkfs.ext4", "-q", "-F", "-L", "root"}, "xfs": {"mkfs.xfs", "-q", "-f", "-L", "rootxfs"},
	"btrfs": {"mkfs.btrfs", "-q", "-f", "-L", "rootbtrfs"},
}

// sizes is how small an image of a type may be here.
func sizeFor(fstype string) int64 {
	switch {
	case strings.HasPrefix(fstype, "xfs"):
		return 320 * mib
	case strings.HasPrefix(fstype, "btrfs"):
		return 128 * mib
	}
	return 24 * mib
}

// format makes a filesystem in a new image, or in the one given at an offset of it:
// it is made in a file of its own, and copied there.
func format(t testing.TB, fstype string, extra ...string) string {
	t.Helper()
	path := blank(t, sizeFor(fstype))
	switch fstype {
	case "squashfs":
		run(t, "mksquashfs", append([]string{tree(t), path, "-noappend", "-quiet", "-no-progress"}, extra...)...)
	case "erofs":
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		run(t, "mkfs.erofs", append(slices.Clone(extra), path, tree(t))...)
	default:
		a := append(append(mkfsArgs[fstype][:len(mkfsArgs[fstype]):len(mkfsArgs[fstype])], extra...), path)
		run(t, a[0], a[1:]...)
	}
	return path
}

// put copies the data of an image into another at an offset, leaving its holes.
func put(t testing.TB, from, into string, offset int64) {
	t.Helper()
	run(t, "dd", "if="+from, "of="+into, "bs=4k", fmt.Sprint("seek=", offset), "oflag=seek_bytes", "conv=notrunc,sparse", "status=none")
}

// patch overwrites bytes of an image.
func patch(t testing.TB, path string, offset int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, offset); err != nil {
		t.Fatal(err)
	}
}

func sizeOf(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// head makes an image of a kept beginning, the first 256 KiB of a real one.
func head(t testing.TB, name string, size int64) string {
	t.Helper()
	path := blank(t, size)
	f, err := os.Open(filepath.Join("testdata/heads", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	patch(t, path, 0, data)
	return path
}

// disk makes an image with a partition table.
func disk(t testing.TB, size int64, script string) string {
	t.Helper()
	path := blank(t, size)
	sfdisk(t, path, script)
	return path
}

// sfdisk writes a partition table: its own lines, or "NUMBER: START,SIZE,TYPE".
func sfdisk(t testing.TB, path, script string) {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(script) {
		number, rest, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if f := strings.Split(rest, ","); ok && number[0] <= '9' {
			line = "/dev/x" + number + ": start=" + f[0]
			for i, key := range []string{"size", "type"} {
				if len(f) > i+1 && f[i+1] != "" {
					line += ", " + key + "=" + f[i+1]
				}
			}
			line += "\n"
		}
		b.WriteString(line)
	}
	runIn(t, b.String(), "sfdisk", "--quiet", "--wipe", "never", "--no-reread", "--no-tell-kernel", path)
}

// loopDisk makes a loop device with the sector size.
func loopDisk(t testing.TB, path string, sector int) string {
	t.Helper()
	dev, f, err := loop.Attach(context.Background(), path, loop.Options{SectorSize: sector, Autoclear: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		if err := loop.Detach(dev); err != nil {
			t.Error(err)
		}
	})
	return dev.Path
}

// noLoops fails when an image has a loop device at the end of the test.
func noLoops(t testing.TB, path string) {
	t.Helper()
	t.Cleanup(func() { gone(t, path) })
}

// blkid is what libblkid says of a range of an image. The second value is false
// when it says nothing, or that it is ambivalent.
func blkid(t testing.TB, path string, offset, size int64) (map[string]string, bool) {
	t.Helper()
	cmd := exec.Command("blkid", "--probe", "--output", "export", "--offset", fmt.Sprint(offset), "--size", fmt.Sprint(size), "--usages", "filesystem,raid,crypto,other", path)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && (exit.ExitCode() == 2 || exit.ExitCode() == 8) {
		return nil, false
	}
	if err != nil {
		t.Fatalf("blkid: %v", err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[k] = strings.NewReplacer(`\ `, " ", `\\`, `\`).Replace(v)
		}
	}
	return values, true
}

// sfdiskFirst is the first partition as sfdisk reads the table: its number, offset
// and size in bytes.
func sfdiskFirst(t testing.TB, path string) partition {
	t.Helper()
	var out struct {
		Table struct {
			SectorSize int64 `json:"sectorsize"`
			Partitions []struct {
				Node        string
				Start, Size int64
				Type        string
			}
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal([]byte(run(t, "sfdisk", "--json", path)), &out); err != nil {
		t.Fatal(err)
	}
	for _, p := range out.Table.Partitions {
		if p.Type == "5" || p.Type == "f" || p.Type == "85" {
			continue // a container
		}
		var n int
		if _, err := fmt.Sscanf(strings.TrimPrefix(strings.TrimPrefix(p.Node, path), "p"), "%d", &n); err != nil {
			t.Fatalf("%s: %v", p.Node, err)
		}
		return partition{Number: n, Offset: p.Start * out.Table.SectorSize, Size: p.Size * out.Table.SectorSize}
	}
	t.Fatal("sfdisk finds no partition")
	return partition{}
}

// inspectFile inspects the whole of an image.
func inspectFile(t testing.TB, path string) content {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	c, err := inspect(f, 0, sizeOf(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// loopsOf lists the loop devices of a file, as losetup sees them.
func loopsOf(path string) ([]loop.Device, error) {
	out, err := exec.Command("losetup", "--json", "--list", "--output", "NAME,OFFSET,AUTOCLEAR,RO", "--associated", path).Output()
	if err != nil || len(out) == 0 { // without a device it says nothing
		return nil, err
	}
	var said struct {
		Devices []struct {
			Name          string
			Offset        int64
			Autoclear, RO bool
		} `json:"loopdevices"`
	}
	err = json.Unmarshal(out, &said)
	var found []loop.Device
	for _, d := range said.Devices {
		found = append(found, loop.Device{Path: d.Name, Offset: d.Offset, Autoclear: d.Autoclear, ReadOnly: d.RO})
	}
	return found, err
}

// gone waits until no loop device has the image behind it.
func gone(t testing.TB, path string) {
	t.Helper()
	for range 3000 {
		found, err := loopsOf(path)
		if err != nil {
			t.Error(err)
			return
		}
		if len(found) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s still has a loop device", path)
}

// fingerprint is a checksum of an image's content.
func fingerprint(t testing.TB, path string) uint32 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := crc32.New(castagnoli)
	if _, err := io.CopyBuffer(sum, struct{ io.Reader }{f}, make([]byte, mib)); err != nil {
		t.Fatal(err)
	}
	return sum.Sum32()
}
