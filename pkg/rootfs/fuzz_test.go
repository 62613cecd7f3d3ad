package rootfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/tty"
)

// sparse is an image in memory: what of it is not zero, in pieces, and changes
// over that.
type sparse struct {
	size    int64
	pieces  map[int64][]byte // by offset, a multiple of pieceSize
	changes []change
	read    *int64 // bytes read, where counted
}

type change struct {
	off  int64
	data []byte
}

const pieceSize = 4096

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= s.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.size-off))
	clear(p[:n])
	put := func(at int64, data []byte) {
		from, to := max(at, off), min(at+int64(len(data)), off+int64(n))
		if from < to {
			copy(p[from-off:to-off], data[from-at:to-at])
		}
	}
	for at := off &^ (pieceSize - 1); at < off+int64(n); at += pieceSize {
		put(at, s.pieces[at])
	}
	for _, c := range s.changes {
		put(c.off, c.data)
	}
	if s.read != nil {
		*s.read += int64(n)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// load reads the data of an image, without its holes.
func load(t testing.TB, path string) *sparse {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := &sparse{size: sizeOf(t, path), pieces: map[int64][]byte{}}
	for off := int64(0); ; {
		data, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return s
		}
		if err != nil {
			t.Fatal(err)
		}
		hole, err := f.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			t.Fatal(err)
		}
		for at := data &^ (pieceSize - 1); at < hole; at += pieceSize {
			piece := make([]byte, pieceSize)
			n, err := f.ReadAt(piece, at)
			if err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			if slices.ContainsFunc(piece[:n], func(b byte) bool { return b != 0 }) {
				s.pieces[at] = piece
			}
		}
		off = hole
	}
}

// change is a copy with a few bytes changed.
func (s *sparse) change(off int64, data []byte) *sparse {
	c := *s
	c.changes = append(slices.Clone(s.changes), change{off, data})
	return &c
}

// realImages is an image of each kind.
func realImages(t testing.TB) map[string]*sparse {
	t.Helper()
	images := map[string]*sparse{}
	for _, fstype := range AllowList {
		images[fstype] = load(t, format(t, fstype))
	}
	images["xfs4"] = load(t, format(t, "xfs", "-m", "crc=0"))
	images["ext4 plain"] = load(t, format(t, "ext4", "-O", "^metadata_csum"))
	ext4 := format(t, "ext4")
	for name, script := range map[string]string{
		"MBR": "label: dos\n2048,49152\n,,82\n", "logical": "label: dos\n2048,90112,5\n4096,49152\n",
		"GPT": "label: gpt\n2048,49152\n61440,2048\n",
	} {
		path := disk(t, 48*mib, script)
		offset := int64(mib)
		if name == "logical" {
			offset *= 3
		}
		put(t, ext4, path, offset)
		images[name] = load(t, path)
	}
	path := blank(t, 48*mib)
	sfdisk(t, loopDisk(t, path, 4096), "label: gpt\n256,6144\n")
	put(t, ext4, path, mib)
	images["GPT 4K"] = load(t, path)
	path = disk(t, 192*mib, "label: dos\n2048,49152\n")
	images["MBR in ext4"] = load(t, ext4).change(0, seed(load(t, path), 0, 512))
	for _, kept := range []string{"lvm", "ntfs", "exfat", "bcache"} {
		images[kept] = load(t, head(t, kept, 16*mib))
	}
	return images
}

// sound holds what Probe promises of any input: a filesystem of the list that lies
// on the device, or one of its errors in one line, and nothing besides.
func sound(r io.ReaderAt, size int64) (found bool, err error) {
	for _, number := range []int{1, 2, firstLogical, firstLogical + 1} {
		if _, err := soundAt(r, size, number); err != nil {
			return false, fmt.Errorf("partition %d: %w", number, err)
		}
	}
	if _, err := readTable(r, size, 0, anyPartition); err != nil && err.Error() != tty.Line(err.Error()) {
		return false, fmt.Errorf("all partitions: %w", err)
	}
	return soundAt(r, size, 0)
}

func soundAt(r io.ReaderAt, size int64, number int) (found bool, err error) {
	fsys, err := probe(r, size, 0, number)
	if err != nil {
		known := errors.Is(err, ErrNoFilesystem) || errors.Is(err, ErrAmbiguous) || errors.Is(err, ErrTruncated) || errors.Is(err, ErrBadTable) || errors.Is(err, errRead)
		if !known || !reflect.DeepEqual(fsys, Filesystem{}) || err.Error() != tty.Line(err.Error()) {
			return false, fmt.Errorf("%+v with the error %q", fsys, err)
		}
		return false, nil
	}
	switch {
	case !slices.Contains(AllowList, fsys.Type),
		fsys.Offset < 0, fsys.Size <= 0, fsys.Offset > size, fsys.Size > size-fsys.Offset,
		(fsys.Partition == 0) != (fsys.Offset == 0), fsys.Offset%512 != 0,
		fsys.Label != label([]byte(fsys.Label)), fsys.Partition < 0, number != 0 && fsys.Partition != number:
		return true, fmt.Errorf("%+v on a device of %d bytes", fsys, size)
	}
	return true, nil
}

