package lxc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// programName is the program that stands between libvirt and a container's own init.
const programName = "lxcboot-init"

// launchTarget is where it is in the container until it executes that init.
const launchTarget = "/dev/.lxcboot"

// The other files of a Launch.
const (
	ordersName = "orders"
	holdName   = "hold" // a FIFO; the init is let go when it is not there, or its writers are gone
)

// Launch is what the container's first process, lxcboot-init, is told: what it makes
// of the container, and which init it executes then.
type Launch struct {
	Program    string // lxcboot-init on this host
	Group      string // its own in v1's hierarchy of systemd, as cgroup.Make gives it; empty: none
	Init       string // absolute path inside the root
	Args       []string
	Env        map[string]string // beside and before what libvirt gives
	Hostname   string            // empty: libvirt's, the domain's name
	Privileged bool              // nothing is masked, and no system call filtered
	Unfiltered bool              // no system call is filtered
}

// Mount mounts a small filesystem with the program and its orders at dir, which
// exists, in place of one that is there already. The orders hold the environment: none
// but the container's root may reach dir. A failed Mount mounts nothing.
func (l Launch) Mount(dir string) error {
	orders, err := l.orders()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(l.Program)
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w", programName, err)
	}
	if err := UnmountLaunch(dir); err != nil {
		return err
	}
	mnt, err := newTmpfs()
	if err != nil {
		return fmt.Errorf("cannot make a filesystem for the container's start: %w", err)
	}
	defer mnt.Close()
	err = errors.Join(
		createAt(mnt, programName, program, 0o555),
		createAt(mnt, ordersName, orders.Bytes(), 0o444),
		unix.Mknodat(int(mnt.Fd()), holdName, unix.S_IFIFO|0o600, 0),
		unix.Fchmodat(int(mnt.Fd()), holdName, 0o444, 0),
	)
	if err != nil {
		return fmt.Errorf("cannot write what the container's start needs: %w", err)
	}
	if err := unix.MoveMount(int(mnt.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot mount what the container's start needs at %s: %w", dir, err)
	}
	// It has reached the namespaces that have to see it; nothing more is to spread.
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return errors.Join(fmt.Errorf("cannot make the mount at %s private: %w", dir, err), UnmountLaunch(dir))
	}
	return nil
}

// newTmpfs makes a tmpfs that is not yet anywhere in the tree. Its mount has no flags:
// libvirt, in a user namespace, could not make it read-only without losing them, and
// the kernel forbids that there.
func newTmpfs() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "mode", "0711"), unix.FsconfigCreate(fs)); err != nil {
		return nil, err
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(mnt), "tmpfs"), nil
}

func createAt(dir *os.File, name string, data []byte, mode uint32) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(os.FileMode(mode)), f.Close())
}

// UnmountLaunch takes away what Mount made; a container that runs already has its own.
// Nothing mounted at dir, or no dir, is done.
func UnmountLaunch(dir string) error {
	for {
		switch err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
		case nil:
		case unix.EINVAL, unix.ENOENT:
			return nil
		default:
			return fmt.Errorf("cannot unmount %s: %w", dir, err)
		}
	}
}

// Hold is a container's init held back.
type Hold struct {
	dir  int // the launch directory
	fifo int
}

// HoldInit holds the init that is launched from dir, which is mounted and not started
// yet, until it is released or this process has ended.
func HoldInit(dir string) (*Hold, error) {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot hold the container's init: %w", err)
	}
	fifo, err := unix.Openat(d, holdName, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		unix.Close(d)
		return nil, fmt.Errorf("cannot hold the container's init: %w", err)
	}
	return &Hold{d, fifo}, nil
}

// Release lets the init go, now or as soon as it comes. Again it does nothing.
func (h *Hold) Release() {
	if h.dir < 0 {
		return
	}
	// First removed, then closed: who still finds it gets to know of the end.
	unix.Unlinkat(h.dir, holdName, 0)
	unix.Close(h.fifo)
	unix.Close(h.dir)
	h.dir = -1
}

// ReleaseInit lets the init go that is launched from dir, now or as soon as it comes,
// unless a Hold has it. One that was released before, or whose launch is not mounted
// any more, is done.
func ReleaseInit(_ context.Context, dir string) error {
	h, err := HoldInit(dir)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		h.Release()
	}
	return err
}

// orders are what run_init in cmd/lxcboot-init reads.
func (l Launch) orders() (*orders, error) {
	if !path.IsAbs(l.Init) {
		return nil, invalid("the init must be an absolute path, not %q", l.Init)
	}
	if len(l.Hostname) > 64 {
		return nil, invalid("the host name %q is longer than 64 bytes", l.Hostname)
	}
	var env []string
	for _, name := range slices.Sorted(maps.Keys(l.Env)) {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return nil, invalid("%q is not the name of an environment variable", name)
		}
		env = append(env, name+"="+l.Env[name])
	}
	if slices.ContainsFunc(slices.Concat([]string{l.Init, l.Hostname, l.Group}, l.Args, env), func(s string) bool { return strings.ContainsRune(s, 0) }) {
		return nil, invalid("the init, its arguments and its environment cannot hold a zero byte")
	}
	var o orders
	o.flag(l.Privileged)
	o.flag(!l.Privileged && !l.Unfiltered)
	o.text(l.Hostname)
	o.text(l.Init)
	o.list(append([]string{l.Init}, l.Args...))
	o.list(env)
	o.text(l.Group)
	return &o, nil
}

// launchedInit is the init that the launch at dir names; empty when that is not mounted.
func launchedInit(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, ordersName))
	if fields := strings.SplitN(string(data), "\x00", 5); err == nil && len(fields) == 5 {
		return fields[3]
	}
	return ""
}

// orders are texts, each with a zero byte at its end, as cmd/lxcboot-init takes them.
type orders struct{ bytes.Buffer }

func (o *orders) text(s string) {
	io.WriteString(o, s)
	o.WriteByte(0)
}

func (o *orders) number(n uint64) { o.text(strconv.FormatUint(n, 10)) }

func (o *orders) flag(on bool) {
	if on {
		o.number(1)
	} else {
		o.number(0)
	}
}

func (o *orders) list(texts []string) {
	o.number(uint64(len(texts)))
	for _, s := range texts {
		o.text(s)
	}
}
