package rootfs

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Limits of what a GPT may say of itself. The usual 128 entries of 128 bytes are 16
// KiB.
const (
	maxEntrySize = 4096
	maxEntries   = 1 << 20 // bytes of all
)

// anyGPT reads the GPT for the first of the sector sizes that has one; nil when
// none has.
func anyGPT(r io.ReaderAt, size int64, sectors []int, number int) (*table, error) {
	var bad error
	for _, s := range sectors {
		t, err := readGPT(r, size, int64(s), number)
		if t != nil || errors.Is(err, errRead) {
			return t, err
		}
		if bad == nil {
			bad = err
		}
	}
	return nil, bad
}

// readGPT reads the GPT for one sector size, from the backup when the primary is
// damaged. The backup is on the last sector, or where a header that is sound says
// it is, as on a volume that was made larger since.
func readGPT(r io.ReaderAt, size, sector int64, number int) (*table, error) {
	header, entries, primaryErr := gptAt(r, size, sector, 1)
	t := &table{kind: tableGPT, sector: int(sector), number: number, healthy: true}
	primary := header
	if entries == nil {
		places := []int64{size/sector - 1}
		if header != nil {
			places = append(places, int64(min(le.Uint64(header[32:]), uint64(size/sector))))
		}
		var backupErr error
		for _, lba := range places {
			if header, entries, backupErr = gptAt(r, size, sector, lba); entries != nil {
				break
			}
		}
		switch {
		case entries != nil:
		case primaryErr != nil && backupErr != nil:
			return nil, fmt.Errorf("%w; and the backup: %w", primaryErr, backupErr)
		default:
			return nil, errors.Join(primaryErr, backupErr) // one, or none
		}
		t.healthy, t.note = false, "the primary GPT is damaged, its backup was read"
	}
	t.gpt = gptCopy{header: header, entries: entries, start: 2}
	if primary != nil {
		t.gpt.start = int64(le.Uint64(primary[72:]))
	}
	var used []partition
	for i, each := 0, int(le.Uint32(header[84:])); (i+1)*each <= len(entries); i++ {
		e := entries[i*each:]
		if [16]byte(e[:16]) == [16]byte{} {
			continue
		}
		p := partition{Number: i + 1, Type: gptType(e[:16])}
		// The last sector is included. An entry that no device can have gets no size,
		// and is refused if it turns out to be the one that counts.
		if first, last := le.Uint64(e[32:]), le.Uint64(e[40:]); first > 0 && first <= last && last < 1<<48 {
			p.Offset, p.Size = int64(first)*sector, int64(last-first+1)*sector
		}
		used = append(used, p)
	}
	return t, t.pick(r, used, size)
}

// gptCopy is one of the two copies of a GPT, as it was read.
type gptCopy struct {
	header, entries []byte
	start           int64 // the sector at which the primary's entries are
}

// gptAt reads a header and its entries, with their checksums. Without a mark there
// it returns nothing; a header alone when the entries are damaged.
func gptAt(r io.ReaderAt, size, sector, lba int64) (header, entries []byte, err error) {
	if lba < 1 || lba >= size/sector {
		return nil, nil, nil
	}
	head := make([]byte, 512)
	if n, err := r.ReadAt(head, lba*sector); n < len(head) {
		return nil, nil, fmt.Errorf("%w: %w", errRead, err)
	}
	if string(head[:8]) != "EFI PART" {
		return nil, nil, nil
	}
	length := le.Uint32(head[12:])
	if length < 92 || length > 512 {
		return nil, nil, fmt.Errorf("%w: the GPT header at sector %d says that it has %d bytes", ErrBadTable, lba, length)
	}
	sum := le.Uint32(head[16:])
	clear(head[16:20])
	if crc32.ChecksumIEEE(head[:length]) != sum {
		return nil, nil, fmt.Errorf("%w: the checksum of the GPT header at sector %d does not hold", ErrBadTable, lba)
	}
	if own := le.Uint64(head[24:]); own != uint64(lba) {
		return nil, nil, fmt.Errorf("%w: the GPT header at sector %d says that it is at sector %d", ErrBadTable, lba, own)
	}
	start, count, each := le.Uint64(head[72:]), int64(le.Uint32(head[80:])), int64(le.Uint32(head[84:]))
	if each < 128 || each > maxEntrySize || count < 1 || count > maxEntries/each || start < 1 || start >= uint64(size/sector) {
		return head, nil, fmt.Errorf("%w: the GPT says that it has %d entries of %d bytes at sector %d", ErrBadTable, count, each, start)
	}
	list := make([]byte, count*each)
	if n, err := r.ReadAt(list, int64(start)*sector); n < len(list) {
		if err == nil || errors.Is(err, io.EOF) {
			return head, nil, fmt.Errorf("%w: the GPT's entries lead past the end of the device", ErrBadTable)
		}
		return head, nil, fmt.Errorf("%w: %w", errRead, err)
	}
	if crc32.ChecksumIEEE(list) != le.Uint32(head[88:]) {
		return head, nil, fmt.Errorf("%w: the checksum of the GPT's entries at sector %d does not hold", ErrBadTable, start)
	}
	return head, list, nil
}

// gptType is a GUID as it is written, whose first three groups are little-endian,
// with its name where it is met often.
func gptType(b []byte) string {
	id := fmt.Sprintf("%08X-%04X-%04X-%X-%X", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
	if name, known := gptTypes[id]; known {
		return id + ", " + name
	}
	return id
}

// gptTypes names the types that are met most.
var gptTypes = map[string]string{
	"C12A7328-F81F-11D2-BA4B-00A0C93EC93B": "EFI system",
	"21686148-6449-6E6F-744E-656564454649": "BIOS boot",
	"9E1A2D38-C612-4316-AA26-8B49521E5A8B": "PReP boot",
	"0FC63DAF-8483-4772-8E79-3D69D8477DE4": "Linux filesystem",
	"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709": "Linux root (x86-64)",
	"B921B045-1DF0-41C3-AF44-4C6F280D3FAE": "Linux root (ARM64)",
	"BC13C2FF-59E6-4262-A352-B275FD6F7172": "Linux extended boot",
	"0657FD6D-A4AB-43C4-84E5-0933C84B4F4F": "Linux swap",
	"E6D6D379-F507-44C2-A23C-238F2A3DF928": "Linux LVM",
	"A19D880F-05FC-4D3B-A006-743F0F84911E": "Linux RAID",
	"CA7D7CCB-63ED-4C53-861C-1742536059CC": "Linux LUKS",
	"EBD0A0A2-B9E5-4433-87C0-68B6B72699C7": "Microsoft basic data",
	"E3C9E316-0B5C-4DB8-817D-F92DF00215AE": "Microsoft reserved",
	"6A898CC3-1DD2-11B2-99A6-080020736631": "ZFS",
}