// spots are the ranges where the marks, tables and headers lie.
func spots(size int64) [][2]int64 {
	return [][2]int64{
		{0, 512}, {446, 66}, {512, 92}, {1024, 1024}, {1024, 128}, {1024, 256}, {4096, 256}, {8192, 512}, {65536, 4096}, {65536, 256}, {65536 + 811, 256},
		{mib, 512}, {mib + 1024, 256}, {mib + 446, 64}, {size - 512, 512}, {size - 4096, 92}, {size - 65536, 64}, {0, 70000},
	}
}

// TestMutations changes real images at places where it counts, many thousand times,
// always the same ones. Where a checksum would catch the change, it is made anew
// half of the time: then what is behind it is reached.
func TestMutations(t *testing.T) {
	images := realImages(t)
	// The race detector makes each new block of memory dear.
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	each := 12_000/len(images) + 1
	names := make([]string, 0, len(images))
	for name := range images {
		names = append(names, name)
	}
	slices.Sort(names)
	begin, n, found := time.Now(), 0, 0
	var slowest time.Duration
	var most int64
	for i, name := range names {
		image := images[name]
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		for range each {
			m := mutate(rng, image)
			var read int64
			m.read = &read
			start := time.Now()
			ok, err := sound(m, m.size)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if ok {
				found++
			}
			slowest, most = max(slowest, time.Since(start)), max(most, read)
			n++
		}
	}
	t.Logf("%s: %d mutated inputs, in %d of which a filesystem is still found; %v in all, the slowest %v; at most %d bytes read", t.Name(), n, found, time.Since(begin).Round(time.Millisecond), slowest, most)
	if most > 8*mib {
		t.Errorf("one of them made Probe read %d bytes", most)
	}
	if found == 0 || found == n {
		t.Error("the changes are of no use")
	}
}

// mutate changes an image in one to four places, or cuts it.
func mutate(rng *rand.Rand, s *sparse) *sparse {
	for range 1 + rng.IntN(4) {
		if rng.IntN(40) == 0 {
			cut := *s
			cut.size = 1 + rng.Int64N(s.size)
			s = &cut
			continue
		}
		spot := spots(s.size)[rng.IntN(len(spots(s.size)))]
		off := max(0, spot[0]+rng.Int64N(spot[1]))
		var b [8]byte
		switch rng.IntN(4) {
		case 0: // one bit
			var one [1]byte
			_, _ = s.ReadAt(one[:], off)
			s = s.change(off, []byte{one[0] ^ 1<<rng.IntN(8)})
			continue
		case 1:
			binary.LittleEndian.PutUint64(b[:], []uint64{0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1<<63 - 1, 1 << 63, 1<<64 - 1}[rng.IntN(8)])
		default:
			binary.LittleEndian.PutUint64(b[:], rng.Uint64()>>rng.IntN(64))
		}
		s = s.change(off, b[:1<<rng.IntN(4)])
	}
	if rng.IntN(2) == 0 {
		s = resum(s)
	}
	return s
}

// resum makes the checksums of a GPT and of the superblocks anew.
func resum(s *sparse) *sparse {
	get := func(off int64, n int) []byte { return readAt(s, off, n) }
	put := func(off int64, v uint32) { s = s.change(off, binary.LittleEndian.AppendUint32(nil, v)) }
	for _, sector := range []int64{512, 4096} {
		if h := get(sector, 512); h != nil && string(h[:8]) == "EFI PART" {
			count, each := int64(le.Uint32(h[80:])), int64(le.Uint32(h[84:]))
			if count*each > 0 && count*each < mib {
				if list := get(int64(le.Uint64(h[72:])&0xffff)*sector, int(count*each)); list != nil {
					put(sector+88, crc32.ChecksumIEEE(list))
				}
			}
			h = get(sector, 512)
			clear(h[16:20])
			put(sector+16, crc32.ChecksumIEEE(h[:min(le.Uint32(h[12:]), 512)]))
		}
	}
	for _, base := range []int64{0, mib, 3 * mib} {
		if sb := get(base+1024, 1024); sb != nil && le.Uint16(sb[56:]) == 0xEF53 {
			put(base+1024+1020, rawCRC(sb[:1020]))
		}
	}
	if sb := get(0, 512); sb != nil && string(sb[:4]) == "XFSB" {
		clear(sb[224:228])
		put(224, crc32.Checksum(sb, castagnoli))
	}
	if sb := get(65536, 4096); sb != nil && string(sb[64:72]) == "_BHRfS_M" {
		put(65536, crc32.Checksum(sb[32:], castagnoli))
	}
	if b := get(0, headSize); b != nil && le.Uint32(b[1024:]) == 0xE0F5E1E2 {
		clear(b[1028:1032])
		put(1028, rawCRC(b[1024:4096]))
	}
	return s
}

