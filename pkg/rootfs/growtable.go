package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/fault"
)

// grain is what a partition's end is aligned to, and the least that growing is worth.
const grain = 1 << 20

// edit is bytes that are to stand at a place of a device.
type edit struct {
	offset int64
	data   []byte
}

// growPartition moves the end of the partition of a number up to what follows it, and a GPT's
// backup to the end of the device. Nothing else is changed. At any moment one copy of a
// GPT is whole, and an MBR changes with one sector; so a table that was cut short is read
// all the same, and the next call finishes it. A logical partition stays as it is.
func growPartition(device string, number int) error {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	sector, err := sectorSize(f)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	t, err := readTable(f, size, sector, number)
	if err != nil {
		return err
	}
	if t == nil {
		return fmt.Errorf("%w: the partition table is gone", ErrBadTable)
	}
	var steps []edit
	if t.kind == tableGPT {
		steps, err = t.growGPT(f, size)
	} else {
		steps, err = t.growMBR(f, size)
	}
	if err != nil {
		return err
	}
	for _, c := range steps {
		there := make([]byte, len(c.data))
		if n, err := f.ReadAt(there, c.offset); n < len(there) {
			return err
		}
		if bytes.Equal(there, c.data) {
			continue
		}
		if _, err := f.WriteAt(c.data, c.offset); err != nil {
			return err
		}
		// Each copy is on the device before the other is touched.
		if err := f.Sync(); err != nil {
			return err
		}
		fault.Point("rootfs/grow/table")
	}
	return nil
}

// room is where the partition may end: where the next one begins, or at limit.
func (t *table) room(limit int64) int64 {
	for _, p := range t.used {
		if p.Offset > t.part.Offset {
			limit = min(limit, p.Offset)
		}
	}
	if end := limit &^ (grain - 1); end >= t.part.Offset+t.part.Size+grain {
		return end
	}
	return t.part.Offset + t.part.Size
}

// growMBR is the boot record with the partition grown.
func (t *table) growMBR(r io.ReaderAt, size int64) ([]edit, error) {
	if t.part.Number > 4 {
		return nil, nil
	}
	record := make([]byte, 512)
	if _, err := r.ReadAt(record, 0); err != nil {
		return nil, err
	}
	sector := int64(t.sector)
	end := t.room(min(size, 1<<32*sector))
	if end == t.part.Offset+t.part.Size {
		return nil, nil
	}
	e := record[446+16*(t.part.Number-1):]
	copy(e[5:8], "\xfe\xff\xff") // the last cylinder, head and sector: as in the next fields
	le.PutUint32(e[12:], uint32(min((end-t.part.Offset)/sector, 1<<32-1)))
	return []edit{{0, record}}, nil
}

// growGPT is both copies of the GPT with the partition grown, and the MBR that
// protects it. The copy that was read is the last of the two to change.
func (t *table) growGPT(r io.ReaderAt, size int64) ([]edit, error) {
	sector, last := int64(t.sector), size/int64(t.sector)-1
	entries, header := bytes.Clone(t.gpt.entries), bytes.Clone(t.gpt.header)
	length := (int64(len(entries)) + sector - 1) / sector
	backup, usable := last-length, le.Uint64(header[40:])
	for _, p := range t.used {
		if p.Offset+p.Size > backup*sector {
			return nil, fmt.Errorf("%w: partition %d leaves no room for the GPT's backup at the end of the device", ErrBadTable, p.Number)
		}
	}
	if t.gpt.start < 2 || usable > 1<<40 || t.gpt.start+length > int64(usable) {
		return nil, fmt.Errorf("%w: its entries at sector %d leave no room before the first usable sector %d", ErrBadTable, t.gpt.start, usable)
	}
	end := t.room(backup * sector)
	le.PutUint64(entries[int(le.Uint32(header[84:]))*(t.part.Number-1)+40:], uint64(end/sector-1))

	copies := func(at, other, start int64) []edit {
		h := make([]byte, sector)
		copy(h, header)
		le.PutUint64(h[24:], uint64(at))
		le.PutUint64(h[32:], uint64(other))
		le.PutUint64(h[48:], uint64(backup-1)) // the last sector that partitions may have
		le.PutUint64(h[72:], uint64(start))
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(h[16:], 0)
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:le.Uint32(h[12:])]))
		return []edit{{start * sector, entries}, {at * sector, h}}
	}
	first, second := copies(last, 1, backup), copies(1, last, t.gpt.start)
	if !t.healthy {
		first, second = second, first
	}
	record, err := protective(r, uint64(last))
	if err != nil {
		return nil, err
	}
	return append(append(first, second...), record...), nil
}

// protective is the MBR that protects a GPT up to the last sector; a hybrid one stays.
func protective(r io.ReaderAt, last uint64) ([]edit, error) {
	record := make([]byte, 512)
	if _, err := r.ReadAt(record, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	used, _ := mbrEntries(record)
	if len(used) != 1 || used[0].kind != 0xEE || used[0].start != 1 {
		return nil, nil
	}
	le.PutUint32(record[446+16*(used[0].number-1)+12:], uint32(min(last, 1<<32-1)))
	return []edit{{0, record}}, nil
}
