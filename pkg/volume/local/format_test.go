package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// qemu runs qemu-img in a directory.
func qemu(t testing.TB, dir string, args ...string) {
	t.Helper()
	for try := 1; ; try++ {
		cmd := exec.Command("qemu-img", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err == nil {
			return
		}
		// It measures its own speed to make LUKS, which a busy machine may not let it.
		if try == 10 || !strings.Contains(string(out), "Unable to get accurate CPU usage") {
			t.Fatalf("qemu-img %s: %v\n%s", args, err, out)
		}
	}
}

// samples makes an image of each kind that is one file, of the same disk.
func samples(t testing.TB) (dir string, names map[string]string) {
	t.Helper()
	dir = t.TempDir()
	raw := make([]byte, 3<<20)
	rand.New(rand.NewSource(1)).Read(raw[1<<20:])
	copy(raw, "the first bytes")
	copy(raw[len(raw)-20:], "the last bytes")
	write(t, filepath.Join(dir, "raw.img"), raw)
	names = map[string]string{"raw.img": formatRaw}
	for name, args := range map[string][]string{
		"v3.qcow2":    {"qcow2"},
		"v2.qcow2":    {"qcow2", "-o", "compat=0.10"},
		"l2.qcow2":    {"qcow2", "-o", "extended_l2=on,cluster_size=128k"},
		"zstd.qcow2":  {"qcow2", "-c", "-o", "compression_type=zstd"},
		"mono.vmdk":   {"vmdk"},
		"stream.vmdk": {"vmdk", "-o", "subformat=streamOptimized"},
		"dynamic.vdi": {"vdi"},
		"static.vdi":  {"vdi", "-o", "static=on"},
		"disk.vhdx":   {"vhdx"},
		"fixed.vhdx":  {"vhdx", "-o", "subformat=fixed"},
	} {
		names[name] = args[0]
		qemu(t, dir, append(append([]string{"convert", "-f", "raw", "-O"}, args...), "raw.img", name)...)
	}
	return dir, names
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Every format is told from its content, and becomes a volume that holds the disk
// it describes.
func TestFormats(t *testing.T) {
	dir, names := samples(t)
	s, ctx := newStore(t), testCtx(t)
	raw, err := os.ReadFile(filepath.Join(dir, "raw.img"))
	if err != nil {
		t.Fatal(err)
	}
	for name, format := range names {
		t.Run(name, func(t *testing.T) {
			img, err := s.ImportImage(ctx, volume.ImportImage{Name: name, Path: filepath.Join(dir, name)})
			if err != nil {
				t.Fatal(err)
			}
			if img.DiskFormat != format || img.VirtualSize != int64(len(raw)) {
				t.Errorf("imported as %+v", img)
			}
			v, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: img.ID})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.WaitVolume(ctx, v.ID); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(s.dataOf(v.ID))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got := make([]byte, len(raw))
			if _, err := f.ReadAt(got, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, raw) {
				t.Error("the volume does not hold the disk of the image")
			}
			if fi, _ := f.Stat(); fi.Size() != 1<<30 {
				t.Errorf("the volume has %d bytes", fi.Size())
			}
			if n := allocated(t, f.Name()); n > 4<<20 {
				t.Errorf("the volume takes %d bytes for 3 MiB of content", n)
			}
			for _, said := range formats {
				if said == format {
					continue
				}
				_, err := s.ImportImage(ctx, volume.ImportImage{Path: filepath.Join(dir, name), DiskFormat: said})
				if !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), said) || !strings.Contains(err.Error(), format) {
					t.Errorf("said to be %s: %v", said, err)
				}
			}
		})
	}
}

