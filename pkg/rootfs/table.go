package rootfs

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The kinds of partition tables.
const (
	tableMBR = "MBR partition table"
	tableGPT = "GPT"
)

// partition is one used entry of a table.
type partition struct {
	Number       int
	Offset, Size int64  // bytes
	Type         string // the MBR's byte or the GPT's GUID, with its name where known
}

func (p partition) holds(offset int64) bool { return offset >= p.Offset && offset < p.Offset+p.Size }

func (p partition) overlaps(o partition) bool {
	return o.Offset < p.Offset+p.Size && p.Offset < o.Offset+o.Size
}

// table is a partition table that was read.
type table struct {
	kind    string
	sector  int // bytes
	first   partition
	used    []partition // all used entries, with those that hold others
	gpt     gptCopy     // of a GPT: what was read of it
	others  bool        // there are more used entries
	healthy bool        // a GPT whose primary header and entries have their checksums
	note    string      // how it was read
	content content     // of the first partition
}

func (t *table) where() string {
	return fmt.Sprintf("partition %d, the first of the %s (its type is %s),", t.first.Number, t.kind, t.first.Type)
}

// readTable reads the partition table of a device, and looks at its first
// partition; nil when there is none. As the kernel does, it believes in a GPT only
// where an MBR with an entry of type 0xEE protects it.
func readTable(r io.ReaderAt, size int64, sector int) (*table, error) {
	sectors := []int{512, 4096}
	if sector != 0 { // a device knows its own; an image may be of another's
		sectors = slices.Compact(append([]int{sector}, slices.DeleteFunc(sectors, func(s int) bool { return s == sector })...))
	}
	record := make([]byte, 512)
	if _, err := r.ReadAt(record, 0); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, fmt.Errorf("%w: %w", errRead, err)
	}
	entries, isMBR := mbrEntries(record)
	protected := slices.ContainsFunc(entries, func(e mbrEntry) bool { return e.kind == 0xEE })
	gpt, gptErr := anyGPT(r, size, sectors)
	switch {
	case errors.Is(gptErr, errRead):
		return nil, gptErr
	case protected && gptErr != nil:
		return nil, gptErr
	case protected && gpt == nil:
		return nil, fmt.Errorf("%w: there is a protective MBR, and neither a GPT nor its backup can be found; mend it with gdisk", ErrBadTable)
	case protected:
		if len(entries) > 1 {
			gpt.note = join(gpt.note, "the entries of a hybrid MBR were ignored")
		}
		return gpt, nil
	case !isMBR && gpt != nil:
		return nil, fmt.Errorf("%w: there is a GPT without the protective MBR, which the kernel does not take for a table; mend it with gdisk, or remove it with wipefs", ErrBadTable)
	case !isMBR:
		return nil, nil
	}
	t, err := readMBR(r, size, sectors, sector != 0, entries)
	if err != nil || gpt == nil {
		return t, err
	}
	// A GPT that no MBR protects was left by an older table, unless its first partition
	// is another one with something on it.
	if gpt.first.Offset != t.first.Offset && len(gpt.content.standing()) > 0 {
		return nil, fmt.Errorf("%w: an MBR partition table and a GPT that is not protected by it have different first partitions; remove the stale one with wipefs", ErrAmbiguous)
	}
	t.note = join(t.note, "a stale GPT was ignored: the MBR does not protect it")
	return t, nil
}

// look reads what is on the first partition.
func (t *table) look(r io.ReaderAt) (err error) {
	t.content, err = inspect(r, t.first.Offset, t.first.Size)
	return err
}

// pick sets the first partition: the used entry with the lowest number. One that shares
// a sector with another entry is refused, for it cannot be known which of them owns the
// data. Otherwise the others are ignored, even impossible ones.
func (t *table) pick(r io.ReaderAt, used []partition, size int64) error {
	if len(used) == 0 {
		return &NotFoundError{Where: "the " + t.kind, Found: "no partition", Mend: allowed}
	}
	p := used[0]
	t.first, t.used, t.others = p, used, len(used) > 1
	switch {
	case p.Size <= 0 || p.Offset <= 0:
		return fmt.Errorf("%w: partition %d of the %s begins at byte %d and has %d bytes", ErrBadTable, p.Number, t.kind, p.Offset, p.Size)
	case p.Offset >= size || p.Size > size-p.Offset:
		return fmt.Errorf("%w: partition %d of the %s ends at byte %d, past the end of the device at %d (was the image truncated?)", ErrBadTable, p.Number, t.kind, p.Offset+p.Size, size)
	}
	for _, o := range used[1:] {
		if p.overlaps(o) {
			return fmt.Errorf("%w: partitions %d and %d of the %s overlap", ErrBadTable, p.Number, o.Number, t.kind)
		}
	}
	return t.look(r)
}

// ignoring ends an error about the first partition with what the rule is.
func (t *table) ignoring(err error) error {
	var none *NotFoundError
	if !t.others || !errors.As(err, &none) {
		return err
	}
	const rule = "the root has to be on the partition with the lowest number, the others are ignored; "
	return &NotFoundError{Where: none.Where, Found: none.Found, Mend: strings.TrimSuffix(rule+none.Mend, "; ")}
}
