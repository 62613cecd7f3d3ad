// Package imagefile opens the files that images are made of.
package imagefile

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// Open opens a regular file or a block device, and gives its size in bytes. It is opened
// once for all that is read of it, and does not block on a pipe or wake a device that it
// will not take: those, and what is empty, are failure.ErrInvalid.
func Open(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("image file: %w", err)
	}
	size, err := sizeOf(f)
	if err == nil && size == 0 {
		err = failure.Invalid("image file %s is empty", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

// Take is Open, unless the file is open already.
func Take(open *os.File, path string) (*os.File, int64, error) {
	if open == nil {
		return Open(path)
	}
	size, err := sizeOf(open)
	return open, size, err
}

// Path is where the programs that this one runs find a file that is open here: under its
// name, or, if it has none, by this process. /dev/stdout is each process's own.
func Path(f *os.File) string {
	if to, err := os.Readlink(f.Name()); err == nil && strings.HasPrefix(to, "/proc/self/") {
		return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	}
	if open, err := f.Stat(); err == nil {
		if named, err := os.Stat(f.Name()); err == nil && os.SameFile(open, named) {
			return f.Name()
		}
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
}

func sizeOf(f *os.File) (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	block := fi.Mode()&fs.ModeDevice != 0 && fi.Mode()&fs.ModeCharDevice == 0
	if !fi.Mode().IsRegular() && !block {
		return 0, failure.Invalid("image file %s is neither a regular file nor a block device", f.Name())
	}
	return f.Seek(0, io.SeekEnd)
}
