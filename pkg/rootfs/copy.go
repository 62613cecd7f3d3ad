package rootfs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
)

// Copy gives a mount, which is nowhere in the tree yet, of what is mounted at target: for a
// container with these ids, that runs already. Its root can change as little of it (nodev,
// above all) as of what was mounted before the container was made: the kernel locks the
// flags of what is copied with a whole mount namespace into a new user namespace, and keeps
// them locked in copies of that.
func Copy(target string, ids *IDMap) (mnt *os.File, err error) {
	if ids == nil { // no user namespace: nothing would be locked at a start either
		mnt, err = clone(unix.AT_FDCWD, target)
	} else {
		err = ids.process(unix.CLONE_NEWNS, func(pid int) error {
			held, err := proc.Open(pid)
			if err != nil {
				return err
			}
			defer held.Close()
			// By the process's root, which is ours: a namespace's may be another.
			at, err := os.OpenFile(fmt.Sprintf("/proc/%d/root%s", pid, target), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer at.Close()
			return proc.InMounts(held, func() (err error) {
				mnt, err = clone(int(at.Fd()), "")
				return err
			})
		})
	}
	if err != nil {
		return nil, fmt.Errorf("%w what is at %s a second time: %w", ErrMount, target, err)
	}
	return mnt, nil
}

func clone(at int, target string) (*os.File, error) {
	fd, err := unix.OpenTree(at, target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), target), nil
}
