package lxc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

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
	for try := 0; ; try++ { // RemoveOwnGroup of another container may remove what holds them
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

// RemoveOwnGroup removes the control group that Launch.Mount made for a container, with
// those that the container, which has ended, made in it. One that is not there is done.
func RemoveOwnGroup(id string) error {
	top, err := systemdHierarchy()
	if err != nil || top == "" {
		return err
	}
	var dirs []string
	holder := filepath.Join(top, groupsName)
	err = filepath.WalkDir(filepath.Join(holder, id), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for _, dir := range slices.Backward(dirs) {
		err = errors.Join(err, rmdirGroup(dir))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("a control group of container %s is left: %w", id, err)
	}
	unix.Rmdir(holder) // unless another container has its group in it
	return nil
}

// rmdirGroup removes a group that has become empty, for which the kernel takes a moment.
func rmdirGroup(dir string) error {
	for end := time.Now().Add(emptyLimit); ; time.Sleep(time.Millisecond) {
		if err := unix.Rmdir(dir); err != unix.EBUSY || time.Now().After(end) {
			return err
		}
	}
}
