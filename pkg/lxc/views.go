package lxc

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
)

// A view is a file of the kernel's of which lxcfs has one that tells of a container alone.
type view struct {
	top  string // where the kernel's filesystem is mounted in a container
	name string // in that
	kind int64  // of that filesystem
}

func (v view) path() string { return path.Join(v.top, v.name) }

// views are those that LXC and Incus give to containers, but for slabinfo: where the kernel
// has none for a group, lxcfs shows the host's, which is for the host's root alone.
var views = []view{
	{"/proc", "cpuinfo", unix.PROC_SUPER_MAGIC}, {"/proc", "diskstats", unix.PROC_SUPER_MAGIC}, {"/proc", "loadavg", unix.PROC_SUPER_MAGIC},
	{"/proc", "meminfo", unix.PROC_SUPER_MAGIC}, {"/proc", "stat", unix.PROC_SUPER_MAGIC}, {"/proc", "swaps", unix.PROC_SUPER_MAGIC},
	{"/proc", "uptime", unix.PROC_SUPER_MAGIC}, {"/sys", "devices/system/cpu", unix.SYSFS_MAGIC},
}

// viewLimit is how long lxcfs may take to answer.
const viewLimit = 5 * time.Second

// LXCFSRuns says whether an lxcfs runs at a mountpoint. One that does not answer in time
// is an error.
func LXCFSRuns(dir string) (bool, error) {
	l, err := openLXCFS(dir)
	l.close()
	return l.device != "", err
}

// ShowViews sees that a running container has the views of the lxcfs that runs at dir, and
// none of another: what was mounted of one that has ended fails whatever is read. It says
// whether it changed anything. Where no lxcfs runs, or none that answers, which is the
// error then, the container has what the kernel tells of the whole host: unlike libvirt's
// own meminfo that can seek, without which Debian 12's free, ps and vmstat fail.
func ShowViews(init int, dir string) (changed bool, err error) {
	p, err := openInit(init)
	if err != nil {
		return false, err
	}
	defer p.Close()
	has, err := p.mounts()
	if err != nil {
		return false, err
	}
	running, err := openLXCFS(dir)
	defer running.close()
	var gone []view
	for _, m := range has {
		i := slices.IndexFunc(views, func(v view) bool { return v.path() == m.Mountpoint })
		switch {
		case i < 0:
		case m.FSType == lxcfsType && device(m) == running.device:
			running.leave(views[i])
		case m.FSType == lxcfsType, m.FSType == "fuse" && m.Source == "libvirt":
			gone = append(gone, views[i]) // once for each that is mounted there
		}
	}
	if len(gone)+len(running.files) == 0 {
		return false, err
	}
	return changed, errors.Join(err, p.inMounts(func() error {
		for _, v := range gone {
			if err := v.unmount(); err != nil {
				return err
			}
			changed = true
		}
		for v, f := range running.files {
			shown, err := v.mount(f)
			if err != nil {
				return err
			}
			changed = changed || shown
		}
		return nil
	}))
}

// mounts are those that the container sees.
func (p *initProc) mounts() ([]*mountinfo.Info, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", p.pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot read what the container has mounted: %w", err)
	}
	return all, nil
}

const lxcfsType = "fuse.lxcfs"

func device(m *mountinfo.Info) string { return fmt.Sprintf("%d:%d", m.Major, m.Minor) }

// lxcfs is a running one: what tells it from one before it, empty when there is none, and
// a mount of each of its files that is nowhere yet.
type lxcfs struct {
	device string
	files  map[view]*os.File
}

func (l lxcfs) close() {
	for v := range l.files {
		l.leave(v)
	}
}

func (l lxcfs) leave(v view) {
	if f := l.files[v]; f != nil {
		f.Close()
		delete(l.files, v)
	}
}

// openLXCFS opens the lxcfs at a mountpoint. One that stands still holds up the thread that
// asks it until this process ends, and nothing else.
func openLXCFS(dir string) (lxcfs, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != lxcfsType || m.Mountpoint != dir, false
	})
	if err != nil || len(mounts) == 0 {
		return lxcfs{}, err
	}
	l := lxcfs{device(mounts[len(mounts)-1]), map[view]*os.File{}}
	opened := make(chan error, 1)
	go func() { opened <- l.open(dir) }()
	select {
	case err = <-opened:
	case <-time.After(viewLimit):
		return lxcfs{}, fmt.Errorf("lxcfs at %s does not answer within %s: restart it", dir, viewLimit)
	}
	if err != nil {
		l.close()
		l = lxcfs{}
	}
	// One that was killed leaves a mount that answers nothing.
	if errors.Is(err, unix.ENOTCONN) {
		return l, nil
	}
	if err != nil {
		err = fmt.Errorf("lxcfs at %s cannot be read: %w", dir, err)
	}
	return l, err
}

// open opens the files that there are. What is mounted within them in a container is not
// to be seen on the host.
func (l lxcfs) open(dir string) error {
	// Names that were looked up a moment ago are opened without asking it.
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	for _, v := range views {
		fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(dir, v.path()), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return err
		}
		l.files[v] = os.NewFile(uintptr(fd), v.path())
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return err
		}
	}
	return nil
}

// inMounts runs a function in the container's mount namespace. Its paths are the
// container's, whose root may have made anything of them.
func (p *initProc) inMounts(f func() error) error {
	err := proc.InMounts(p.pidfd, f)
	if errors.Is(err, os.ErrProcessDone) {
		return ErrNotRunning
	}
	return err
}

// enter opens what is mounted at the view's top, and goes there; nil when that is not the
// kernel's.
func (v view) enter() (*os.File, error) {
	fd, err := unix.Open(v.top, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil
	}
	top := os.NewFile(uintptr(fd), v.top)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != v.kind {
		top.Close()
		return nil, err
	}
	if err := unix.Fchdir(fd); err != nil {
		top.Close()
		return nil, err
	}
	return top, nil
}

// mount shows the view. A kernel that has no such file does not need it.
func (v view) mount(f *os.File) (shown bool, err error) {
	top, err := v.enter()
	if err != nil || top == nil {
		return false, err
	}
	defer top.Close()
	err = unix.MoveMount(int(f.Fd()), "", int(top.Fd()), v.name, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot mount lxcfs' %s in the container: %w", v.path(), err)
	}
	return true, nil
}

// unmount takes the topmost of the mounts at the view's place away.
func (v view) unmount() error {
	top, err := v.enter()
	if err != nil || top == nil {
		return err
	}
	defer top.Close()
	err = unix.Unmount(v.name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT { // it is not there any more
		return fmt.Errorf("cannot unmount %s in the container: %w", v.path(), err)
	}
	return nil
}
