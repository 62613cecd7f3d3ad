package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/loop"
)

// The kinds of failure of mounting.
var (
	ErrMount            = errors.New("cannot mount")
	ErrBusy             = errors.New("mount is busy")
	ErrIDMapUnsupported = errors.New("the filesystem's driver cannot map ids")
)

// MountOptions say how a filesystem is mounted.
type MountOptions struct {
	ReadOnly bool
	IDMap    *IDMap // nil: ids as on the disk
	DirectIO bool   // a loop device passes the page cache of its file by, where that can be
	// Alone refuses a filesystem that is mounted already, where the kernel can tell (Linux
	// 6.6): else it would be that one, with two users who do not know of each other.
	Alone bool
}

// Mount mounts the filesystem that Probe found on device at target, a directory
// that the caller made: nodev, private, of the probed type and no other, and
// read-only when that is asked for or the type or the device is. A regular file or
// a partition gets a loop device that the kernel frees with the last mount of it,
// in whatever mount namespace that is. The subvolumes of a root's tree are mounted in
// it, but for those whose directory is not there, or a link. A failed Mount leaves nothing.
func Mount(ctx context.Context, device string, fsys Filesystem, target string, o MountOptions) error {
	if !slices.Contains(AllowList, fsys.Type) {
		return fmt.Errorf("%w %s: a filesystem of type %q is not allowed; %s", ErrMount, device, fsys.Type, allowed)
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%w %s: %w", ErrMount, device, err)
	}
	backing, readOnly, err := openDevice(device, o.ReadOnly || fsys.ReadOnly)
	if err != nil {
		return fmt.Errorf("%w %s: %w", ErrMount, device, err)
	}
	defer backing.Close()
	source, held, err := blockDevice(ctx, backing, fsys, loop.Options{ReadOnly: readOnly, DirectIO: o.DirectIO})
	if err != nil {
		return fmt.Errorf("%w %s: %w", ErrMount, device, err)
	}
	if held != nil {
		defer held.Close()
	}
	create := unix.FsconfigCreate
	if o.Alone {
		create = createAlone
	}
	mnt, err := newMountBy(source, fsys, readOnly, create)
	if err != nil {
		return fmt.Errorf("%w %s from %s: %w", ErrMount, article(fsys.Type), device, err)
	}
	defer mnt.Close()
	if err := setAttributes(mnt, device, fsys, o); err != nil {
		return err
	}
	if len(fsys.Mounts) == 0 {
		if err := moveTo(mnt, target); err != nil {
			return fmt.Errorf("%w %s at %s: %w", ErrMount, device, target, err)
		}
		return nil
	}
	// What is mounted in it, and the end of that, has to reach the same namespaces: so it stays
	// as shared as its parent is.
	if err := move(mnt, target); err != nil {
		return fmt.Errorf("%w %s at %s: %w", ErrMount, device, target, err)
	}
	if err := mountSubvolumes(source, fsys, target, readOnly, o); err != nil {
		return errors.Join(fmt.Errorf("%w %s: %w", ErrMount, device, err), Unmount(target))
	}
	return nil
}

// setAttributes makes of a mount that is nowhere in the tree what MountOptions say: nodev and,
// until it is moved, private.
func setAttributes(mnt *os.File, device string, fsys Filesystem, o MountOptions) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if o.IDMap != nil {
		ns, err := o.IDMap.namespace()
		if err != nil {
			return fmt.Errorf("%w %s: %w", ErrMount, device, err)
		}
		defer ns.Close()
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(ns.Fd())
	}
	if err := unix.MountSetattr(int(mnt.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != nil {
		if o.IDMap != nil && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS)) {
			return fmt.Errorf("%w: %s on this kernel (%w); boot with --privileged, or convert the root to ext4", ErrIDMapUnsupported, fsys.Type, err)
		}
		return fmt.Errorf("%w %s: set its attributes: %w", ErrMount, device, err)
	}
	return nil
}

