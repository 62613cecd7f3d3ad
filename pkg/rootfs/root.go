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

var (
	// ErrNoInit is wrapped when a root has nothing to start.
	ErrNoInit = errors.New("no init")
	// ErrOutside is wrapped when a path in a root is not what it has to be: a plain
	// file, or a directory on the way to one.
	ErrOutside = errors.New("not a plain path in the root")
)

// Inits is where an init is looked for, in this order, when none is named. A shell
// is not among them: a container that runs one ends at once, without a terminal.
var Inits = []string{"/sbin/init", "/etc/init", "/bin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"}

// FindInit finds the program to start in a root: the one named, else the first of
// Inits that is there. Links are followed inside the root only, as the container
// will. The path is the one to give to the container. The error wraps ErrNoInit and
// says what was tried.
func FindInit(root, init string) (string, error) {
	candidates, mend := Inits, "name one with --init"
	if init != "" {
		if !path.IsAbs(init) || strings.ContainsRune(init, 0) {
			return "", fmt.Errorf("%w: %q is no absolute path in the root", ErrNoInit, init)
		}
		candidates, mend = []string{init}, "name another with --init"
	}
	dir, err := inroot.Dir(root)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoInit, err)
	}
	defer dir.Close()
	var tried []string
	for _, c := range candidates {
		err := executable(dir, c)
		if err == nil {
			return c, nil
		}
		tried = append(tried, fmt.Sprintf("%s (%v)", c, err))
	}
	return "", fmt.Errorf("%w in the root: tried %s; %s", ErrNoInit, strings.Join(tried, ", "), mend)
}

// executable says what keeps a path from being a program.
func executable(root *os.File, name string) error {
	f, err := inroot.Open(root, name, unix.O_PATH)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return errors.New("not there")
	case errors.Is(err, unix.ELOOP):
		return errors.New("a link that leads to itself")
	case err != nil:
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("is " + kind(info.Mode()))
	case info.Mode().Perm()&0o111 == 0:
		return errors.New("is not executable")
	case info.Size() == 0:
		return errors.New("is empty")
	}
	return nil
}

// kind is what a file is that is not a regular one.
func kind(m os.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&os.ModeSymlink != 0:
		return "a link"
	case m&os.ModeNamedPipe != 0:
		return "a FIFO"
	case m&os.ModeSocket != 0:
		return "a socket"
	case m&os.ModeDevice != 0:
		return "a device"
	}
	return "no regular file"
}

// CheckMountpoint refuses a directory that something is mounted at while the container
// starts, when it or one on the way to it is a link or no directory. Until the container
// is whole, libvirt has the host's root at /.oldroot of the container's, where a link
// could lead. One that is not there is fine: libvirt makes it.
func CheckMountpoint(root, name string) error {
	dir, err := inroot.Dir(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = direct(dir, name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// direct says why a directory cannot be mounted at; ENOENT: it is not there.
func direct(root *os.File, name string) error {
	f, err := inroot.OpenDirect(root, name, unix.O_PATH|unix.O_DIRECTORY)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, unix.ELOOP):
		return fmt.Errorf("%w: it is a link or lies behind one, which could lead to the host; make it a directory", ErrOutside)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: it, or what it lies in, is no directory; make it one", ErrOutside)
	}
	return err
}

// MakeMountpoint is CheckMountpoint for a container that runs, of which root is the root
// directory: the directory is made when it is not there, as libvirt does it at a start. ids
// are the container's.
func MakeMountpoint(root *os.File, name string, ids *IDMap) error {
	err := direct(root, name)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	owner, err := ids.host(0)
	if err != nil {
		return err
	}
	return as(ids, func() error {
		dir, err := makeDirs(root, name, owner, owner)
		if err != nil {
			return err
		}
		return dir.Close()
	})
}