// What would make a reader open another file, or can not be read at all, is
// refused, whatever is said of it, and leaves nothing.
func TestRefusedImages(t *testing.T) {
	dir, _ := samples(t)
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, bytes.Repeat([]byte("secret"), 1<<16))
	qemu(t, dir, "create", "-f", "qcow2", "-b", secret, "-F", "raw", "backing.qcow2")
	qemu(t, dir, "create", "-f", "qcow2", "-o", "compat=0.10", "-b", secret, "-F", "raw", "backing2.qcow2")
	qemu(t, dir, "create", "-f", "qcow2", "-o", "data_file=outside.raw,data_file_raw=on", "datafile.qcow2", "1M")
	qemu(t, dir, "create", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "luks.qcow2", "1M")
	qemu(t, dir, "create", "-f", "luks", "--object", "secret,id=s,data=x", "-o", "key-secret=s,iter-time=10", "luks.img", "1M")
	qemu(t, dir, "create", "-f", "vmdk", "-b", "mono.vmdk", "-F", "vmdk", "delta.vmdk")
	qemu(t, dir, "create", "-f", "vmdk", "-o", "subformat=monolithicFlat", "flat.vmdk", "1M")
	qemu(t, dir, "create", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", "split.vmdk", "1M")
	qemu(t, dir, "create", "-f", "vpc", "dynamic.vhd", "1M")
	qemu(t, dir, "create", "-f", "vpc", "-o", "subformat=fixed", "fixed.vhd", "1M")
	qemu(t, dir, "create", "-f", "qed", "old.qed", "1M")
	qemu(t, dir, "create", "-f", "parallels", "old.hdd", "1M")
	qemu(t, dir, "create", "-f", "qcow", "old.qcow", "1M")
	qemu(t, dir, "create", "-f", "qcow2", "-o", "preallocation=off", "absurd.qcow2", "1000T")

	patch := func(from, to string, offset int64, b ...byte) {
		t.Helper()
		all, err := os.ReadFile(filepath.Join(dir, from))
		if err != nil {
			t.Fatal(err)
		}
		copy(all[offset:], b)
		write(t, filepath.Join(dir, to), all)
	}
	patch("v3.qcow2", "corrupt.qcow2", 79, 2)
	patch("v3.qcow2", "unknown.qcow2", 79, 0x80)
	patch("v3.qcow2", "negative.qcow2", 24, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	patch("v3.qcow2", "clusters.qcow2", 20, 0, 0, 0, 60)
	patch("dynamic.vdi", "delta.vdi", 0x4c, 4)
	patch("dynamic.vdi", "child.vdi", 0x1b8, 1)
	patch("mono.vmdk", "footer.vmdk", 12, make([]byte, 8)...) // no capacity: the descriptor is obeyed
	text, err := os.ReadFile(filepath.Join(dir, "mono.vmdk"))
	if err != nil {
		t.Fatal(err)
	}
	flat := bytes.Replace(text, []byte(`SPARSE "mono.vmdk"`), []byte(`FLAT "/etc/shadow"`), 1)
	if bytes.Equal(flat, text) {
		t.Fatal("the descriptor is not where it was")
	}
	write(t, filepath.Join(dir, "shadow.vmdk"), flat)
	write(t, filepath.Join(dir, "custom.vmdk"), bytes.Replace(text, []byte("monolithicSparse"), []byte("custom          "), 1))
	vhdx, err := os.ReadFile(filepath.Join(dir, "disk.vhdx"))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(vhdx, []byte(vhdxFileParam))
	if at < 0 {
		t.Fatal("no file parameters in the vhdx image")
	}
	value := bytes.Index(vhdx, []byte("metadata")) + int(binary.LittleEndian.Uint32(vhdx[at+16:]))
	patch("disk.vhdx", "delta.vhdx", int64(value)+4, 2)
	write(t, filepath.Join(dir, "descriptor.vmdk"), []byte("# a comment\n\n# Disk DescriptorFile\nversion=1\nRW 100 FLAT \"/etc/shadow\" 0\n"))
	write(t, filepath.Join(dir, "version.vmdk"), []byte("# a comment\nversion=1\nRW 100 FLAT \"/etc/shadow\" 0\n"))
	write(t, filepath.Join(dir, "short.qcow2"), []byte("QFI\xfb\x00\x00\x00\x03"))
	write(t, filepath.Join(dir, "empty.img"), nil)
	// Downloads that broke off, and a damaged table.
	for _, name := range []string{"v3.qcow2", "zstd.qcow2", "mono.vmdk", "stream.vmdk", "dynamic.vdi", "disk.vhdx"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "half-"+name), b[:len(b)/2])
	}
	// One that was not closed cleanly breaks off as well.
	dirty(t, filepath.Join(dir, "half-dirty.qcow2"))
	if err := os.Truncate(filepath.Join(dir, "half-dirty.qcow2"), 2<<20); err != nil {
		t.Fatal(err)
	}
	patch("v3.qcow2", "table.qcow2", 3<<16, 0x80, 0, 0, 0, 0, 1, 2, 0)
	if out, err := exec.Command("gzip", "-k", filepath.Join(dir, "raw.img")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("mkfifo", filepath.Join(dir, "fifo")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	s, ctx := newStore(t), testCtx(t)
	for name, says := range map[string]string{
		"backing.qcow2":   secret,
		"backing2.qcow2":  secret,
		"datafile.qcow2":  "data in another file",
		"luks.qcow2":      "encrypted",
		"luks.img":        "encrypted",
		"delta.vmdk":      "parent",
		"flat.vmdk":       "names other files",
		"split.vmdk":      "names other files",
		"custom.vmdk":     "custom",
		"shadow.vmdk":     "extents",
		"footer.vmdk":     "other files",
		"descriptor.vmdk": "names other files",
		"version.vmdk":    "names other files",
		"dynamic.vhd":     "vhd",
		"fixed.vhd":       "vhd",
		"old.qed":         "qed",
		"old.hdd":         "parallels",
		"old.qcow":        "qcow",
		"absurd.qcow2":    fmt.Sprint(1000 << 40),
		"corrupt.qcow2":   "corrupt",
		"unknown.qcow2":   "0x80",
		"negative.qcow2":  "18446744073709551615",
		"clusters.qcow2":  "2^60",
		"delta.vdi":       "type 4",
		"child.vdi":       "parent",
		"delta.vhdx":      "parent",
		"short.qcow2":     "breaks off",
		"empty.img":       "empty",

		"half-v3.qcow2":    "not whole",
		"half-zstd.qcow2":  "not whole",
		"half-mono.vmdk":   "not whole",
		"half-stream.vmdk": "not whole",
		"half-dynamic.vdi": "breaks off",
		"half-disk.vhdx":   "half-disk.vhdx",
		"table.qcow2":      "corrupt",
		"half-dirty.qcow2": "not whole",
		"raw.img.gz":       "gzip",
		"fifo":             "neither a regular file nor a block device",
	} {
		for _, said := range append([]string{""}, formats...) {
			if name == "raw.img.gz" && said == formatRaw {
				continue // taken as it is
			}
			_, err := s.ImportImage(ctx, volume.ImportImage{Path: filepath.Join(dir, name), DiskFormat: said})
			if !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), name) || said == "" && !strings.Contains(err.Error(), says) {
				t.Errorf("%s, said to be %q: got %v, want %q", name, said, err, says)
			}
		}
	}
	if left, err := os.ReadDir(s.images.dir); err != nil || len(left) != 0 {
		t.Errorf("refused images left %v, %v", left, err)
	}
	if _, err := s.ImportImage(ctx, volume.ImportImage{Path: filepath.Join(dir, "raw.img.gz"), DiskFormat: formatRaw}); err != nil {
		t.Errorf("packed content that is said to be raw: %v", err)
	}
}