func move(mnt *os.File, target string) error {
	err := unix.MoveMount(int(mnt.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err == nil {
		fault.Point("rootfs/mount/moved")
	}
	return err
}

// moveTo puts a mount that is nowhere in the tree at a directory.
func moveTo(mnt *os.File, target string) error {
	if err := move(mnt, target); err != nil {
		return err
	}
	// Below a shared parent the new mount is shared too: so it reached the namespaces
	// that have to see it. What is mounted below it must not. Its end still reaches
	// them, for that goes by the parent.
	if err := unix.Mount("", target, "", unix.MS_PRIVATE, ""); err != nil {
		return errors.Join(fmt.Errorf("make it private: %w", err), Unmount(target))
	}
	return nil
}

// openDevice opens what is to be mounted, once. What cannot be written to, being a
// read-only block device or on a read-only filesystem, is read-only.
func openDevice(device string, readOnly bool) (*os.File, bool, error) {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(device, mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EROFS) {
		readOnly = true
		f, err = os.OpenFile(device, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, false, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Type() == os.ModeDevice {
		var ro int
		if ro, err = unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET); ro != 0 {
			readOnly = true
		}
	} else if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is neither a block device nor a regular file")
	}
	if err != nil {
		f.Close()
		return nil, false, err
	}
	return f, readOnly, nil
}

// blockDevice is the node to mount from: a block device's own, or that of a loop
// device, which is there as long as held is open and is as o says.
func blockDevice(ctx context.Context, backing *os.File, fsys Filesystem, o loop.Options) (source string, held *os.File, err error) {
	info, err := backing.Stat()
	if err != nil {
		return "", nil, err
	}
	if !info.Mode().IsRegular() && fsys.Partition == 0 {
		node, err := filepath.EvalSymlinks(backing.Name()) // by which the kernel's log names it
		return node, nil, err
	}
	o.Offset, o.Autoclear = fsys.Offset, true
	if fsys.Partition != 0 {
		o.SizeLimit = fsys.Size
	}
	dev, held, err := loop.AttachFile(ctx, backing, o)
	return dev.Path, held, err
}

// newMount makes a mount of the filesystem that is not yet anywhere in the tree.
func newMount(source string, fsys Filesystem, readOnly bool) (*os.File, error) {
	return newMountBy(source, fsys, readOnly, unix.FsconfigCreate)
}

func newMountBy(source string, fsys Filesystem, readOnly bool, create func(fd int) error) (*os.File, error) {
	fd, err := openType(fsys.Type)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	log := kernelLog(filepath.Base(source))
	defer log.close()
	if err := unix.FsconfigSetString(fd, "source", source); err != nil {
		return nil, explain(fd, log, fsys, err)
	}
	all := options(fsys.Type, readOnly)
	if fsys.Subvolume != "" {
		all = append(all, option{"subvol", fsys.Subvolume})
	}
	for _, o := range all {
		if o.value == "" {
			err = unix.FsconfigSetFlag(fd, o.key)
		} else {
			err = unix.FsconfigSetString(fd, o.key, o.value)
		}
		if err != nil {
			return nil, explain(fd, log, fsys, fmt.Errorf("option %s: %w", o.key, err))
		}
	}
	if err := create(fd); err != nil {
		return nil, explain(fd, log, fsys, err)
	}
	attr := unix.MOUNT_ATTR_NODEV
	if readOnly {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return nil, explain(fd, log, fsys, err)
	}
	return os.NewFile(uintptr(mnt), source), nil
}

// createAlone is FsconfigCreate that fails with EBUSY where the filesystem is mounted.
func createAlone(fd int) error {
	const createExcl = 8 // FSCONFIG_CMD_CREATE_EXCL
	switch _, _, err := unix.Syscall6(unix.SYS_FSCONFIG, uintptr(fd), createExcl, 0, 0, 0, 0); err {
	case 0:
		return nil
	case unix.EOPNOTSUPP, unix.EINVAL: // an older kernel
		return unix.FsconfigCreate(fd)
	default:
		return err
	}
}

// openType opens the driver of a type. That of ext4 reads ext2 and ext3 too, and
// unlike theirs it can map ids.
func openType(kind string) (int, error) {
	drivers := []string{kind}
	if kind == "ext2" || kind == "ext3" {
		drivers = []string{"ext4", kind}
	}
	for _, d := range drivers {
		fd, err := unix.Fsopen(d, unix.FSOPEN_CLOEXEC)
		if !errors.Is(err, unix.ENODEV) {
			return fd, err
		}
	}
	return -1, fmt.Errorf("this kernel has no driver for %s (try: modprobe %s)", kind, kind)
}

type option struct{ key, value string }

// options are the mount options of a type. No filesystem can make the kernel panic, no
// journal is replayed on a read-only one, and two of the same UUID can be mounted, as
// volumes that were made of one image have it.
func options(kind string, readOnly bool) (all []option) {
	if readOnly {
		all = append(all, option{key: "ro"})
	}
	switch kind {
	case "ext2", "ext3", "ext4":
		// The superblock itself may ask for a panic on the first error.
		all = append(all, option{"errors", "remount-ro"})
		if readOnly && kind != "ext2" {
			all = append(all, option{key: "noload"})
		}
	case "xfs":
		all = append(all, option{key: "nouuid"})
		if readOnly {
			all = append(all, option{key: "norecovery"})
		}
	case "btrfs":
		if readOnly {
			all = append(all, option{"rescue", "nologreplay"})
		}
	}
	return all
}
