// Package inuse finds who uses a volume: its block device, or a filesystem on it, in
// whatever mount namespace of this host.
package inuse

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/proc"
)

// ErrUsed is wrapped by errors that say who uses a volume.
var ErrUsed = errors.New("in use")

// Volume is the block devices that a volume is now: its own, if it has one, and the loop
// devices on that or on its file.
type Volume struct {
	devices []device
}

type device struct {
	path   string
	number uint64 // as stat has it
}

// Of gives the volume of a block device or file.
func Of(path string) (Volume, error) {
	var v Volume
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return v, fmt.Errorf("cannot look at the volume's device %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		v.devices = append(v.devices, device{path, st.Rdev})
	}
	more, err := loops(path, func(loop.Device) bool { return true })
	v.devices = append(v.devices, more...)
	return v, err
}

// loops are the loop devices on a file or block device that count.
func loops(path string, counts func(loop.Device) bool) (devices []device, err error) {
	found, err := loop.Find(path)
	if err != nil {
		return nil, err
	}
	for _, l := range found {
		if !counts(l) {
			continue
		}
		var st unix.Stat_t
		err := unix.Stat(l.Path, &st)
		switch {
		case errors.Is(err, unix.ENOENT): // its node is made when it is opened
		case err != nil:
			return nil, fmt.Errorf("cannot look at %s: %w", l.Path, err)
		default:
			devices = append(devices, device{l.Path, st.Rdev})
		}
	}
	return devices, nil
}

func (v Volume) has(number uint64) bool {
	return slices.ContainsFunc(v.devices, func(d device) bool { return d.number == number })
}

// Mount is a mount of a volume's filesystem.
type Mount struct {
	*mountinfo.Info
	PID       int    // a process that has it
	Namespace string // its mount namespace
	parent    *mountinfo.Info
}

// Mounts are all mounts of one volume.
type Mounts struct {
	All []Mount
	// masters says, of each group of peers, to which that is a slave.
	masters map[string]string
}

// Mounts looks through the mount namespaces of all processes.
func (v Volume) Mounts() Mounts {
	found := Mounts{masters: map[string]string{}}
	seen := map[string]bool{}
	for _, pid := range proc.All() {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err != nil || seen[ns] {
			continue
		}
		all, err := mounted(pid)
		if err != nil {
			continue // it has ended; another process may have the namespace
		}
		seen[ns] = true
		for _, m := range all {
			if of, to := peers(m); of != "" && to != "" {
				found.masters[of] = to
			}
			if v.on(m, pid) {
				found.All = append(found.All, Mount{m, pid, ns, parentOf(m, all)})
			}
		}
	}
	return found
}

func mounted(pid int) ([]*mountinfo.Info, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mountinfo.GetMountsFromReader(f, nil)
}

func parentOf(m *mountinfo.Info, all []*mountinfo.Info) *mountinfo.Info {
	if i := slices.IndexFunc(all, func(p *mountinfo.Info) bool { return p.ID == m.Parent }); i >= 0 {
		return all[i]
	}
	return &mountinfo.Info{}
}

// on says whether a mount is of the volume. A btrfs has a device number of its own, and
// shows the device as whoever mounted it named that.
func (v Volume) on(m *mountinfo.Info, pid int) bool {
	if v.has(unix.Mkdev(uint32(m.Major), uint32(m.Minor))) {
		return true
	}
	if m.FSType != "btrfs" {
		return false
	}
	if slices.ContainsFunc(v.devices, func(d device) bool { return d.path == m.Source }) {
		return true
	}
	var st unix.Stat_t
	return unix.Stat(fmt.Sprintf("/proc/%d/root/%s", pid, m.Source), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && v.has(st.Rdev)
}

// peers are the group of peers that a mount is in, and the one that it is a slave of.
func peers(m *mountinfo.Info) (of, to string) {
	for _, o := range strings.Fields(m.Optional) {
		switch key, id, _ := strings.Cut(o, ":"); key {
		case "shared":
			of = id
		case "master":
			to = id
		}
	}
	return of, to
}

// At gives the mount at a path in the mount namespace of a process; nil: there is none.
func (m Mounts) At(pid int, path string) *Mount {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil
	}
	for i := range slices.Backward(m.All) {
		if m.All[i].Namespace == ns && m.All[i].Mountpoint == path {
			return &m.All[i]
		}
	}
	return nil
}

// goes says whether a mount is gone when another one is unmounted: that other one, or its
// like in a place which follows that other one's, as the namespaces of systemd's services
// do.
func (m Mounts) goes(it, with Mount) bool {
	if it.ID == with.ID && it.Namespace == with.Namespace {
		return true
	}
	group, _ := peers(with.parent)
	if group == "" || it.Root != with.Root || it.place() != with.place() {
		return false
	}
	of, to := peers(it.parent)
	for range len(m.masters) + 1 {
		if of == group || to == group {
			return true
		}
		of, to = to, m.masters[to]
	}
	return false
}

// place is where a mount is in the filesystem that it is mounted in.
func (m Mount) place() string {
	below := strings.TrimPrefix(m.Mountpoint, m.parent.Mountpoint)
	return fmt.Sprintf("%d:%d %s", m.parent.Major, m.parent.Minor, path.Join(m.parent.Root, below))
}

// Check fails, with ErrUsed, where anything uses the volume but the mount that is named, if
// one is, and what goes with that.
func (v Volume) Check(except *Mount) error {
	var uses []string
	mounts := v.Mounts()
	for _, m := range mounts.All {
		if except == nil || !mounts.goes(m, *except) {
			uses = append(uses, fmt.Sprintf("it is mounted at %s%s", m.Mountpoint, m.where(except)))
		}
	}
	uses = append(uses, v.processes(mounts)...)
	if len(uses) == 0 && except == nil {
		uses = v.held()
	}
	if len(uses) == 0 {
		return nil
	}
	more := ""
	if n := len(uses) - 1; n > 0 {
		more = fmt.Sprintf(", and %d more such", n)
	}
	return failure.Of(ErrUsed, "%s%s", uses[0], more)
}

// where tells the mount namespace of a mount, unless it is that of another.
func (m Mount) where(other *Mount) string {
	if other != nil && m.Namespace == other.Namespace {
		return " too"
	}
	return ", as " + describe(m.PID) + " sees it"
}

// held is what only the kernel knows to use a device: swap, and devices on it.
func (v Volume) held() (uses []string) {
	for _, d := range v.devices {
		f, err := os.OpenFile(d.path, os.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, unix.EBUSY) {
			continue
		}
		by := "as swap, or by something that keeps it for itself alone"
		if on, _ := filepath.Glob(fmt.Sprintf("/sys/dev/block/%d:%d/holders/*", unix.Major(d.number), unix.Minor(d.number))); len(on) > 0 {
			by = "by /dev/" + filepath.Base(on[0])
		}
		uses = append(uses, fmt.Sprintf("%s is used %s", d.path, by))
	}
	return uses
}

// Carrier is the block device by which a filesystem of the volume is still mounted
// somewhere; empty: it is not. A loop device comes before what it is on, which can be
// claimed. Another loop device on the same file would be a second
// filesystem in the kernel, and destroy what is on it.
func (v Volume) Carrier() string {
	for _, d := range slices.Backward(v.devices) {
		if (Volume{[]device{d}}).held() != nil {
			return d.path
		}
	}
	return ""
}