// verify does not lean on inspect: what it is told to be fine, it refuses as well.
func TestVerifyIsASecondOpinion(t *testing.T) {
	dir, _ := samples(t)
	qemu(t, dir, "create", "-f", "qcow2", "-b", filepath.Join(dir, "raw.img"), "-F", "raw", "backing.qcow2")
	qemu(t, dir, "create", "-f", "qcow2", "-o", "data_file=outside.raw", "datafile.qcow2", "3M")
	for name, in := range map[string]inspection{
		"backing.qcow2":  {Format: formatQcow2, VirtualSize: 3 << 20},
		"datafile.qcow2": {Format: formatQcow2, VirtualSize: 3 << 20},
		"v3.qcow2":       {Format: formatQcow2, VirtualSize: 4 << 20},
		"mono.vmdk":      {Format: formatQcow2, VirtualSize: 3 << 20},
		"raw.img":        {Format: formatVDI, VirtualSize: 3 << 20},
	} {
		if err := verify(testCtx(t), filepath.Join(dir, name), in); !errors.Is(err, failure.ErrInvalid) {
			t.Errorf("%s as %+v: %v", name, in, err)
		}
	}
	for name, in := range map[string]inspection{"v3.qcow2": {Format: formatQcow2, VirtualSize: 3 << 20}, "mono.vmdk": {Format: formatVMDK, VirtualSize: 3 << 20}} {
		if err := verify(testCtx(t), filepath.Join(dir, name), in); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// countingReader counts what is read, to hold hostile headers to a bound.
type countingReader struct {
	*bytes.Reader
	n int64
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	c.n += int64(len(p))
	return c.Reader.ReadAt(p, off)
}

// inspected checks what must hold for any content at all.
func inspected(t *testing.T, content []byte) {
	t.Helper()
	r := &countingReader{Reader: bytes.NewReader(content)}
	in, err := inspect(r, int64(len(content)))
	if err == nil && (in.VirtualSize <= 0 || in.VirtualSize > MaxSize<<30) {
		t.Errorf("a disk of %d bytes passed", in.VirtualSize)
	}
	if err != nil && !errors.Is(err, failure.ErrInvalid) {
		t.Errorf("a bare error: %v", err)
	}
	if r.n > 16<<20 {
		t.Errorf("read %d bytes of a header", r.n)
	}
	if in.Format == formatRaw && bytes.HasPrefix(content, []byte("QFI\xfb")) {
		t.Error("a qcow2 signature passed for raw")
	}
}

// Ten thousand mutations of real headers: no crash, no hang, bounded reading.
func TestMutatedImages(t *testing.T) {
	dir, names := samples(t)
	rnd := rand.New(rand.NewSource(1))
	inputs := 0
	for name := range names {
		whole, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		// Where headers are, and not the payload.
		starts := []int{0, 72, 512, 0x140, 192 << 10}
		if at := bytes.Index(whole, []byte("metadata\x00")); at > 0 {
			starts = append(starts, at, at+64<<10)
		} else if names[name] == formatVHDX {
			t.Fatal("no metadata in the vhdx image")
		}
		m := bytes.Clone(whole)
		for range 1000 {
			var changed []int
			for range 1 + rnd.Intn(4) {
				at := starts[rnd.Intn(len(starts))] + rnd.Intn(160)
				if at+8 >= len(m) {
					continue
				}
				changed = append(changed, at)
				switch rnd.Intn(3) {
				case 0:
					m[at] ^= 1 << rnd.Intn(8)
				case 1:
					binary.LittleEndian.PutUint64(m[at:], rnd.Uint64()>>rnd.Intn(64))
				case 2:
					copy(m[at:], bytes.Repeat([]byte{0xff}, 8))
				}
			}
			inspected(t, m[:len(m)-rnd.Intn(len(m))*rnd.Intn(2)])
			inputs++
			for _, at := range changed {
				copy(m[at:], whole[at:at+8])
			}
		}
	}
	if t.Logf("%s: %d mutated inputs", t.Name(), inputs); inputs < 10_000 {
		t.Errorf("only %d inputs", inputs)
	}
}

func FuzzInspect(f *testing.F) {
	dir, names := samples(f)
	for name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:min(len(b), 256<<10)])
	}
	f.Add([]byte("# Disk DescriptorFile\nversion=1\n"))
	f.Fuzz(inspected)
}
