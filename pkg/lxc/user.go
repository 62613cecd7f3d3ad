package lxc

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/inroot"
	"github.com/lxcboot/lxcboot/pkg/proc"
)

// openRoot opens the container's root directory, as its init has it.
func (p *initProc) openRoot() (*os.File, error) {
	f, err := inroot.Dir(fmt.Sprintf("/proc/%d/root", p.pid))
	if err != nil {
		return nil, fmt.Errorf("cannot look into the container: %w", err)
	}
	if !proc.Alive(p.pidfd) {
		f.Close()
		return nil, ErrNotRunning
	}
	return f, nil
}

// OpenDir opens a directory of a container, by the pid of its init: links lead nowhere but
// inside.
func OpenDir(init int, path string) (*os.File, error) {
	p, err := openInit(init)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	root, err := p.openRoot()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return inroot.Open(root, path, unix.O_RDONLY|unix.O_DIRECTORY)
}

// account is a user of the container's, by its numbers inside.
type account struct {
	name, home, shell string
	uid, gid          uint32
	groups            []uint32 // all, with gid
}

// accountLimit is the most that is read of the container's passwd and group.
const accountLimit = 1 << 20

// lookup finds a user in the container's files: "", NAME, UID, NAME:GROUP,
// UID:GID. The files are the container's, so nothing but numbers and a directory
// comes out of them.
func lookup(root *os.File, want string) (account, error) {
	name, group, hasGroup := strings.Cut(want, ":")
	if name == "" {
		name = "0"
	}
	a := account{name: name, home: "/", shell: "/bin/sh"}
	number, err := strconv.ParseUint(name, 10, 32)
	isNumber := err == nil && number != 1<<32-1
	found := false
	for _, f := range records(root, "etc/passwd", 7) {
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil || f[0] != name && !(isNumber && uid == number) {
			continue
		}
		a.name, a.uid, a.gid, found = f[0], uint32(uid), uint32(gid), true
		if path.IsAbs(f[5]) {
			a.home = f[5]
		}
		if path.IsAbs(f[6]) {
			a.shell = f[6]
		}
		break
	}
	if !found {
		if !isNumber {
			return a, invalid("the container has no user %q in its /etc/passwd; use one that it has, or a number", name)
		}
		a.uid = uint32(number) // and group 0, as podman does it
		if a.uid == 0 {
			a.name, a.home = "root", "/root"
		}
	}
	groups := records(root, "etc/group", 4)
	if hasGroup {
		gid, err := strconv.ParseUint(group, 10, 32)
		i := slices.IndexFunc(groups, func(f []string) bool { return f[0] == group })
		if err != nil && i >= 0 {
			gid, err = strconv.ParseUint(groups[i][2], 10, 32)
		}
		if err != nil {
			return a, invalid("the container has no group %q in its /etc/group; use one that it has, or a number", group)
		}
		a.gid = uint32(gid)
	}
	a.groups = []uint32{a.gid}
	if hasGroup || !found {
		return a, nil
	}
	for _, f := range groups {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err == nil && slices.Contains(strings.Split(f[3], ","), a.name) && !slices.Contains(a.groups, uint32(gid)) && len(a.groups) < 1024 {
			a.groups = append(a.groups, uint32(gid))
		}
	}
	return a, nil
}

// records are the lines of a small file, of n fields with ':' between.
func records(root *os.File, name string, n int) (all [][]string) {
	f, err := inroot.Open(root, name, unix.O_RDONLY)
	if err != nil {
		return nil
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	for s := bufio.NewScanner(io.LimitReader(f, accountLimit)); s.Scan(); {
		if fields := strings.Split(s.Text(), ":"); len(fields) == n {
			all = append(all, fields)
		}
	}
	return all
}

// hostID is what an id of a process's user namespace is on the host.
func hostID(pid int, file string, id uint32) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, ErrNotRunning
	}
	for line := range strings.Lines(string(data)) {
		var inside, outside, count uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err == nil && uint64(id) >= inside && uint64(id) < inside+count {
			return int(outside + uint64(id) - inside), nil
		}
	}
	return 0, invalid("the container's user namespace has no id %d", id)
}
