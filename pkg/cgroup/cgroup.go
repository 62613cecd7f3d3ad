// Package cgroup knows the control groups of processes, of cgroup v1 and v2 alike, and
// gives each container a group of the host's own above the one that libvirt makes: its
// limits hold there, as the container's root may write to libvirt's.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/wait"
)

// Group is a group in one hierarchy.
type Group struct {
	Controllers []string // empty: the hierarchy of cgroup v2
	Path        string   // in the hierarchy, as Of has it
	Dir         string   // on this host
}

// below is the group of a path below this one.
func (g Group) below(path string) Group {
	return Group{g.Controllers, filepath.Join(g.Path, path), filepath.Join(g.Dir, path)}
}

// V2 says whether the group is of cgroup v2.
func (g Group) V2() bool { return len(g.Controllers) == 0 }

// Has says whether the group is of v1's hierarchy of a controller.
func (g Group) Has(controller string) bool { return slices.Contains(g.Controllers, controller) }

// Of gives the groups of a process: hierarchy (its controllers, separated by commas) to
// path in it. A process that is not there is fs.ErrNotExist.
func Of(pid int) (map[string]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if errors.Is(err, unix.ESRCH) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	return parse(string(data)), nil
}

func parse(data string) map[string]string {
	groups := map[string]string{}
	for line := range strings.Lines(data) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) == 3 {
			groups[parts[1]] = strings.TrimSuffix(parts[2], " (deleted)")
		}
	}
	return groups
}

// Dirs gives for each hierarchy the directory of a path in it, by where it is mounted
// here. Hierarchies that are not mounted are left out.
func Dirs(paths map[string]string) ([]Group, error) {
	mounts, err := mounts()
	if err != nil {
		return nil, err
	}
	var out []Group
	for names, path := range paths {
		for _, m := range mounts {
			if !shows(m, names) {
				continue
			}
			rel, err := filepath.Rel(m.Root, path)
			if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
				continue
			}
			out = append(out, top(names, m).below(rel))
			break
		}
	}
	slices.SortFunc(out, func(a, b Group) int { return strings.Compare(a.Dir, b.Dir) })
	return out, nil
}

// Tops are the tops of the hierarchies that are mounted here.
func Tops() ([]Group, error) {
	own, err := Of(os.Getpid())
	if err != nil {
		return nil, err
	}
	mounts, err := mounts()
	if err != nil {
		return nil, err
	}
	var all []Group
	for names := range own {
		if i := slices.IndexFunc(mounts, func(m *mountinfo.Info) bool { return shows(m, names) }); i >= 0 {
			all = append(all, top(names, mounts[i]))
		}
	}
	return all, nil
}

func top(names string, m *mountinfo.Info) Group {
	g := Group{Path: m.Root, Dir: m.Mountpoint}
	if names != "" {
		g.Controllers = strings.Split(names, ",")
	}
	return g
}

func mounts() ([]*mountinfo.Info, error) {
	all, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("cannot read where control groups are mounted: %w", err)
	}
	return all, nil
}

// shows says whether a mount is of the hierarchy of these controllers; none: cgroup v2.
func shows(m *mountinfo.Info, names string) bool {
	if names == "" {
		return m.FSType == "cgroup2"
	}
	options := strings.Split(m.VFSOptions, ",")
	for _, name := range strings.Split(names, ",") {
		if m.FSType != "cgroup" || !slices.Contains(options, name) {
			return false
		}
	}
	return true
}

// Join puts a process into the group. One that has ended is done.
func (g Group) Join(pid int) error {
	err := g.write("cgroup.procs", strconv.Itoa(pid))
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (g Group) write(file, text string) error {
	f, err := os.OpenFile(filepath.Join(g.Dir, file), os.O_WRONLY, 0) // the kernel makes its files
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// emptyLimit is how long the groups of a container may be busy after its end: one of its
// processes may wait for a device that is slow to answer.
const emptyLimit = 30 * time.Second

// RemoveTree removes a group and those in it, once they are empty. One that is not there
// is done.
func RemoveTree(ctx context.Context, top string) error {
	var dirs []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, dir := range slices.Backward(dirs) {
		err = errors.Join(err, remove(ctx, dir))
	}
	return err
}

// remove removes a group that has become empty, for which the kernel takes a moment.
func remove(ctx context.Context, dir string) error {
	err := unix.EBUSY
	_ = wait.Until(ctx, time.Millisecond, 20*time.Millisecond, func() (bool, error) {
		err, _ = unix.Rmdir(dir).(unix.Errno)
		return err != unix.EBUSY, nil
	})
	if err == 0 || err == unix.ENOENT {
		return nil
	}
	who := ""
	if err == unix.EBUSY {
		who = occupants(dir)
	}
	return fmt.Errorf("%w%s", &os.PathError{Op: "rmdir", Path: dir, Err: err}, who)
}

// occupants names the processes of a group.
func occupants(dir string) string {
	var all []string
	for _, pid := range (Group{Dir: dir}).Words("cgroup.procs") {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if end := strings.LastIndex(string(stat), ") "); err == nil && end >= 0 && len(stat) > end+2 {
			all = append(all, fmt.Sprintf("%s, in state %c", stat[:end+1], stat[end+2]))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return fmt.Sprintf(" (its processes: %s)", strings.Join(all, "; "))
}
