package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/inroot"
)

// File is a file to be written into a root.
type File struct {
	Path     string // absolute, in the root
	Data     []byte
	Mode     uint32 // permission bits
	UID, GID uint32 // the container's ids
}

// tempName is the name that a file has until it is whole. It is always the same, so
// that what a killed process left is replaced by the next.
const tempName = ".lxcboot.tmp"

// WriteFile writes a file below a root that is not trusted. Links among the
// directories are followed inside the root; the file itself is made anew under
// another name and moved into place, so that a link or a hard link that stands
// there is replaced and never written through. A directory, FIFO, socket or device
// there is ErrOutside. Missing directories are made, with the file's owner. When
// WriteFile returns, the file is on the disk. ids is how the root is mounted: nil
// for a mount without a mapping.
func WriteFile(root string, f File, ids *IDMap) error {
	// All of it as the container's root: to make a name in a directory of an
	// idmapped mount takes an id that the mapping knows.
	if err := as(ids, func() error { return write(root, f, ids) }); err != nil {
		return fmt.Errorf("cannot write %s in the root: %w", f.Path, err)
	}
	return nil
}

// plain refuses a path that is no absolute path of a file.
func plain(name string) error {
	if !path.IsAbs(name) || path.Clean(name) != name || name == "/" || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%w: %q is no absolute, clean path of a file", ErrOutside, name)
	}
	if base := path.Base(name); len(base) > unix.NAME_MAX || base == tempName {
		return fmt.Errorf("%w: %q is no name for a file", ErrOutside, base)
	}
	return nil
}

func write(root string, f File, ids *IDMap) error {
	if err := plain(f.Path); err != nil {
		return err
	}
	uid, err := ids.host(f.UID)
	if err != nil {
		return err
	}
	gid, err := ids.host(f.GID)
	if err != nil {
		return err
	}
	top, err := inroot.Dir(root)
	if err != nil {
		return err
	}
	defer top.Close()
	dir, err := makeDirs(top, path.Dir(f.Path), uid, gid)
	if err != nil {
		return err
	}
	defer dir.Close()
	return replace(dir, path.Base(f.Path), f, uid, gid)
}

// replace puts a new file in the place of a name.
func replace(dir *os.File, name string, f File, uid, gid int) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		if t := st.Mode & unix.S_IFMT; t != unix.S_IFREG && t != unix.S_IFLNK {
			return fmt.Errorf("%w: it is not a regular file", ErrOutside)
		}
	} else if !errors.Is(err, unix.ENOENT) {
		return err
	}
	err = place(dir, name, func() error {
		return create(dir, tempName, uid, gid, f.Mode, func(out *os.File) error {
			_, err := out.Write(f.Data)
			return err
		})
	})
	if err != nil {
		return err
	}
	return dir.Sync()
}

// place makes something as tempName and moves it to its name. When that fails,
// nothing is left of it.
func place(dir *os.File, name string, make func() error) error {
	at := int(dir.Fd())
	if err := removeTemp(dir); err != nil {
		return err
	}
	err := make()
	if err == nil {
		fault.Point("rootfs/write/whole")
		err = unix.Renameat(at, tempName, at, name)
	}
	if err != nil {
		return errors.Join(err, removeTemp(dir))
	}
	return nil
}

// removeTemp removes what a killed process left.
func removeTemp(dir *os.File) error {
	if err := remove(dir, tempName, 0); err != nil {
		return fmt.Errorf("what is in the way as %s: %w", tempName, err)
	}
	return nil
}

// remove removes a name that may not be there. It looks first: a read-only filesystem
// refuses to remove even what is not there.
func remove(dir *os.File, name string, flags int) error {
	at := int(dir.Fd())
	var st unix.Stat_t
	err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = unix.Unlinkat(at, name, flags)
		fault.Point("rootfs/removed")
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// create makes a file that is not there yet, and brings it to the disk.
func create(dir *os.File, name string, uid, gid int, mode uint32, fill func(*os.File) error) (err error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), name)
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := fill(out); err != nil {
		return err
	}
	// The owner first: a change of it takes set-user-ID away.
	if err := out.Chown(uid, gid); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, mode&0o7777); err != nil {
		return err
	}
	return out.Sync()
}

// makeDirs opens a directory below the root, making what is missing of it.
func makeDirs(root *os.File, name string, uid, gid int) (*os.File, error) {
	at, missing, err := nearest(root, name)
	if err != nil {
		return nil, err
	}
	for _, part := range missing {
		next, err := makeDir(at, part, uid, gid)
		at.Close()
		if err != nil {
			return nil, err
		}
		at = next
		fault.Point("rootfs/write/directory")
	}
	return at, nil
}

// nearest opens the directory at name below a root, or the last one that there is on
// the way to it, and says what is missing below that.
func nearest(root *os.File, name string) (at *os.File, missing []string, err error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY
	if at, err = inroot.Open(root, "/", flags); err != nil {
		return nil, nil, err
	}
	parts := strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
	for i, part := range parts {
		done := "/" + path.Join(parts[:i+1]...)
		next, err := inroot.Open(root, done, flags)
		if errors.Is(err, unix.ENOENT) {
			var st unix.Stat_t
			if errors.Is(unix.Fstatat(int(at.Fd()), part, &st, unix.AT_SYMLINK_NOFOLLOW), unix.ENOENT) {
				return at, parts[i:], nil
			} // else it is a link to what is not there
		}
		at.Close()
		if err != nil {
			if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOENT) {
				err = fmt.Errorf("%w: %s is neither a directory nor a link to one (%w)", ErrOutside, done, err)
			}
			return nil, nil, err
		}
		at = next
	}
	return at, nil, nil
}

// makeDir makes a directory of the owner; SSH wants its own closed to others.
func makeDir(parent *os.File, name string, uid, gid int) (_ *os.File, err error) {
	at, mode := int(parent.Fd()), uint32(0o755)
	if name == ".ssh" {
		mode = 0o700
	}
	if err := unix.Mkdirat(at, name, mode); err != nil {
		return nil, err
	}
	// Nobody may have put a link in its place meanwhile.
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(fd), name)
	defer func() {
		if err != nil {
			dir.Close()
		}
	}()
	if err := dir.Chown(uid, gid); err != nil {
		return nil, err
	}
	// Not through the umask.
	if err := unix.Fchmod(fd, mode); err != nil {
		return nil, err
	}
	return dir, parent.Sync()
}
