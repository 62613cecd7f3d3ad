package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/inroot"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// unmountLimit is how long a busy mount is waited for.
const unmountLimit = 10 * time.Second

// mountsAt counts the mounts that are stacked at the directory, and gives its path as the
// kernel has it, and the path below it of the last mount there of the same filesystem.
func mountsAt(target string) (dir string, n int, below string, err error) {
	dir, err = canonical(target)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return target, 0, "", nil
	}
	if err != nil {
		return "", 0, "", fmt.Errorf("cannot look for mounts at %s: %w", target, err)
	}
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return i.Mountpoint != dir && !strings.HasPrefix(i.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return "", 0, "", fmt.Errorf("cannot look for mounts at %s: %w", target, err)
	}
	last := &mountinfo.Info{}
	for _, i := range infos { // those below come after what they are mounted on
		switch {
		case i.Mountpoint == dir:
			last, below, n = i, "", n+1
		case i.Major == last.Major && i.Minor == last.Minor:
			below = strings.TrimPrefix(i.Mountpoint, dir+"/")
		}
	}
	return dir, n, below, nil
}

// canonical is a directory's path without links. What is mounted there is not
// looked at: it may be broken.
func canonical(target string) (string, error) {
	abs, err := filepath.Abs(target)
	if err != nil {
		return "", err
	}
	if abs == "/" {
		return "", errors.New("it is the host's own root")
	}
	if info, err := os.Lstat(abs); err == nil && info.Mode()&os.ModeSymlink != 0 {
		return filepath.EvalSymlinks(abs)
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(abs)), nil
}

// Unmount removes every mount stacked at target, and first those of the same filesystem, as its
// subvolumes, that are mounted in it. It waits for a busy one, at most ten
// seconds, and never detaches it lazily: then the error wraps ErrBusy, and what is still
// used is still there. No mount, or no directory, is no error.
func Unmount(target string) error {
	ctx, cancel := context.WithTimeout(context.Background(), unmountLimit)
	defer cancel()
	for pause := time.Millisecond; ; {
		dir, n, below, err := mountsAt(target)
		if n == 0 || err != nil {
			return err
		}
		if below != "" {
			err = unmountBelow(dir, below)
		} else {
			err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		}
		switch {
		case err == nil:
			continue // there may be another below
		case errors.Is(err, unix.EINVAL): // gone meanwhile, or locked in this namespace
			if _, now, still, err := mountsAt(target); err != nil || now == n && still == below {
				return errors.Join(fmt.Errorf("cannot unmount %s: the mount is locked", target), err)
			}
			continue
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("cannot unmount %s: %w", target, err)
		case wait.For(ctx, pause) != nil:
			return fmt.Errorf("%w: %s is still used, by a process or by a mount below it (see: fuser -vm %s)", ErrBusy, target, target)
		}
		pause = min(2*pause, 200*time.Millisecond)
	}
}

// unmountBelow unmounts what is mounted at a path in a mounted root. Its container may run, and
// put a link in the place of any directory: so the one that it lies in is opened first.
func unmountBelow(dir, below string) error {
	root, err := inroot.Dir(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	parent, err := inroot.OpenDirect(root, path.Dir(below), unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return unix.EBUSY // it is elsewhere by now
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	err = unix.Unmount(fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), path.Base(below)), unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return unix.EBUSY
	}
	return err
}
