package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

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
func replace(dir *os.File, name string, f File, uid, gid int) (err error) {
	at := int(dir.Fd())
	var st unix.Stat_t
	err = unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		if t := st.Mode & unix.S_IFMT; t != unix.S_IFREG && t != unix.S_IFLNK {
			return fmt.Errorf("%w: it is not a regular file", ErrOutside)
		}
	} else if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := unix.Unlinkat(at, tempName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("what is in the way as %s: %w", tempName, err)
	}
	fd, err := unix.Openat(at, tempName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), tempName)
	defer func() {
		err = errors.Join(err, out.Close())
		if err != nil {
			_ = unix.Unlinkat(at, tempName, 0)
		}
	}()
	if _, err := out.Write(f.Data); err != nil {
		return err
	}
	// The owner first: a change of it takes set-user-ID away.
	if err := out.Chown(uid, gid); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, f.Mode&0o7777); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	if err := unix.Renameat(at, tempName, at, name); err != nil {
		return err
	}
	return dir.Sync()
}

// makeDirs opens a directory below the root, making what is missing of it.
func makeDirs(root *os.File, name string, uid, gid int) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY
	at, err := inroot.Open(root, "/", flags)
	if err != nil {
		return nil, err
	}
	done := "/"
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if part == "" {
			continue
		}
		done = path.Join(done, part)
		next, err := inroot.Open(root, done, flags)
		if errors.Is(err, unix.ENOENT) {
			if err = makeDir(at, part, uid, gid); err == nil {
				next, err = inroot.Open(root, done, flags)
			}
		}
		at.Close()
		if err != nil {
			if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOENT) {
				err = fmt.Errorf("%w: %s is neither a directory nor a link to one (%w)", ErrOutside, done, err)
			}
			return nil, err
		}
		at = next
	}
	return at, nil
}

// makeDir makes a directory of the owner; SSH wants its own closed to others.
func makeDir(parent *os.File, name string, uid, gid int) error {
	at, mode := int(parent.Fd()), uint32(0o755)
	if name == ".ssh" {
		mode = 0o700
	}
	if err := unix.Mkdirat(at, name, mode); err != nil {
		if errors.Is(err, unix.EEXIST) { // a link to what is not there
			return unix.ENOENT
		}
		return err
	}
	// Nobody may have put a link in its place meanwhile.
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return err
	}
	// Not through the umask.
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	return parent.Sync()
}
