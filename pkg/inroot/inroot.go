// Package inroot opens what is below a root that is not trusted: a container's, or that
// of a volume. Its links lead nowhere but inside.
package inroot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Dir opens the directory that is the root.
func Dir(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// Open opens a path below a root: absolute links begin at the root, and neither they nor
// ".." nor the links of /proc lead out of it. A FIFO is not waited for, and a terminal
// does not become the caller's. Nothing is made: flags are without O_CREAT.
func Open(root *os.File, name string, flags int) (*os.File, error) {
	return open(root, name, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// OpenDirect is Open for a path on which no link may be: then the error is ELOOP.
func OpenDirect(root *os.File, name string, flags int) (*os.File, error) {
	return open(root, name, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
}

// OpenTerminal opens a terminal of a container's own devpts for reading and writing, and
// nothing that merely has its name. The file is non-blocking.
func OpenTerminal(root *os.File, name string) (*os.File, error) {
	// Looked at before it is opened, for to open a device may already have effects.
	look, err := Open(root, name, unix.O_PATH)
	if err != nil {
		return nil, fmt.Errorf("there is no terminal /%s: %w", name, err)
	}
	defer look.Close()
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Fstat(int(look.Fd()), &st), unix.Fstatfs(int(look.Fd()), &fs)); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return nil, fmt.Errorf("/%s is not a terminal", name)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", look.Fd()), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the terminal /%s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// tries is how often a path with ".." in it is looked up: while anything anywhere on the
// host is renamed or mounted, the kernel cannot be sure of it, and says EAGAIN.
const tries = 1000

func open(root *os.File, name string, flags int, resolve uint64) (*os.File, error) {
	if flags&unix.O_PATH == 0 { // which goes with neither
		flags |= unix.O_NONBLOCK | unix.O_NOCTTY
	}
	fd, err := -1, error(unix.EAGAIN)
	for try := 0; err == unix.EAGAIN && try < tries; try++ {
		fd, err = unix.Openat2(int(root.Fd()), name, &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve})
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
