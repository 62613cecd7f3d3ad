package local

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// reader reads a file through a buffer. Of a block device it reads what is on it, and not
// what the kernel has cached of it: that can be older than what a filesystem on it, or
// another host, has written since.
type reader struct {
	f      *os.File
	direct *os.File // f once more, past the cache; nil: f is no block device
	buf    []byte
}

const readChunk = 1 << 20

func newReader(f *os.File) (*reader, error) {
	if !isBlock(f) {
		return &reader{f: f, buf: make([]byte, readChunk)}, nil
	}
	// The mode of an open file is its own: a second one is opened by the first.
	direct, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil, fmt.Errorf("reading %s past the cache: %w", f.Name(), err)
	}
	buf, err := unix.Mmap(-1, 0, readChunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS) // at the border of a page
	if err != nil {
		direct.Close()
		return nil, err
	}
	return &reader{f: f, direct: direct, buf: buf}, nil
}

// at reads up to n bytes at pos. They are good until the next call.
func (r *reader) at(pos, n int64) ([]byte, error) {
	buf, from := r.buf[:min(n, readChunk)], r.f
	if r.direct != nil {
		from, buf = r.direct, r.buf[:min((n+4095)&^4095, readChunk)] // whole blocks; what is too much is not there
	}
	got, err := from.ReadAt(buf, pos)
	if got == 0 {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("%s ends at %d, before its end: %w", r.f.Name(), pos, err)
	}
	return buf[:min(int64(got), n)], nil
}

// Close lets go of what it has of its own.
func (r *reader) Close() {
	if r.direct != nil {
		r.direct.Close()
		_ = unix.Munmap(r.buf)
	}
}

// isBlock says that a file is a block device.
func isBlock(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice
}
