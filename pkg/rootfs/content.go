package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// errRead marks a failure to read the device, as opposed to a fault in what is on it.
var errRead = errors.New("cannot read the device")

// headSize is how much of the start of a range is looked at: the marks lie within
// the first 68 KiB, but for those of a RAID at the end.
const headSize = 68 << 10

// signature is a mark that was recognised in a range of the device.
type signature struct {
	name  string      // a type of AllowList, or the words for something else
	fs    *Filesystem // nil for what cannot be a root
	needs int64       // bytes that the filesystem says it has
	flaw  string      // why the mark cannot be believed
	tail  int64       // offset of a mark at the end of the range
	weak  bool        // a few bytes without any other proof: named only when nothing else is there
	mark  int64       // offset of the mark
	// reach follows the filesystem to its root directory, or as far as that is
	// cheap. Nil: not known how.
	reach func() bool
	// owns says whether a file of the filesystem may have the block at an offset.
	owns func(offset int64) bool
}

// has says whether what is at an offset may well be in a file of the filesystem.
func (s signature) has(offset int64) bool {
	return s.owns != nil && offset < s.needs && s.owns(offset)
}

// what is the signature in words.
func (s signature) what() string {
	if s.fs == nil {
		return s.name
	}
	return article(s.name) + " filesystem"
}

func article(name string) string {
	if strings.ContainsRune("aeioux", rune(name[0])) {
		return "an " + name
	}
	return "a " + name
}

// content is all that was recognised in a range of the device.
type content struct {
	found []signature
	empty bool // the part that was read is all zeros
	size  int64
}

// inspect looks for every known mark in a range of the device.
func inspect(r io.ReaderAt, offset, size int64) (content, error) {
	in := io.NewSectionReader(r, offset, size)
	head := make([]byte, min(size, headSize))
	n, err := in.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return content{}, fmt.Errorf("%w: %w", errRead, err)
	}
	head = head[:n]
	c := content{empty: bytes.Count(head, []byte{0}) == len(head), size: size}
	for _, look := range []func([]byte, *io.SectionReader) (signature, bool){ext, xfs, btrfs, squashfs, erofs} {
		if s, ok := look(head, in); ok {
			c.found = append(c.found, s)
		}
	}
	c.found = append(c.found, foreign(head, in)...)
	return c, nil
}

// standing are the marks that can be believed and whose filesystem fits on the device;
// marks at the end of the range come last.
func (c content) standing() (some []signature) {
	for _, s := range c.found {
		if s.flaw == "" && !s.weak && s.needs <= c.size {
			some = append(some, s)
		}
	}
	return some
}

// reachable leaves out the filesystems whose root directory cannot be reached.
func reachable(all []signature) []signature {
	return slices.DeleteFunc(slices.Clone(all), func(s signature) bool { return s.reach != nil && !s.reach() })
}

// withoutFiles leaves out the marks of other things than filesystems that may well lie in a
// file: of a filesystem of which the root directory can be reached.
func withoutFiles(all []signature) []signature {
	sound := slices.DeleteFunc(reachable(all), func(s signature) bool { return s.reach == nil })
	return slices.DeleteFunc(slices.Clone(all), func(s signature) bool {
		return s.fs == nil && s.tail == 0 && slices.ContainsFunc(sound, func(f signature) bool { return f.has(s.mark) })
	})
}

// settle picks the one filesystem of a range. Where several marks stand, only
// those count whose root directory can be reached; where several still do, the
// content is ambiguous. The note says what was ignored.
func (c content) settle(where string) (Filesystem, string, error) {
	standing := c.standing()
	// A RAID's mark at the end is stale when the filesystem reaches over it; else
	// the filesystem is the array's, seen through one of its members.
	for _, s := range standing {
		if s.tail == 0 {
			continue
		}
		over := slices.ContainsFunc(standing, func(f signature) bool { return f.fs != nil && f.needs > s.tail })
		if !over {
			return Filesystem{}, "", &NotFoundError{Where: where, Found: s.name, Mend: "assemble it and copy its content to a volume, or remove a stale mark with wipefs; " + allowed}
		}
	}
	standing = slices.DeleteFunc(standing, func(s signature) bool { return s.tail != 0 })
	if len(standing) > 1 {
		standing = withoutFiles(standing)
		if r := reachable(standing); len(r) > 0 {
			standing = r
		}
	}
	switch {
	case len(standing) > 1:
		a, b := standing[0], standing[1]
		if a.has(b.mark) || b.has(a.mark) {
			return Filesystem{}, "", fmt.Errorf("%w: %s has both %s and %s, and one may lie in a file of the other; copy what you want of it to a volume of its own", ErrAmbiguous, where, a.what(), b.what())
		}
		return Filesystem{}, "", ambiguous(where, a, b.what())
	case len(standing) == 1 && standing[0].fs != nil:
		fsys := *standing[0].fs
		fsys.Taken = standing[0].needs
		return fsys, c.ignored(standing[0]), nil
	case len(standing) == 1:
		return Filesystem{}, "", &NotFoundError{Where: where, Found: standing[0].name, Mend: allowed}
	}
	return Filesystem{}, "", c.nothing(where)
}

// ignored names the marks that did not count beside the one that did.
func (c content) ignored(one signature) string {
	var names []string
	for _, s := range c.found {
		if s.fs != one.fs && !s.weak {
			names = append(names, s.name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "stale marks were ignored: " + strings.Join(names, ", ")
}

// nothing says what is in a range where no mark stands.
func (c content) nothing(where string) error {
	for _, s := range c.found {
		if s.fs != nil && s.flaw == "" && s.needs > c.size {
			return fmt.Errorf("%w: %s on %s needs %d bytes, and there are %d: the image was truncated, or the volume is too small for it", ErrTruncated, s.what(), where, s.needs, c.size)
		}
	}
	for _, s := range c.found {
		if s.flaw != "" {
			return &NotFoundError{Where: where, Found: fmt.Sprintf("a damaged superblock of %s: %s", s.what(), s.flaw), Mend: repair[s.name]}
		}
	}
	for _, s := range c.found {
		return &NotFoundError{Where: where, Found: s.name, Mend: allowed}
	}
	if c.empty {
		return &NotFoundError{Where: where, Found: "nothing: it begins with zeros only, as a blank volume does", Mend: allowed, Blank: true}
	}
	return &NotFoundError{Where: where, Found: "nothing that is known", Mend: "is it really a raw disk image? " + allowed}
}

// repair is what to try on a damaged superblock.
var repair = map[string]string{
	"ext2":  "try e2fsck -b 32768 on it (see: mke2fs -n)",
	"ext3":  "try e2fsck -b 32768 on it (see: mke2fs -n)",
	"ext4":  "try e2fsck -b 32768 on it (see: mke2fs -n)",
	"xfs":   "try xfs_repair on it",
	"btrfs": "try btrfs rescue super-recover on it",
	// These are written once.
	"squashfs": "write the image anew",
	"erofs":    "write the image anew",
}