// seed is the pieces of an image as a fuzzer's input: a window of the first bytes,
// and the size.
func seed(s *sparse, off int64, n int) []byte {
	b := make([]byte, n)
	_, _ = s.ReadAt(b, off)
	return b
}

// FuzzProbe takes any bytes for the beginning of a device.
func FuzzProbe(f *testing.F) {
	for _, image := range realImages(f) {
		f.Add(seed(image, 0, 4096), uint32(image.size>>9), uint16(0))
		f.Add(seed(image, 0, 2048), uint32(image.size>>9), uint16(512))
	}
	f.Fuzz(func(t *testing.T, data []byte, sectors uint32, sector uint16) {
		s := (&sparse{size: max(int64(sectors)<<9, 1), pieces: map[int64][]byte{}}).change(0, data)
		if _, err := sound(s, s.size); err != nil {
			t.Error(err)
		}
		if sector == 512 || sector == 4096 {
			_, _ = probe(s, s.size, int(sector), 0)
		}
	})
}

// FuzzMBR takes four entries, and a chain of records behind them, for a table.
func FuzzMBR(f *testing.F) {
	images := realImages(f)
	for _, name := range []string{"MBR", "logical", "GPT"} {
		image := images[name]
		f.Add(seed(image, 446, 64), seed(image, mib+446, 64), uint32(image.size>>9))
	}
	f.Fuzz(func(t *testing.T, first, next []byte, sectors uint32) {
		s := &sparse{size: max(int64(sectors)<<9, 512), pieces: map[int64][]byte{}}
		s = s.change(446, first[:min(len(first), 64)]).change(510, []byte{0x55, 0xaa})
		for i := int64(1); i < 4; i++ {
			s = s.change(i*mib+446, next[:min(len(next), 64)]).change(i*mib+510, []byte{0x55, 0xaa})
		}
		if _, err := sound(s, s.size); err != nil {
			t.Error(err)
		}
	})
}

// FuzzGPT takes a header and entries for a table, with checksums that hold.
func FuzzGPT(f *testing.F) {
	images := realImages(f)
	for name, sector := range map[string]int64{"GPT": 512, "GPT 4K": 4096} {
		image := images[name]
		f.Add(seed(image, sector, 92), seed(image, 2*sector, 512), uint32(image.size>>9), sector == 4096)
	}
	f.Fuzz(func(t *testing.T, header, entries []byte, sectors uint32, large bool) {
		sector := int64(512)
		if large {
			sector = 4096
		}
		s := &sparse{size: max(int64(sectors)<<9, 512), pieces: map[int64][]byte{}}
		s = s.change(450, []byte{0xEE}).change(458, []byte{1, 0, 0, 0, 1}).change(510, []byte{0x55, 0xaa})
		s = resum(s.change(sector, header[:min(len(header), 512)]).change(2*sector, entries[:min(len(entries), 1<<14)]))
		if _, err := sound(s, s.size); err != nil {
			t.Error(err)
		}
	})
}

// FuzzSuperblocks takes bytes for the superblock of each kind, with checksums that
// hold.
func FuzzSuperblocks(f *testing.F) {
	images := realImages(f)
	for _, fstype := range append(slices.Clone(AllowList), "xfs4", "ext4 plain") {
		image := images[fstype]
		off := int64(0)
		switch {
		case strings.HasPrefix(fstype, "ext"), fstype == "erofs":
			off = 1024
		case fstype == "btrfs":
			off = 65536
		}
		f.Add(seed(image, off, 1200), uint32(image.size>>9), uint32(off))
	}
	f.Fuzz(func(t *testing.T, data []byte, sectors, off uint32) {
		s := &sparse{size: max(int64(sectors)<<9, 512), pieces: map[int64][]byte{}}
		s = resum(s.change(int64(off%(70<<10)), data[:min(len(data), 4096)]))
		if _, err := sound(s, s.size); err != nil {
			t.Error(err)
		}
		if c, err := inspect(s, 0, s.size); err == nil {
			reachable(c.standing())
		}
	})
}

// TestBoundedMemory probes the largest table that is taken, and ones that say more.
func TestBoundedMemory(t *testing.T) {
	image := load(t, disk(t, 48*mib, "label: gpt\n2048,49152\n"))
	for _, n := range []uint32{128, 8192, 8193, 1 << 20, 1<<32 - 1} {
		m := resum(image.change(512+80, binary.LittleEndian.AppendUint32(nil, n)))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := sound(m, m.size); err != nil {
			t.Error(err)
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 16*mib {
			t.Errorf("%d entries: %d bytes", n, used)
		}
	}
}
