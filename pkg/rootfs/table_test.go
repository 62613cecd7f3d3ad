package rootfs

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// entry is an MBR entry.
func entry(kind byte, start, count uint32) []byte {
	b := make([]byte, 16)
	b[4] = kind
	le.PutUint32(b[8:], start)
	le.PutUint32(b[12:], count)
	return b
}

// record is a boot record at a sector of an image, with its entries.
func (s *sparse) record(sector int64, entries ...[]byte) *sparse {
	s = s.change(sector*512+510, []byte{0x55, 0xaa})
	for i, e := range entries {
		s = s.change(sector*512+446+int64(i)*16, e)
	}
	return s
}

// TestHostileTables refuses tables that no tool writes, each with its own words.
func TestHostileTables(t *testing.T) {
	const sectors = 64 * mib / 512
	blank := func() *sparse { return &sparse{size: 64 * mib} }
	gpt := load(t, disk(t, 64*mib, "label: gpt\n2048,49152\n61440,2048\n"))
	u64 := func(v uint64) []byte { return le.AppendUint64(nil, v) }
	long := blank().record(0, entry(5, 2048, sectors-2048))
	for i := uint32(0); i < 300; i++ {
		long = long.record(2048+int64(i), []byte{}, entry(5, i+1, 1))
	}
	for name, test := range map[string]struct {
		image *sparse
		want  error
		says  string
	}{
		"begins past the end":    {blank().record(0, entry(0x83, sectors, 8)), ErrBadTable, "past the end of the device"},
		"ends past the end":      {blank().record(0, entry(0x83, 2048, sectors)), ErrBadTable, "past the end of the device"},
		"all that 32 bits hold":  {blank().record(0, entry(0x83, 1<<32-1, 1<<32-1)), ErrBadTable, "past the end of the device"},
		"no sectors":             {blank().record(0, entry(0x83, 2048, 0)), ErrBadTable, "has 0 bytes"},
		"begins at the record":   {blank().record(0, entry(0x83, 0, 2048)), ErrBadTable, "begins at byte 0"},
		"overlap":                {blank().record(0, entry(0x83, 2048, 4096), entry(0x83, 6143, 4096)), ErrBadTable, "partitions 1 and 2 of the MBR partition table overlap"},
		"overlap with container": {blank().record(0, entry(0x83, 2048, 4096), entry(5, 4096, 4096)), ErrBadTable, "partitions 1 and 2"},
		"next to each other":     {blank().record(0, entry(0x83, 2048, 4096), entry(0x83, 6144, 4096)), ErrNoFilesystem, "partition 1"},
		"others are impossible":  {blank().record(0, entry(0x83, 2048, 4096), entry(0x83, 1<<31, 1<<31)), ErrNoFilesystem, "partition 1"},
		"chain to itself":        {blank().record(0, entry(5, 2048, 65536)).record(2048, []byte{}, entry(5, 0, 100)), ErrBadTable, "circle"},
		"chain in a circle":      {blank().record(0, entry(5, 2048, 65536)).record(2048, []byte{}, entry(5, 100, 100)).record(2148, []byte{}, entry(5, 0, 100)), ErrBadTable, "circle"},
		"chain without an end":   {long, ErrBadTable, "circle or does not end"},
		"chain past the end":     {blank().record(0, entry(5, 2048, 65536)).record(2048, []byte{}, entry(5, 1<<32-1, 100)), ErrBadTable, "past the end"},
		"container past the end": {blank().record(0, entry(5, sectors, 65536)), ErrBadTable, "past the end"},
		"chain without a record": {blank().record(0, entry(5, 2048, 65536)), ErrBadTable, "no boot record"},
		"logical outside":        {blank().record(0, entry(5, 2048, 65536)).record(2048, entry(0x83, 65536, 2048)), ErrBadTable, "outside the extended partition 1"},
		"logical too long":       {blank().record(0, entry(5, 2048, 65536)).record(2048, entry(0x83, 8, 65536)), ErrBadTable, "outside the extended partition 1"},
		"empty chain":            {blank().record(0, entry(5, 2048, 65536)).record(2048), ErrNoFilesystem, "no logical partition"},
		"second link has it":     {blank().record(0, entry(5, 2048, 65536)).record(2048, []byte{}, entry(5, 100, 4096)).record(2148, entry(0x82, 8, 4000)), ErrNoFilesystem, "partition 5"},
		"GPT last before first":  {resum(gpt.change(1024+40, u64(100))), ErrBadTable, "has 0 bytes"},
		"GPT past the end":       {resum(gpt.change(1024+40, u64(sectors))), ErrBadTable, "past the end"},
		"GPT all 64 bits":        {resum(gpt.change(1024+40, u64(1<<64-1))), ErrBadTable, "has 0 bytes"},
		"GPT negative":           {resum(gpt.change(1024+32, u64(1<<63))), ErrBadTable, "has 0 bytes"},
		"GPT sector 0":           {resum(gpt.change(1024+32, u64(0))), ErrBadTable, "begins at byte 0"},
		"GPT overlap":            {resum(gpt.change(1024+128+32, u64(51199))), ErrBadTable, "partitions 1 and 2 of the GPT overlap"},
		"GPT second impossible":  {resum(gpt.change(1024+128+32, u64(1<<63))), ErrNoFilesystem, "partition 1"},
		"GPT no entry":           {resum(gpt.change(1024, make([]byte, 256))), ErrNoFilesystem, "the GPT holds no partition"},
	} {
		start := time.Now()
		fsys, err := probe(test.image, test.image.size, 512, 0)
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %+v, %v; want %v, %q", name, fsys, err, test.want, test.says)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}

// broken is a device whose reads fail from an offset on.
type broken struct {
	*sparse
	from int64
	err  error
}

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.from {
		return 0, b.err
	}
	return b.sparse.ReadAt(p, off)
}

// TestReadErrors tells an error of the device from one of what is on it.
func TestReadErrors(t *testing.T) {
	image := load(t, disk(t, 48*mib, "label: dos\n2048,49152\n"))
	bad := errors.New("input/output error")
	for _, from := range []int64{0, 100, 513, mib, mib + 1000} {
		if _, err := probe(broken{image, from, bad}, image.size, 512, 0); !errors.Is(err, errRead) || !errors.Is(err, bad) {
			t.Errorf("from %d: %v", from, err)
		}
	}
}
