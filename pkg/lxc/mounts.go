package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/inroot"
	"github.com/lxcboot/lxcboot/pkg/inuse"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// idleLimit is how long what a running container has of a volume may be used before that
// counts: somebody may just have looked at it.
const idleLimit = time.Second

// Mount puts a mount that is nowhere yet at a directory of a running container, by the pid
// of its init. No link may be on the way to that: at the next start there must not be one.
func Mount(init int, mnt *os.File, dir string) error {
	p, root, err := enterable(init)
	if err != nil {
		return err
	}
	defer p.Close()
	defer root.Close()
	err = p.inMounts(func() error {
		at, err := inroot.OpenDirect(root, dir, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer at.Close()
		return unix.MoveMount(int(mnt.Fd()), "", int(at.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	})
	if err != nil {
		return fmt.Errorf("cannot mount at %s in the container: %w", dir, err)
	}
	return nil
}

// enterable opens an init, and the directory that is its root. They are for inMounts, where
// /proc is the container's.
func enterable(init int) (*initProc, *os.File, error) {
	p, err := openInit(init)
	if err != nil {
		return nil, nil, err
	}
	root, err := p.openRoot()
	if err != nil {
		p.Close()
		return nil, nil, err
	}
	return p, root, nil
}

// Mounted says whether a running container has the filesystem of a volume, by its device or
// file, mounted at a directory.
func Mounted(init int, device, dir string) (bool, error) {
	p, err := openInit(init)
	if err != nil {
		return false, err
	}
	defer p.Close()
	v, err := inuse.Of(device)
	if err != nil {
		return false, err
	}
	return v.Mounts().At(init, dir) != nil, nil
}

// CheckIdle waits a moment until nothing uses a volume, by its device or file, but a running
// container that has it mounted at a directory; empty: nothing at all. Else the error wraps
// inuse.ErrUsed.
func CheckIdle(ctx context.Context, init int, device, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, idleLimit)
	defer cancel()
	for {
		v, err := inuse.Of(device)
		if err != nil {
			return err
		}
		var own *inuse.Mount
		if dir != "" {
			own = v.Mounts().At(init, dir)
		}
		if err = v.Check(own); err == nil || wait.For(ctx, 5*poll) != nil {
			return err
		}
	}
}

// Unmount takes the mount of a volume away that a running container has at a directory. One
// that is not there, or not any more, is done. Where something still uses the volume the
// error wraps inuse.ErrUsed; then nothing was changed, unless it has come to that just now.
func Unmount(ctx context.Context, init int, device, dir string) error {
	v, err := inuse.Of(device)
	if err != nil {
		return err
	}
	if own := v.Mounts().At(init, dir); own != nil {
		if err := CheckIdle(ctx, init, device, dir); err != nil {
			return err
		}
		p, root, err := enterable(init)
		if err != nil {
			return err
		}
		defer p.Close()
		defer root.Close()
		err = p.inMounts(func() error { return unmountAt(root, dir, own.ID, 0) })
		if errors.Is(err, unix.EBUSY) {
			if used := v.Check(own); used != nil {
				return used
			}
			return failure.Of(inuse.ErrUsed, "something is mounted below %s in the container, or uses it", dir)
		}
		if err != nil {
			return err
		}
	}
	return CheckIdle(ctx, init, device, "")
}

// unmountAt unmounts what is at a directory, if that is the mount of this number.
func unmountAt(root *os.File, dir string, id, flags int) error {
	above, err := inroot.OpenDirect(root, path.Dir(dir), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("cannot unmount %s in the container: %w", dir, err)
	}
	defer above.Close()
	var st unix.Statx_t
	err = unix.Statx(int(above.Fd()), path.Base(dir), unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st)
	switch {
	case err != nil:
	case st.Mask&unix.STATX_MNT_ID != 0 && st.Mnt_id != uint64(id):
		err = unix.EBUSY // something else is mounted over it
	default:
		// The kernel takes a path alone.
		if err = unix.Fchdir(int(above.Fd())); err == nil {
			err = unix.Unmount(path.Base(dir), flags|unix.UMOUNT_NOFOLLOW)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot unmount %s in the container: %w", dir, err)
	}
	return nil
}

// Arrange sees that a container whose init is still held has what is at directories of this
// host where that belongs: dirs has its directory by that of the host, empty for nowhere. It
// takes away what is anywhere else, and gives the directories of the host that are missing in
// it. After a reboot from inside libvirt mounts what it mounted for the life before.
func Arrange(init int, dirs map[string]string) (missing []string, err error) {
	hosts := map[string]os.FileInfo{}
	for host := range dirs {
		info, err := os.Stat(host)
		if err != nil {
			return nil, err
		}
		hosts[host] = info
	}
	p, root, err := enterable(init)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	defer root.Close()
	all, err := p.mounts()
	if err != nil {
		return nil, err
	}
	var strays []*mountinfo.Info
	there := map[string]bool{}
	for _, m := range slices.Backward(all) { // what lies below another comes first
		if strings.HasPrefix(m.FSType, "fuse") {
			continue // it may not answer
		}
		f, err := inroot.OpenDirect(root, m.Mountpoint, unix.O_PATH)
		if err != nil {
			continue
		}
		info, err := f.Stat()
		f.Close()
		for host, its := range hosts {
			switch {
			case err != nil || !os.SameFile(its, info):
			case m.Mountpoint == dirs[host]:
				there[host] = true
			default:
				strays = append(strays, m)
			}
		}
	}
	if len(strays) > 0 {
		err = p.inMounts(func() error {
			for _, m := range strays {
				if err := unmountAt(root, m.Mountpoint, m.ID, unix.MNT_DETACH); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for host, dir := range dirs {
		if dir != "" && !there[host] {
			missing = append(missing, host)
		}
	}
	slices.SortFunc(missing, func(a, b string) int { return strings.Compare(dirs[a], dirs[b]) })
	return missing, err
}
