package inuse

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/inroot"
	"github.com/lxcboot/lxcboot/pkg/proc"
)

// processes are those that have the volume's device open, or something on its filesystem.
func (v Volume) processes(mounts Mounts) (uses []string) {
	on := map[uint64]bool{} // filesystems, by the number of their files' device
	for _, d := range v.devices {
		on[d.number] = true
	}
	for _, m := range mounts.All {
		if number, ok := m.files(); ok {
			on[number] = true
		}
	}
	self := os.Getpid()
	for _, pid := range proc.All() {
		if pid == self {
			continue
		}
		if what := v.uses(pid, on); what != "" {
			uses = append(uses, fmt.Sprintf("%s %s", describe(pid), what))
		}
	}
	return uses
}

// files is the device number that files of a mount show: of a btrfs it is each subvolume's
// own.
func (m Mount) files() (uint64, bool) {
	root, err := inroot.Dir(fmt.Sprintf("/proc/%d/root", m.PID))
	if err != nil {
		return 0, false
	}
	defer root.Close()
	top, err := inroot.OpenDirect(root, m.Mountpoint, unix.O_PATH)
	if err != nil {
		return 0, false
	}
	defer top.Close()
	st, ok := look(fmt.Sprintf("/proc/self/fd/%d", top.Fd()))
	return unix.Mkdev(st.Dev_major, st.Dev_minor), ok
}

// uses says in words how a process uses the volume; empty: it does not.
func (v Volume) uses(pid int, on map[uint64]bool) string {
	dir := fmt.Sprintf("/proc/%d/", pid)
	is := func(link string) bool {
		st, ok := look(dir + link)
		return ok && on[unix.Mkdev(st.Dev_major, st.Dev_minor)]
	}
	named := func(link string) string {
		to, _ := os.Readlink(dir + link)
		return strconv.Quote(to)
	}
	for link, what := range map[string]string{"cwd": "has its working directory at", "root": "has its root at", "exe": "runs"} {
		if is(link) {
			return what + " " + named(link)
		}
	}
	fds, _ := os.ReadDir(dir + "fd")
	for _, fd := range fds {
		link := "fd/" + fd.Name()
		st, ok := look(dir + link)
		if ok && (on[unix.Mkdev(st.Dev_major, st.Dev_minor)] || st.Mode&unix.S_IFMT == unix.S_IFBLK && v.has(unix.Mkdev(st.Rdev_major, st.Rdev_minor))) {
			return "has " + named(link) + " open"
		}
	}
	return mapped(dir+"maps", on)
}

// mapped is uses for files in a process's memory that it has closed.
func mapped(maps string, on map[uint64]bool) string {
	f, err := os.Open(maps)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		words := strings.Fields(s.Text()) // addresses, rights, offset, device, inode, path
		if len(words) < 6 {
			continue
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(words[3], "%x:%x", &major, &minor); err == nil && on[unix.Mkdev(major, minor)] {
			return "has " + strconv.Quote(words[5]) + " in its memory"
		}
	}
	return ""
}

// look is stat that asks no filesystem which may not answer.
func look(name string) (st unix.Statx_t, ok bool) {
	err := unix.Statx(unix.AT_FDCWD, name, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE|unix.STATX_INO, &st)
	return st, err == nil
}

// describe names a process, by its number in its container where it is in one.
func describe(pid int) string {
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if ids, found := strings.CutPrefix(line, "NSpid:"); found {
			if all := strings.Fields(ids); len(all) > 1 {
				return fmt.Sprintf("process %s of the container (%q, %d on this host)", all[len(all)-1], strings.TrimSpace(string(name)), pid)
			}
		}
	}
	return fmt.Sprintf("process %d of this host (%q)", pid, strings.TrimSpace(string(name)))
}
