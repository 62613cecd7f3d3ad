// Package rootfs finds the root filesystem on a device, mounts it, and reads and
// writes below it without ever following it out of itself. It trusts nothing that
// is on the device. docs/rootfs.md has the rules in words.
package rootfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The kinds of failure of Probe.
var (
	// ErrNoFilesystem is wrapped when a device has no filesystem that can be a root.
	ErrNoFilesystem = errors.New("no root filesystem")
	// ErrBlank is wrapped beside it when the device begins with zeros only.
	ErrBlank = errors.New("the volume is blank")
	// ErrAmbiguous is wrapped when it cannot be known which of several things that
	// are on a device is the one that is used.
	ErrAmbiguous = errors.New("ambiguous content")
	// ErrTruncated is wrapped when a filesystem is larger than what it lies on.
	ErrTruncated = errors.New("the filesystem is cut short")
	// ErrBadTable is wrapped when a partition table cannot be believed.
	ErrBadTable = errors.New("damaged partition table")
)

// AllowList is the filesystem types that can be a root; squashfs and erofs are
// read-only by nature.
var AllowList = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "squashfs", "erofs"}

// Filesystem is a filesystem that was found on a device.
type Filesystem struct {
	Type       string `json:"type"` // one of AllowList
	UUID       string `json:"uuid,omitempty"`
	Label      string `json:"label,omitempty"`
	Partition  int    `json:"partition"`           // 0: the whole device
	Subvolume  string `json:"subvolume,omitempty"` // of a btrfs, by its path; empty: its default one
	Offset     int64  `json:"offset"`              // bytes
	Size       int64  `json:"size"`                // bytes of the device or the partition
	Taken      int64  `json:"taken,omitempty"`     // bytes of it that the filesystem has
	SectorSize int    `json:"sector_size,omitempty"`
	ReadOnly   bool   `json:"readonly,omitempty"` // by its type, or as a subvolume
	// NeedsRecovery says that an ext3 or ext4 was not unmounted cleanly. Mounted
	// read-only its journal is not replayed: it shows the last state written back.
	NeedsRecovery bool   `json:"needs_recovery,omitempty"`
	Note          string `json:"note,omitempty"` // what was ignored, and by which rule
	// Mounts are other subvolumes of it that belong to a root's tree.
	Mounts []Submount `json:"mounts,omitempty"`
}

// NotFoundError says what was found where a root filesystem was looked for.
type NotFoundError struct {
	Where string // the whole device, or partition N
	Found string
	Mend  string
	Blank bool // nothing was found, but zeros
}

func (e *NotFoundError) Error() string {
	s := fmt.Sprintf("no root filesystem: %s holds %s", e.Where, e.Found)
	if e.Mend != "" {
		s += "; " + e.Mend
	}
	return s
}

// Is makes errors.Is(err, ErrNoFilesystem) true, and ErrBlank where it is.
func (e *NotFoundError) Is(target error) bool {
	return target == ErrNoFilesystem || e.Blank && target == ErrBlank
}

// Probe finds the root filesystem of a regular file or block device: the one that
// fills the whole device, else the one on its first partition, which is the used
// entry with the lowest number. It reads a bounded part of the device and changes
// nothing. Errors wrap ErrNoFilesystem, ErrAmbiguous, ErrTruncated or ErrBadTable.
func Probe(path string) (Filesystem, error) {
	return probePartition(path, 0)
}

// probePartition is Probe of the partition of that number; 0: where Probe looks.
func probePartition(path string, number int) (fsys Filesystem, err error) {
	err = onImage(path, func(r io.ReaderAt, size int64, sector int) error {
		fsys, err = probe(r, size, sector, number)
		return err
	})
	return fsys, err
}

// onImage reads a regular file or block device. A sector size of 0 is unknown.
func onImage(path string, do func(r io.ReaderAt, size int64, sector int) error) error {
	// Non-blocking, so that a FIFO is refused and not waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot look at the device: %w", err)
	}
	defer f.Close()
	sector, err := sectorSize(f)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("cannot look at the device: %w", err)
	}
	if err := do(f, size, sector); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// sectorSize is that of a block device; 0: of a regular file, which has none.
