package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyChunk is what is copied between two looks at the context.
const copyChunk = 32 << 20

// errNoReflink says that the filesystem can not share blocks between two files.
var errNoReflink = errors.New("the filesystem can not share blocks between files (no reflink)")

// fill gives a file the first size bytes of src, the rest up to total being a hole,
// in place of what it had. Where the filesystem can, the two share their blocks; else the
// extents that hold data are copied. progress may be nil.
func fill(ctx context.Context, dst, src *os.File, size, total int64, progress func(done int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	if err := holds(src, size); err != nil {
		return err
	}
	if err := dst.Truncate(0); err != nil {
		return err
	}
	err := reflink(dst, src, size)
	if errors.Is(err, errNoReflink) {
		// The rest of a file that is cut short meanwhile would pass for a hole.
		if err = copyExtents(ctx, dst, src, size, progress); err == nil {
			err = holds(src, size)
		}
	}
	if err != nil {
		return err
	}
	if err := dst.Truncate(total); err != nil {
		return err
	}
	progress(size)
	return nil
}

// copyVolume gives a file the content of a volume, the rest up to total being a hole: of
// one that is written to as it is at one moment.
func (s *Store) copyVolume(ctx context.Context, dst, src *os.File, from source, total int64, progress func(done int64)) error {
	if !from.inUse {
		return s.roomy(ctx, func() error { return fill(ctx, dst, src, from.size, total, progress) })
	}
	// What is written by now need not be while others are held back.
	if err := src.Sync(); err != nil {
		return err
	}
	take := func() error { return reflink(dst, src, from.size) }
	err := s.roomy(ctx, func() error {
		if from.how.Moment != nil {
			return from.how.Moment(take)
		}
		return take()
	})
	if err != nil {
		return err
	}
	return dst.Truncate(total)
}

// holds checks that a file or block device has not become shorter than it was.
func holds(f *os.File, size int64) error {
	end, err := unix.Seek(int(f.Fd()), 0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("asking for the size of %s: %w", f.Name(), err)
	}
	if end < size {
		return fmt.Errorf("%s has %d bytes and should have %d: %w", f.Name(), end, size, io.ErrUnexpectedEOF)
	}
	return nil
}

// reflink makes the empty file dst share all blocks of src, at one moment: also
// of a file that is being written to.
func reflink(dst, src *os.File, size int64) error {
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EIO) {
			return fmt.Errorf("sharing blocks of %s: %w", src.Name(), err)
		}
		return errNoReflink // the kernel has many error numbers for it
	}
	if err := holds(dst, size); err != nil {
		return fmt.Errorf("%s became shorter while it was read: %w", src.Name(), err)
	}
	return dst.Truncate(size)
}

// copyExtents copies what is no hole. Holes are not read.
func copyExtents(ctx context.Context, dst, src *os.File, size int64, progress func(int64)) error {
	if err := dst.Truncate(size); err != nil {
		return err
	}
	return copyInto(ctx, dst, src, size, progress)
}

// copyInto is copyExtents for what is as large as it should be, and all zeros.
func copyInto(ctx context.Context, dst, src *os.File, size int64, progress func(int64)) error {
	c := copier{dst: dst, src: src}
	defer c.Close()
	for pos := int64(0); pos < size; {
		data, hole, err := nextExtent(src, pos, size)
		if err != nil {
			return err
		}
		progress(data)
		for pos = data; pos < hole; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := c.copy(pos, min(copyChunk, hole-pos))
			if err != nil {
				return err
			}
			pos += n
			progress(pos)
		}
	}
	return ctx.Err()
}

// nextExtent finds the data at or after pos, and the hole that ends it. Where
// the file knows no holes (a block device), all is data.
func nextExtent(f *os.File, pos, size int64) (data, hole int64, err error) {
	data, err = unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return pos, size, nil
	case err != nil:
		return 0, 0, fmt.Errorf("looking for data in %s: %w", f.Name(), err)
	}
	hole, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("looking for holes in %s: %w", f.Name(), err)
	}
	return min(data, size), min(hole, size), nil
}

// copier copies ranges within the kernel, or through a buffer once that fails.
type copier struct {
	dst, src *os.File
	r        *reader
}

// copy copies up to n bytes at pos, and says how many.
func (c *copier) copy(pos, n int64) (int64, error) {
	if c.r == nil && !isBlock(c.src) {
		in, out := pos, pos
		copied, err := unix.CopyFileRange(int(c.src.Fd()), &in, int(c.dst.Fd()), &out, int(n), 0)
		switch {
		case err == nil && copied > 0:
			return int64(copied), nil
		case errors.Is(err, unix.EINTR):
			return 0, nil
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG), errors.Is(err, unix.EIO):
			return 0, fmt.Errorf("copying %s: %w", c.src.Name(), err)
		}
	}
	if c.r == nil {
		var err error
		if c.r, err = newReader(c.src); err != nil {
			return 0, err
		}
	}
	buf, err := c.r.at(pos, n)
	if err != nil {
		return 0, err
	}
	// The file was made larger before: what is not written is a hole.
	for at := 0; at < len(buf); at += holeSize {
		part := buf[at:min(at+holeSize, len(buf))]
		if allZero(part) {
			continue
		}
		if _, err := c.dst.WriteAt(part, pos+int64(at)); err != nil {
			return 0, err
		}
	}
	return int64(len(buf)), nil
}

// Close lets go of what the copier has of its own.
func (c *copier) Close() {
	if c.r != nil {
		c.r.Close()
	}
}

// holeSize is the least that is left out when it is zeros, in bytes.
const holeSize = 64 << 10

var zeros [4096]byte

// allZero says whether there is nothing but zeros.
func allZero(b []byte) bool {
	for ; len(b) >= len(zeros); b = b[len(zeros):] {
		if [4096]byte(b) != zeros {
			return false
		}
	}
	return string(b) == string(zeros[:len(b)])
}
