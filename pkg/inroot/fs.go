package inroot

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// maxEntries is how many names of a directory are read.
const maxEntries = 10_000

// FS is the regular files and the directories below a root, to be read; what is neither
// cannot be opened. Links are followed as Open does it, and Lstat shows them.
func FS(root *os.File) fs.FS { return below{root} }

type below struct{ root *os.File }

// Open is fs.FS's.
func (b below) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	f, err := Open(b.root, path.Join("/", name), unix.O_RDONLY)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() && !info.IsDir() {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return f, nil
}

// ReadDir is fs.ReadDirFS's, for directories of at most 10,000 names.
func (b below) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := b.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.(*os.File).Readdirnames(maxEntries)
	if err != nil && len(names) == 0 {
		return nil, nil // io.EOF: it is empty
	}
	if len(names) == maxEntries {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	slices.Sort(names)
	var all []fs.DirEntry
	for _, n := range names {
		// By the root, and not by what os.File takes for its path.
		if info, err := b.Lstat(path.Join(name, n)); err == nil {
			all = append(all, fs.FileInfoToDirEntry(info))
		}
	}
	return all, nil
}

// Lstat is fs.ReadLinkFS's.
func (b below) Lstat(name string) (fs.FileInfo, error) {
	f, err := b.look("lstat", name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// ReadLink is fs.ReadLinkFS's.
func (b below) ReadLink(name string) (string, error) {
	f, err := b.look("readlink", name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// look opens what has a name itself, also a link.
func (b below) look(op, name string) (*os.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	f, err := Open(b.root, path.Join("/", name), unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: fmt.Errorf("in the root: %w", err)}
	}
	return f, nil
}
