package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/fault"
)

// MountMemory mounts a tmpfs of at most so many bytes at target, as the upper side of an
// overlay.
func MountMemory(target string, size int64) error {
	err := mountNew("tmpfs", target, option{"size", fmt.Sprint(size)}, option{"mode", "0700"})
	if err != nil {
		return fmt.Errorf("%w a tmpfs of %d bytes: %w", ErrMount, size, err)
	}
	return nil
}

// Overlay mounts a writable root at target: what is mounted at lower, which stays as it
// is, and over it what is written, in a directory of what is mounted at upper. Both may be
// unmounted afterwards. upper must be mounted without a mapping of ids, since the kernel
// would not write to it: so what is written belongs to the host's ids. Attributes in lower
// lead nowhere else.
func Overlay(lower, upper, target string) error {
	written, work := filepath.Join(upper, "root"), filepath.Join(upper, "work")
	err := makeUpper(lower, written)
	if err == nil {
		err = makeDirectory(work)
	}
	if err == nil {
		err = mountNew("overlay", target,
			option{"lowerdir", lower}, option{"upperdir", written}, option{"workdir", work},
			option{"redirect_dir", "nofollow"}, option{"metacopy", "off"}, option{"index", "off"})
	}
	if err != nil {
		return fmt.Errorf("%w an overlay at %s: %w", ErrMount, target, err)
	}
	return nil
}

// makeUpper makes the directory of what is written, which becomes the root, with the
// lower's owner and mode; one that is there is the container's.
func makeUpper(lower, written string) error {
	if _, err := os.Lstat(written); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var root unix.Stat_t
	if err := unix.Stat(lower, &root); err != nil {
		return err
	}
	half := written + ".new"
	if err := makeDirectory(half); err != nil {
		return err
	}
	if err := errors.Join(os.Lchown(half, int(root.Uid), int(root.Gid)), unix.Chmod(half, root.Mode&0o7777)); err != nil {
		return err
	}
	fault.Point("rootfs/overlay/made")
	return os.Rename(half, written)
}

func makeDirectory(name string) error {
	if err := os.Mkdir(name, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// mountNew mounts a filesystem without a device.
func mountNew(kind, target string, options ...option) error {
	fd, err := openType(kind)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, o := range append(options, option{"source", "lxcboot"}) {
		if err := unix.FsconfigSetString(fd, o.key, o.value); err != nil {
			return fmt.Errorf("option %s: %w", o.key, err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return fmt.Errorf("%w%s", err, because(contextMessages(fd)))
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(mnt), kind)
	defer f.Close()
	return moveTo(f, target)
}
