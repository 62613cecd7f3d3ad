package lxc

import (
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
)

// groupsName is the group that holds the containers' own ones, in the hierarchy of
// cgroup v1 that is systemd's. libvirt makes none there for a container where systemd
// does not run: it gives the group that it is in itself, and all that is right below it,
// to the root of the container that was started last. Two levels below it nothing of one
// container's becomes another's.
const groupsName = "lxcboot"

// emptyLimit is how long the groups of processes that have ended may be busy.
const emptyLimit = 5 * time.Second

// systemdHierarchy is where that hierarchy is mounted; empty where there is none, or
// systemd runs and has a group for each container.
func systemdHierarchy() (string, error) {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		return "", nil
	}
	dirs, err := cgroupDirs(map[string]string{"name=systemd": "/"})
	if err != nil || len(dirs) == 0 {
		return "", err
	}
	return dirs[0].dir, nil
}

// makeOwnGroup makes the group of a container's own, of a user of the host, and gives its
// path in the hierarchy of systemd; empty where it needs none. One that is there is kept.
func makeOwnGroup(id string, owner int) (string, error) {
	top, err := systemdHierarchy()
	if err != nil || top == "" {
		return "", err
	}
	group := filepath.Join(groupsName, id)
	dir := filepath.Join(top, group)
	for try := 0; ; try++ { // RemoveGroups of another container may remove what holds them
		if err = os.MkdirAll(dir, 0o755); !errors.Is(err, fs.ErrNotExist) || try == 100 {
			break
		}
	}
	for _, name := range []string{"", "cgroup.procs", "tasks"} {
		if err == nil {
			err = os.Chown(filepath.Join(dir, name), owner, owner)
		}
	}
	if err != nil {
		return "", fmt.Errorf("cannot make the container's control group: %w", err)
	}
	return group, nil
}

// RemoveGroups removes the control groups of a container, which has ended, with those that
// it made in them: the one that Launch.Mount made, and what libvirt leaves of its own when
// the kernel is not done with the container's processes yet. None is done.
func RemoveGroups(id, name string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return fmt.Errorf("cannot read where cgroups are mounted: %w", err)
	}
	for _, m := range mounts {
		left, _ := filepath.Glob(filepath.Join(m.Mountpoint, "machine", "lxc-*.libvirt-lxc"))
		for _, dir := range left {
			if ofEnded(filepath.Base(dir), name) {
				err = errors.Join(err, removeTree(dir))
			}
		}
		holder := filepath.Join(m.Mountpoint, groupsName)
		err = errors.Join(err, removeTree(filepath.Join(holder, id)))
		unix.Rmdir(holder) // unless another container has its group in it
	}
	if err != nil {
		return fmt.Errorf("a control group of container %s is left: %w", id, err)
	}
	return nil
}

// ofEnded says whether a group of libvirt's is that of a container's name, and of a
// controller that has ended: lxc-PID-NAME.libvirt-lxc, where NAME has letters, digits, '-'
// and '.' alone.
func ofEnded(group, name string) bool {
	pid, of, _ := strings.Cut(strings.TrimPrefix(group, "lxc-"), "-")
	n, err := strconv.Atoi(pid)
	return err == nil && of == strings.ReplaceAll(name, "_", "")+".libvirt-lxc" && !isController(n, name)
}

// removeTree removes a group and those in it. One that is not there is done.
func removeTree(top string) error {
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
		if e := rmdirGroup(dir); e != nil && e != unix.ENOENT {
			err = errors.Join(err, &os.PathError{Op: "rmdir", Path: dir, Err: e})
		}
	}
	return err
}

// rmdirGroup removes a group that has become empty, for which the kernel takes a moment.
func rmdirGroup(dir string) error {
	for end := time.Now().Add(emptyLimit); ; time.Sleep(time.Millisecond) {
		if err := unix.Rmdir(dir); err != unix.EBUSY || time.Now().After(end) {
			return err
		}
	}
}
