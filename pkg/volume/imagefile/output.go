package imagefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
)

// Output is what an image is written to: a file that is there whole, under its name, or not
// at all; or a stream, which has what was written.
type Output struct {
	*os.File
	path  string // to be its name; empty: it is a stream
	temp  string // its name until then; empty: none
	force bool
}

// ErrExists says that a file is there that nobody said to replace.
var ErrExists = errors.New("file exists")

// Create readies a file of mode 0600, or standard output where path is "-" or empty. A pipe
// or character device is written to as it is. A file that is there is ErrExists unless force
// is set, and stays until Commit. Close ends it.
func Create(path string, stdout *os.File, force bool) (*Output, error) {
	return create(path, stdout, force, nameless)
}

func create(path string, stdout *os.File, force bool, open func(path string) (*os.File, error)) (*Output, error) {
	if path == "" || path == "-" {
		return &Output{File: stdout}, nil
	}
	switch fi, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case fi.IsDir():
		return nil, failure.Invalid("%s is a directory: give the name of a file", path)
	case fi.Mode()&(fs.ModeNamedPipe|fs.ModeCharDevice) != 0:
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY, 0)
		return &Output{File: f}, err
	case !fi.Mode().IsRegular():
		return nil, failure.Invalid("%s is no regular file: write to standard output, and have a program that is made for it read that (dd of=%[1]s)", path)
	case !force:
		return nil, failure.Of(ErrExists, "%s is there already: choose another name, or say --force to replace it", path)
	default: // a link stays, and what it leads to is replaced
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return nil, err
		}
	}
	o := &Output{path: path, force: force}
	var err error
	if o.File, err = open(path); errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EINVAL) {
		if o.File, err = named(path); err == nil {
			o.temp = o.Name()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return o, nil
}

// nameless makes a file that goes with this process, however that ends.
func nameless(path string) (*os.File, error) {
	fd, err := unix.Open(filepath.Dir(path), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// named makes a file beside the one that it is to be, for filesystems that have no nameless ones.
func named(path string) (*os.File, error) {
	return os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
}

// Commit gives a file its name, once its content is on disk. The file that had the name
// before is replaced in one step; without force one that came meanwhile is ErrExists.
func (o *Output) Commit() error {
	if o.path == "" {
		return nil
	}
	if err := o.Sync(); err != nil {
		return err
	}
	fault.Point("imagefile/output/before-name")
	err := o.name()
	if errors.Is(err, fs.ErrExist) {
		return failure.Of(ErrExists, "%s has come while it was written: choose another name, or say --force to replace it", o.path)
	}
	if err != nil {
		return err
	}
	o.temp = ""
	return durable.SyncDir(filepath.Dir(o.path))
}

func (o *Output) name() error {
	if o.temp == "" {
		self := fmt.Sprintf("/proc/self/fd/%d", o.Fd())
		if !o.force {
			return unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, o.path, unix.AT_SYMLINK_FOLLOW)
		}
		temp := filepath.Join(filepath.Dir(o.path), fmt.Sprintf(".%s-%d", filepath.Base(o.path), os.Getpid()))
		if err := unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, temp, unix.AT_SYMLINK_FOLLOW); err != nil {
			return err
		}
		o.temp = temp
	}
	if o.force {
		return os.Rename(o.temp, o.path)
	}
	err := unix.Renameat2(unix.AT_FDCWD, o.temp, unix.AT_FDCWD, o.path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // the filesystem does not know it
		if err = os.Link(o.temp, o.path); err == nil {
			err = os.Remove(o.temp)
		}
	}
	return err
}

// Close removes what has not got its name. Standard output stays open.
func (o *Output) Close() error {
	if o.File == os.Stdout {
		return nil
	}
	var err error
	if o.temp != "" {
		err = os.Remove(o.temp)
	}
	return errors.Join(err, o.File.Close())
}