func sectorSize(f *os.File) (int, error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return 0, fmt.Errorf("cannot look at the device: %w", err)
	case info.Mode().Type() == os.ModeDevice:
		sector, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
		if err != nil {
			return 0, fmt.Errorf("cannot read the sector size of %s: %w", f.Name(), err)
		}
		return sector, nil
	case !info.Mode().IsRegular():
		return 0, fmt.Errorf("%s is neither a block device nor a regular file: %w", f.Name(), ErrNoFilesystem)
	}
	return 0, nil
}

const (
	wholeDevice = "the whole device"
	allowed     = "a root has to be one of ext2, ext3, ext4, xfs, btrfs, squashfs, erofs"
)

// probe is probePartition over anything that can be read.
func probe(r io.ReaderAt, size int64, sector, number int) (Filesystem, error) {
	if size <= 0 {
		return Filesystem{}, &NotFoundError{Where: "the device", Found: "nothing: its size is 0", Mend: allowed}
	}
	t, tableErr := readTable(r, size, sector, number)
	switch {
	case errors.Is(tableErr, errRead), number != 0 && tableErr != nil:
		return Filesystem{}, tableErr
	case number != 0 && t == nil:
		return Filesystem{}, &NotFoundError{Where: wholeDevice, Found: "no partition table, and so no partitions", Mend: "leave partition= out"}
	case number != 0:
		return t.settle("")
	}
	whole, err := inspect(r, 0, size)
	if err != nil {
		return Filesystem{}, err
	}
	byTable, why, err := choose(whole, t, tableErr)
	if err != nil {
		return Filesystem{}, err
	}
	if !byTable {
		fsys, note, err := whole.settle(wholeDevice)
		if err != nil {
			return Filesystem{}, err
		}
		fsys.Size, fsys.SectorSize, fsys.Note = size, sector, join(why, note)
		return fsys, nil
	}
	switch {
	case tableErr != nil:
		return Filesystem{}, tableErr
	case t == nil:
		return Filesystem{}, whole.nothing(wholeDevice)
	}
	return t.settle(why)
}

// choose decides between a filesystem over the whole device and a partition table, where
// there are both. Either may be a left-over: mkfs.ext4 does not clear the first sector,
// with the old table; and a new table leaves all other sectors, with the old filesystem.
// So what counts is whether something stands on the first partition too, and then which
// of the two root directories can be reached.
func choose(whole content, t *table, tableErr error) (byTable bool, note string, err error) {
	stands := whole.standing()
	if t != nil {
		stands = slices.DeleteFunc(stands, func(s signature) bool { return t.part.holds(s.tail) })
	}
	switch {
	case len(stands) == 0:
		return true, "", nil
	case errors.Is(tableErr, ErrNoFilesystem): // a table without partitions
		return false, "", nil
	case tableErr != nil:
		return false, "a damaged partition table was ignored, for a filesystem is over the whole device", nil
	case t == nil:
		return false, "", nil
	case stands[0].tail != 0: // nothing but the mark of a RAID
		return false, "", nil
	}
	part := t.content.standing()
	healthy := t.kind == tableGPT && t.healthy
	if len(part) == 0 {
		if healthy && stands[0].fs != nil {
			return false, "", ambiguous(wholeDevice, stands[0], "a GPT in full health")
		}
		return false, fmt.Sprintf("a stale %s was ignored: there is nothing on its first partition, and a filesystem is over the whole device", t.kind), nil
	}
	w, p := reachable(stands), reachable(part)
	switch {
	case len(w) > 0 && len(p) == 0 && !healthy:
		return false, fmt.Sprintf("a stale %s was ignored: its first partition has %s without a root directory", t.kind, part[0].what()), nil
	case len(w) == 0 && len(p) > 0:
		return true, fmt.Sprintf("a stale mark over the whole device was ignored: %s without a root directory", stands[0].what()), nil
	}
	return false, "", ambiguous(wholeDevice, stands[0], fmt.Sprintf("%s on partition %d of its %s", part[0].what(), t.part.Number, t.kind))
}

// ambiguous says that two things stand, and how to be rid of one.
func ambiguous(where string, a signature, b string) error {
	return fmt.Errorf("%w: %s has both %s and %s, and either may be stale; remove the stale one (wipefs DEVICE lists them; wipefs --backup --offset OFFSET DEVICE removes one)", ErrAmbiguous, where, a.what(), b)
}

func join(notes ...string) string {
	var all []string
	for _, n := range notes {
		if n != "" {
			all = append(all, n)
		}
	}
	return strings.Join(all, "; ")
}
