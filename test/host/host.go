// Package host looks at what tests may leave behind on this machine: loop devices,
// mounts (also in libvirtd's mount namespace), domains, processes, cgroups, network
// interfaces and temporary files.
package host

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A State is one line for each thing, sorted; the same thing twice is two lines.
// Lines hold nothing that changes by itself while the thing stays.
type State []string

// watched are the programs that lxcboot starts, and itself. The kernel cuts a
// program's name after 15 bytes.
var watched = []string{
	"lxcboot", "libvirt_lxc", "qemu-storage-da", "qemu-img", "qemu-nbd", "fuse2fs", "squashfuse", "erofsfuse",
	"mount.ceph", "rbd", "iscsiadm", "virsh", "udhcpd", "dnsmasq", "lxcfs",
	"munged", "slurm", "corosync", "pacemaker",
}

// Look takes the state of the host. What cannot be read is an error: a state
// that lacks it would hide what is left behind.
func Look(ctx context.Context) (State, error) {
	var s State
	for _, look := range []func(context.Context) ([]string, error){
		loops, mounts, domains, processes, cgroups, interfaces, temporary,
	} {
		lines, err := look(ctx)
		if err != nil {
			return nil, err
		}
		s = append(s, lines...)
	}
	slices.Sort(s)
	return s, nil
}

// Of is the part of s that has one of the marks in it: what belongs to one test.
func (s State) Of(marks ...string) State {
	return slices.DeleteFunc(slices.Clone(s), func(line string) bool {
		return !slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(line, m) })
	})
}

// Compare says what is in after and was not before ("+ …"), and what is gone ("- …").
func Compare(before, after State) []string {
	count := map[string]int{}
	for _, line := range before {
		count[line]--
	}
	for _, line := range after {
		count[line]++
	}
	var diff []string
	for line, n := range count {
		for ; n > 0; n-- {
			diff = append(diff, "+ "+line)
		}
		for ; n < 0; n++ {
			diff = append(diff, "- "+line)
		}
	}
	slices.Sort(diff)
	return diff
}

// Settle looks until the part of the state that pick selects is as before, but no
// longer than limit: the kernel and libvirt take a moment to let go. It returns the
// last difference.
func Settle(ctx context.Context, before State, pick func(State) State, limit time.Duration) ([]string, error) {
	until := time.Now().Add(limit)
	for {
		after, err := Look(ctx)
		if err != nil {
			return nil, err
		}
		diff := Compare(before, pick(after))
		if len(diff) == 0 || time.Now().After(until) {
			return diff, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func loops(context.Context) ([]string, error) {
	dirs, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, dir := range dirs {
		backing, err := os.ReadFile(dir + "/backing_file")
		if err != nil {
			continue // detached meanwhile
		}
		offset, _ := os.ReadFile(dir + "/offset")
		lines = append(lines, fmt.Sprintf("loop %s %s offset %s", filepath.Base(filepath.Dir(dir)),
			strings.TrimSpace(string(backing)), strings.TrimSpace(string(offset))))
	}
	return lines, nil
}

// mounts are those of this process's namespace and of libvirtd's.
func mounts(context.Context) ([]string, error) {
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	lines, err := mountinfo("/proc/self/mountinfo", "mount")
	if err != nil {
		return nil, err
	}
	procs, err := programs()
	if err != nil {
		return nil, err
	}
	for _, p := range procs {
		if ns, err := os.Readlink(p.dir + "/ns/mnt"); p.name != "libvirtd" || err != nil || ns == ours {
			continue
		}
		more, err := mountinfo(p.dir+"/mountinfo", "libvirtd-mount")
		if err == nil {
			lines = append(lines, more...)
		}
	}
	return lines, nil
}

func mountinfo(file, word string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		head, tail, _ := strings.Cut(line, " - ")
		at, what := strings.Fields(head), strings.Fields(tail)
		if len(at) < 5 || len(what) < 2 {
			return nil, fmt.Errorf("%s: cannot be read: %q", file, line)
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %s", word, at[4], what[0], what[1]))
	}
	return lines, nil
}

func domains(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "virsh", "-q", "-c", "lxc:///", "list", "--all", "--name").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot list the domains: %w", err)
	}
	var lines []string
	for _, name := range strings.Fields(string(out)) {
		lines = append(lines, "domain "+name)
	}
	return lines, nil
}

type program struct {
	dir, name string
}

func programs() ([]program, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var all []program
	for _, dir := range dirs {
		name, err := os.ReadFile(dir + "/comm")
		if err != nil {
			continue // ended meanwhile
		}
		all = append(all, program{dir, strings.TrimSpace(string(name))})
	}
	return all, nil
}

func processes(context.Context) ([]string, error) {
	all, err := programs()
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, p := range all {
		if !slices.ContainsFunc(watched, func(w string) bool { return strings.HasPrefix(p.name, w) }) {
			continue
		}
		args, err := os.ReadFile(p.dir + "/cmdline")
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(p.dir))
		if err != nil {
			return nil, err
		}
		words := strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))
		lines = append(lines, fmt.Sprintf("process %d %s: %s", pid, p.name, words))
	}
	return lines, nil
}

// cgroups are those of containers, in every hierarchy.
func cgroups(context.Context) ([]string, error) {
	var lines []string
	const root = "/sys/fs/cgroup"
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil // removed meanwhile
		case !d.IsDir():
			return nil
		case d.Name() == "machine-lxcboot.slice": // systemd keeps it, as machine.slice
		case strings.Contains(d.Name(), "lxc"):
			lines = append(lines, "cgroup "+strings.ReplaceAll(path, `\x2d`, "-"))
			return fs.SkipDir
		case strings.Count(strings.TrimPrefix(path, root), "/") > 5:
			return fs.SkipDir
		}
		return nil
	})
	return lines, err
}

func interfaces(context.Context) ([]string, error) {
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, e := range entries {
		lines = append(lines, "interface "+e.Name())
	}
	return lines, nil
}

func temporary(context.Context) ([]string, error) {
	var lines []string
	for _, pattern := range []string{
		"/tmp/*lxcboot*", "/var/tmp/*lxcboot*", "/run/*lxcboot*", "/run/lxcboot/*", "/tmp/.busybox-image*",
		// libvirt's own state. Its empty directories for each name that it ever started
		// (NAME.dev, NAME.devpts, …) stay, whoever starts the container.
		"/run/libvirt/lxc/*.xml", "/run/libvirt/lxc/*.pid", "/etc/libvirt/lxc/*.xml",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			if f != "/run/lxcboot" { // where roots are mounted: it stays, from the first container on
				lines = append(lines, "file "+f)
			}
		}
	}
	return lines, nil
}
