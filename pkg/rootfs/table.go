package rootfs

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
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
	number  int // of the partition that was asked for; 0: the first; or anyPartition
	part    partition
	used    []partition // all used entries, with those that hold others
	gpt     gptCopy     // of a GPT: what was read of it
	others  bool        // there are more used entries
	healthy bool        // a GPT whose primary header and entries have their checksums
	note    string      // how it was read
	content content     // of the partition
}

// anyPartition reads a table for its partitions alone.
const anyPartition = -1

func (t *table) where() string {
	if t.number != 0 {
		return fmt.Sprintf("partition %d of the %s (its type is %s)", t.part.Number, t.kind, t.part.Type)
	}
	return fmt.Sprintf("partition %d, the first of the %s (its type is %s),", t.part.Number, t.kind, t.part.Type)
}

// settle gives the filesystem of the partition. why is what is to be noted of the choice.
func (t *table) settle(why string) (Filesystem, error) {
	fsys, note, err := t.content.settle(t.where())
	if err != nil {
		return Filesystem{}, t.ignoring(err)
	}
	fsys.Partition, fsys.Offset, fsys.Size, fsys.SectorSize = t.part.Number, t.part.Offset, t.part.Size, t.sector
	fsys.Note = join(t.note, why, note)
	return fsys, nil
}

// readTable reads the partition table of a device, and looks at the partition of that
// number, or, for 0, at the first; nil when there is no table. As the kernel does, it
// believes in a GPT only where an MBR with an entry of type 0xEE protects it.
func readTable(r io.ReaderAt, size int64, sector, number int) (*table, error) {
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
	gpt, gptErr := anyGPT(r, size, sectors, number)
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
	t, err := readMBR(r, size, sectors, sector != 0, entries, number)
	if err != nil || gpt == nil {
		return t, err
	}
	// A GPT that no MBR protects was left by an older table, unless its partition is another
	// one with something on it.
	if gpt.part.Offset != t.part.Offset && len(gpt.content.standing()) > 0 {
		return nil, fmt.Errorf("%w: an MBR partition table and a GPT that is not protected by it have different partitions; remove the stale one with wipefs", ErrAmbiguous)
	}
	t.note = join(t.note, "a stale GPT was ignored: the MBR does not protect it")
	return t, nil
}

// pick sets the partition: the one that was asked for, or the first, which is the used entry
// with the lowest number. One that shares a sector with another entry is refused, for it
// cannot be known which of them owns the data. Otherwise the others are ignored, even
// impossible ones.
func (t *table) pick(r io.ReaderAt, used []partition, size int64) error {
	if len(used) == 0 {
		return &NotFoundError{Where: "the " + t.kind, Found: "no partition", Mend: allowed}
	}
	i := 0
	if t.number > 0 {
		i = slices.IndexFunc(used, func(p partition) bool { return p.Number == t.number })
	}
	if i < 0 {
		return &NotFoundError{Where: "the " + t.kind, Found: fmt.Sprintf("no partition %d", t.number), Mend: "it has " + numbers(used)}
	}
	p := used[i]
	t.part, t.used, t.others = p, used, len(used) > 1
	switch {
	case t.number == anyPartition:
		return nil
	case p.Size <= 0 || p.Offset <= 0:
		return fmt.Errorf("%w: partition %d of the %s begins at byte %d and has %d bytes", ErrBadTable, p.Number, t.kind, p.Offset, p.Size)
	case p.Offset >= size || p.Size > size-p.Offset:
		return fmt.Errorf("%w: partition %d of the %s ends at byte %d, past the end of the device at %d (was the image truncated?)", ErrBadTable, p.Number, t.kind, p.Offset+p.Size, size)
	}
	for k, o := range used {
		if k != i && p.overlaps(o) {
			return fmt.Errorf("%w: partitions %d and %d of the %s overlap", ErrBadTable, p.Number, o.Number, t.kind)
		}
	}
	var err error
	t.content, err = inspect(r, p.Offset, p.Size)
	return err
}

// numbers are those of partitions, for people.
func numbers(all []partition) string {
	var words []string
	for _, p := range all {
		words = append(words, strconv.Itoa(p.Number))
	}
	return strings.Join(words, ", ")
}

// ignoring ends an error about the first partition with what the rule is.
func (t *table) ignoring(err error) error {
	var none *NotFoundError
	if !t.others || t.number != 0 || !errors.As(err, &none) {
		return err
	}
	const rule = "the root has to be on the partition with the lowest number, the others are ignored; "
	return &NotFoundError{Where: none.Where, Found: none.Found, Mend: strings.TrimSuffix(rule+none.Mend, "; ")}
}
