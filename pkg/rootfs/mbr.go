package rootfs

import (
	"fmt"
	"io"
)

// mbrEntry is a used entry of a boot record.
type mbrEntry struct {
	number       int
	kind         byte
	start, count uint32 // sectors
}

func (e mbrEntry) extended() bool { return e.kind == 0x05 || e.kind == 0x0F || e.kind == 0x85 }

func (e mbrEntry) partition(base, sector int64) partition {
	kind := fmt.Sprintf("0x%02x", e.kind)
	if name, known := mbrTypes[e.kind]; known {
		kind += ", " + name
	}
	return partition{Number: e.number, Offset: (base + int64(e.start)) * sector, Size: int64(e.count) * sector, Type: kind}
}

// mbrEntries reads the four entries of a boot record. An entry with an impossible boot
// flag means that it is no partition table, but the boot sector of a filesystem with code
// in that place.
func mbrEntries(b []byte) (used []mbrEntry, isMBR bool) {
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil, false
	}
	for i := range 4 {
		e := b[446+16*i:]
		if e[0] != 0 && e[0] != 0x80 {
			return nil, false
		}
		entry := mbrEntry{i + 1, e[4], le.Uint32(e[8:]), le.Uint32(e[12:])}
		if entry.kind != 0 || entry.count != 0 {
			used = append(used, entry)
		}
	}
	return used, true
}

// readMBR reads an MBR, which does not say what size its sectors have: all of sectors are
// tried in order, and the one counts under which something stands on the first partition;
// without any, the first. Where the first is known to be the device's own, the order
// decides; of a file, something under two sizes is ambiguous.
func readMBR(r io.ReaderAt, size int64, sectors []int, known bool, entries []mbrEntry, number int) (*table, error) {
	var best *table
	var bestErr error
	stands := false
	for i, s := range sectors {
		t, err := readMBRWith(r, size, int64(s), entries, number)
		switch {
		case err != nil || len(t.content.standing()) == 0:
			if i == 0 {
				best, bestErr = t, err
			}
		case known:
			return t, nil
		case stands:
			return nil, fmt.Errorf("%w: there is something on the MBR's first partition both with sectors of %d and of %d bytes; make a block device of the image, which knows its sectors", ErrAmbiguous, best.sector, s)
		default:
			best, bestErr, stands = t, nil, true
		}
	}
	if bestErr != nil {
		return nil, bestErr
	}
	return best, nil
}

func readMBRWith(r io.ReaderAt, size, sector int64, entries []mbrEntry, number int) (*table, error) {
	t := &table{kind: tableMBR, sector: int(sector), number: number}
	var used, containers []partition
	var chain *mbrEntry
	for i, e := range entries {
		if !e.extended() {
			used = append(used, e.partition(0, sector))
			continue
		}
		containers = append(containers, e.partition(0, sector))
		if chain == nil {
			chain = &entries[i]
		}
	}
	if chain == nil || number == 0 && len(used) > 0 || number > 0 && number < firstLogical {
		return t, t.pick(r, append(used, containers...), size)
	}
	// An extended partition holds partitions, and no filesystem.
	last := max(number, firstLogical)
	if number == anyPartition {
		last = firstLogical + maxLinks
	}
	logical, err := logicals(r, *chain, size, sector, last)
	if err != nil && number != anyPartition {
		return nil, err
	}
	if len(used) == 0 && number == 0 {
		t.note = "the first used entry is a logical partition"
	}
	return t, t.pick(r, append(logical, used...), size)
}

// firstLogical is the number of the first logical partition.
const firstLogical = 5

// maxLinks is how many links of a chain of logical partitions are followed.
const maxLinks = 128

// logicals follows the chain of extended boot records to its used entries, as far as the
// one of a number: the kernel counts only what is used. A logical partition counts from its
// own record, the link to the next record from the first.
func logicals(r io.ReaderAt, ext mbrEntry, size, sector int64, last int) (all []partition, err error) {
	outer := ext.partition(0, sector)
	record := make([]byte, 512)
	seen := map[int64]bool{}
	for at := int64(ext.start); ; {
		switch {
		case seen[at] || len(seen) >= maxLinks:
			return nil, fmt.Errorf("%w: the chain of logical partitions runs in a circle or does not end", ErrBadTable)
		case at*sector >= size:
			return nil, fmt.Errorf("%w: the chain of logical partitions leads to byte %d, past the end of the device at %d (was the image truncated?)", ErrBadTable, at*sector, size)
		}
		seen[at] = true
		if n, err := r.ReadAt(record, at*sector); n < len(record) {
			return nil, fmt.Errorf("%w: the chain of logical partitions: %w", errRead, err)
		}
		entries, isMBR := mbrEntries(record)
		if !isMBR {
			return nil, fmt.Errorf("%w: the chain of logical partitions has no boot record at byte %d", ErrBadTable, at*sector)
		}
		next := int64(-1)
		for _, e := range entries {
			if e.extended() {
				next = int64(ext.start) + int64(e.start)
				continue
			}
			e.number = firstLogical + len(all)
			p := e.partition(at, sector)
			if p.Offset < outer.Offset || p.Size > outer.Size || p.Offset-outer.Offset > outer.Size-p.Size {
				return nil, fmt.Errorf("%w: logical partition %d lies outside the extended partition %d", ErrBadTable, e.number, ext.number)
			}
			if all = append(all, p); e.number == last {
				return all, nil
			}
		}
		switch {
		case next >= 0:
			at = next
		case len(all) == 0:
			return nil, &NotFoundError{Where: "the extended partition", Found: "no logical partition", Mend: allowed}
		default:
			return all, nil
		}
	}
}

// mbrTypes names the types that are met most.
var mbrTypes = map[byte]string{
	0x01: "FAT", 0x04: "FAT", 0x06: "FAT", 0x0b: "FAT", 0x0c: "FAT", 0x0e: "FAT",
	0x07: "NTFS or exFAT", 0x27: "Windows recovery", 0x82: "Linux swap", 0x83: "Linux",
	0x8e: "Linux LVM", 0xa5: "FreeBSD", 0xef: "EFI system", 0xfd: "Linux RAID",
}
