package rootfs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The kernel's FIFREEZE and FITHAW of linux/fs.h.
const (
	fifreeze = 0xc0045877
	fithaw   = 0xc0045878
)

// OpenTop opens the top of a filesystem that is mounted from the block device carrier,
// wherever that is: what is over it there, or was mounted away, is not in the way.
func OpenTop(carrier string, fsys Filesystem) (*os.File, error) {
	mnt, err := newMount(carrier, fsys, false)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("it is mounted read-only, as after an error, or used by something else: %w", err)
	}
	if err != nil {
		return nil, err
	}
	defer mnt.Close()
	fd, err := unix.Openat(int(mnt.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), carrier), nil
}

// Freeze holds back all who write to the filesystem of an open directory, once what they
// have written is on its device. It stays so until Thaw, also when this process ends.
func Freeze(dir *os.File) error {
	// Most of it while they still may write.
	err := unix.Syncfs(int(dir.Fd()))
	if err == nil {
		err = unix.IoctlSetInt(int(dir.Fd()), fifreeze, 0)
	}
	if err != nil {
		return fmt.Errorf("cannot freeze the filesystem on %s: %w", dir.Name(), err)
	}
	return nil
}

// Thaw undoes Freeze, and says whether the filesystem was frozen until now.
func Thaw(dir *os.File) (frozen bool, err error) {
	err = unix.IoctlSetInt(int(dir.Fd()), fithaw, 0)
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot thaw the filesystem on %s: %w", dir.Name(), err)
	}
	return true, nil
}
