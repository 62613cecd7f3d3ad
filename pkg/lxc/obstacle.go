package lxc

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/tty"
)

// obstacle says what on this host keeps a container from starting; empty when nothing is
// seen. libvirt's own words for it come from the log of the container's controller, for
// which it waits a second: on a busy host they are not there by then.
func (d Domain) obstacle() string {
	root := ""
	for _, fs := range d.Filesystems {
		if fs.Source == "" {
			continue
		}
		what := fmt.Sprintf("the directory that it should have at %s", tty.Line(fs.Target))
		if fs.Target == "/" {
			root, what = fs.Source, "the directory of its root filesystem"
		}
		if st, err := os.Stat(fs.Source); err != nil || !st.IsDir() {
			return fmt.Sprintf("%s is not there: %s", what, tty.Line(fs.Source))
		}
	}
	for _, disk := range d.Disks {
		if disk.Source == "" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(disk.Source, &st); err != nil {
			return fmt.Sprintf("the block device of its disk %s is not there: %s", disk.Target, tty.Line(disk.Source))
		} else if st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return fmt.Sprintf("what its disk %s should be of is not a block device: %s", disk.Target, tty.Line(disk.Source))
		}
	}
	if why := d.initObstacle(); why != "" {
		return why
	}
	if d.IDMap != nil && root != "" {
		if dir := d.IDMap.unsearchable(root); dir != "" {
			return fmt.Sprintf("its user namespace cannot reach the root filesystem: the directory %s must be searchable (x) for the container's root", tty.Line(dir))
		}
	}
	return ""
}

// initObstacle is obstacle for the root's own init, which lxcboot-init executes.
func (d Domain) initObstacle() string {
	var root, init string
	for _, fs := range d.Filesystems {
		switch fs.Target {
		case "/":
			root = fs.Source
		case launchTarget:
			init = launchedInit(fs.Source)
		}
	}
	if root == "" || init == "" {
		return ""
	}
	if err := CheckInit(root, init); err != nil {
		return err.Error()
	}
	return ""
}

// unsearchable gives the directory above a path through which the namespace's root cannot
// pass; empty when there is none. libvirt goes to a container's root by its path, from
// inside of the user namespace.
func (m IDMap) unsearchable(name string) string {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	for name != "/" {
		name = filepath.Dir(name)
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			return ""
		}
		x := uint32(0o001)
		switch m.HostID {
		case st.Uid:
			x = 0o100
		case st.Gid:
			x = 0o010
		}
		if st.Mode&x == 0 {
			return name
		}
	}
	return ""
}
