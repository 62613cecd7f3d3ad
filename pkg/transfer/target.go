package transfer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// target is where a copy goes.
type target struct {
	dir  *os.File // where the entries are made
	name string   // what a single file is called there; empty: a tree, whose top dir is
	made bool     // dir was made for the copy, and gets what the tree's top has
}

// find finds, by the rules of docker cp, where a copy goes that begins with an entry. What
// is typed may lead through links; what comes from the other side does not.
func (o UnpackOptions) find(dest string, first Entry) (*target, error) {
	if dest == "" {
		dest = "."
	}
	var st unix.Stat_t
	err := unix.Stat(dest, &st)
	kind := st.Mode & unix.S_IFMT
	switch {
	case err != nil && !errors.Is(err, unix.ENOENT):
		return nil, failure.Invalid("cannot copy to %q: %w", dest, err)
	case err == nil && kind != unix.S_IFDIR && strings.HasSuffix(dest, "/"):
		return nil, failure.Invalid("cannot copy to %q: it is not a directory", dest)
	case o.Members && (err != nil || kind != unix.S_IFDIR):
		return nil, failure.Invalid("cannot unpack in %q: there is no such directory", dest)
	case o.Members:
		return openTarget(dest, "")
	case first.Type == Directory && first.Name == ".":
		return o.findTree(dest, err == nil, kind)
	case !local(first.Name) || strings.Contains(first.Name, "/"):
		return nil, fmt.Errorf("the name %q leads out of what is copied", first.Name)
	}
	return o.findFile(dest, err == nil, &st)
}

// findFile is where a single file goes.
func (o UnpackOptions) findFile(dest string, there bool, st *unix.Stat_t) (*target, error) {
	base, noName := Base(dest)
	switch {
	case there && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return openTarget(dest, o.Base)
	case there && st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, failure.Invalid("cannot copy to %q: what is there is neither a file nor a directory", dest)
	case !there && (noName || strings.HasSuffix(dest, "/")):
		return nil, failure.Invalid("cannot copy to %q: there is no such directory", dest)
	}
	var link unix.Stat_t
	if err := unix.Lstat(dest, &link); err == nil && link.Mode&unix.S_IFMT == unix.S_IFLNK {
		if !there {
			return nil, failure.Invalid("cannot copy to %q: it is a link that leads to nothing", dest)
		}
		return openLinked(dest)
	}
	return openTarget(path.Dir(dest), base)
}

// openLinked is where the file is that a link leads to, as the kernel follows it: it may
// refuse to, as where the link is another user's in a directory of everybody.
func openLinked(dest string) (*target, error) {
	fd, err := unix.Open(dest, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, failure.Invalid("cannot copy to %q: %w", dest, err)
	}
	defer unix.Close(fd)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd), buf)
	if err != nil {
		return nil, failure.Invalid("cannot copy to %q: it is a link, and cannot be followed: %w", dest, err)
	}
	file := string(buf[:n])
	t, err := openTarget(path.Dir(file), path.Base(file))
	if err != nil {
		return nil, err
	}
	var want, is unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &want), unix.Fstatat(int(t.dir.Fd()), t.name, &is, unix.AT_SYMLINK_NOFOLLOW)); err != nil || want.Dev != is.Dev || want.Ino != is.Ino {
		t.dir.Close()
		return nil, failure.Invalid("cannot copy to %q: it is a link, and cannot be followed", dest)
	}
	return t, nil
}

// findTree is where a directory goes, which is made if it is not there.
func (o UnpackOptions) findTree(dest string, there bool, kind uint32) (*target, error) {
	switch {
	case there && kind != unix.S_IFDIR:
		return nil, failure.Invalid("cannot copy to %q: a directory cannot replace what is there", dest)
	case there && o.Base == "": // content
		return openTarget(dest, "")
	case there:
		t, err := openTarget(dest, "")
		if err != nil {
			return nil, err
		}
		defer t.dir.Close()
		return makeTarget(t.dir, o.Base, dest)
	}
	base, noName := Base(dest)
	if noName {
		return nil, failure.Invalid("cannot copy to %q: there is no such directory", dest)
	}
	above, err := openTarget(path.Dir(strings.TrimRight(dest, "/")), "")
	if err != nil {
		return nil, err
	}
	defer above.dir.Close()
	return makeTarget(above.dir, base, dest)
}

// makeTarget is a directory in another, which may be there.
func makeTarget(above *os.File, base, dest string) (*target, error) {
	err := unix.Mkdirat(int(above.Fd()), base, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("cannot make the directory %q at %q: %w", base, dest, err)
	}
	dir, failed := openDir(above, base)
	if failed != nil {
		return nil, failure.Invalid("cannot copy to %q: what is called %q there is not a directory", dest, base)
	}
	return &target{dir, "", err == nil}, nil
}

func openTarget(dir, name string) (*target, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, failure.Invalid("cannot copy to the directory %q: %w", dir, err)
	}
	return &target{os.NewFile(uintptr(fd), dir), name, false}, nil
}

// openDir opens a directory below another, with no link on the way.
func openDir(top *os.File, name string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(int(top.Fd()), name, &how)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
