package lxc

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/lxcboot/lxcboot/pkg/proc"
)

// cgroup is a container's group in one hierarchy.
type cgroup struct {
	controllers []string // empty: the hierarchy of cgroup v2
	dir         string   // on this host
}

// membership reads the groups of a process: hierarchy (its controllers, separated
// by commas) to path.
func membership(pid int) (map[string]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, ErrNotRunning
	}
	return parseMembership(string(data)), nil
}

func parseMembership(data string) map[string]string {
	groups := map[string]string{}
	for line := range strings.Lines(data) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) == 3 {
			groups[parts[1]] = strings.TrimSuffix(parts[2], " (deleted)")
		}
	}
	return groups
}

// cgroupDirs gives for each hierarchy the directory of a path in it, by where it
// is mounted here. Hierarchies that are not mounted are left out.
func cgroupDirs(groups map[string]string) ([]cgroup, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("cannot read where cgroups are mounted: %w", err)
	}
	var out []cgroup
	for names, path := range groups {
		for _, m := range mounts {
			if !mountHolds(m, names) {
				continue
			}
			rel, err := filepath.Rel(m.Root, path)
			if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
				continue
			}
			g := cgroup{dir: filepath.Join(m.Mountpoint, rel)}
			if names != "" {
				g.controllers = strings.Split(names, ",")
			}
			out = append(out, g)
			break
		}
	}
	slices.SortFunc(out, func(a, b cgroup) int { return strings.Compare(a.dir, b.dir) })
	return out, nil
}

// mountHolds says whether a mount shows the hierarchy of these controllers.
func mountHolds(m *mountinfo.Info, names string) bool {
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

// containerCgroups are the groups that libvirt made for a container: what the
// groups of its controller and of its init have in common, since an init like
// systemd moves itself further down. Where libvirt made none, both are in libvirtd's.
func containerCgroups(controller, init int) ([]cgroup, error) {
	a, err := membership(controller)
	if err != nil {
		return nil, err
	}
	b, err := membership(init)
	if err != nil {
		return nil, err
	}
	for names, path := range a {
		if a[names] = commonPath(path, b[names]); !madeFor(controller, a[names]) {
			delete(a, names)
		}
	}
	return cgroupDirs(a)
}

// madeFor says whether a path is in a group that libvirt made for the container of a
// controller. Its name holds the controller's pid: lxc-42-web1.libvirt-lxc, or
// machine-lxc\x2d42\x2dweb1.scope where systemd makes it.
func madeFor(controller int, path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		part = strings.TrimPrefix(strings.ReplaceAll(part, `\x2d`, "-"), "machine-")
		if strings.HasPrefix(part, fmt.Sprintf("lxc-%d-", controller)) {
			return true
		}
	}
	return false
}

// commonPath is the deepest directory that both paths are in.
func commonPath(a, b string) string {
	x, y := strings.Split(a, "/"), strings.Split(b, "/")
	n := 0
	for n < len(x) && n < len(y) && x[n] == y[n] {
		n++
	}
	return "/" + strings.Trim(strings.Join(x[:n], "/"), "/")
}

// Usage is what a container uses now, from its cgroups. What the host does not
// account is -1.
type Usage struct {
	MemoryBytes     int64         `json:"memory_bytes"` // with the page cache
	MemoryLimit     int64         `json:"memory_limit_bytes"`
	CPUTime         time.Duration `json:"cpu_time_ns"` // since it started
	CPULimit        float64       `json:"cpu_limit"`   // CPUs' worth of time; -1: not limited
	BlockReadBytes  int64         `json:"block_read_bytes"`
	BlockWriteBytes int64         `json:"block_write_bytes"`
	Processes       int64         `json:"processes"` // and threads
}

// Usage gives what a running container uses, or ErrNotRunning, ErrNotFound.
func (h *Host) Usage(ctx context.Context, id string) (Usage, error) {
	var u Usage
	info, err := h.State(ctx, id)
	if err != nil {
		return u, err
	}
	return u, h.withInit(ctx, id, func(p *initProc) error {
		groups, err := containerCgroups(info.PID, p.pid)
		if err != nil {
			return err
		}
		u = readUsage(groups)
		if u.Processes > 0 { // libvirt's controller is in the groups too
			threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", info.PID))
			u.Processes -= int64(len(threads))
		}
		if !proc.Alive(p.pidfd) {
			return fmt.Errorf("container %s: %w", id, ErrNotRunning)
		}
		return nil
	})
}

func readUsage(groups []cgroup) Usage {
	u := Usage{-1, -1, -1, -1, -1, -1, -1}
	for _, g := range groups {
		has := func(controller string) bool { return slices.Contains(g.controllers, controller) }
		v2 := len(g.controllers) == 0
		if v2 {
			if n, ok := g.number("memory.current"); ok {
				u.MemoryBytes = n
				u.MemoryLimit, _ = g.number("memory.max")
			}
			if n, ok := g.field("cpu.stat", "usage_usec"); ok && u.CPUTime < 0 {
				u.CPUTime = time.Duration(n) * time.Microsecond
			}
			if f := g.words("cpu.max"); len(f) == 2 && f[0] != "max" {
				u.CPULimit = ratio(f[0], f[1])
			}
			if r, w, ok := g.ioStat(); ok {
				u.BlockReadBytes, u.BlockWriteBytes = r, w
			}
		}
		if has("memory") {
			u.MemoryBytes, _ = g.number("memory.usage_in_bytes")
			u.MemoryLimit, _ = g.number("memory.limit_in_bytes")
		}
		if has("cpuacct") {
			n, _ := g.number("cpuacct.usage")
			u.CPUTime = time.Duration(n)
		}
		if has("cpu") {
			if q, ok := g.number("cpu.cfs_quota_us"); ok && q > 0 {
				p, _ := g.number("cpu.cfs_period_us")
				u.CPULimit = ratio(strconv.FormatInt(q, 10), strconv.FormatInt(p, 10))
			}
		}
		if has("blkio") {
			u.BlockReadBytes, u.BlockWriteBytes = g.blkio()
		}
		// libvirt makes no group in v1's pids: count in one that all are in.
		if has("memory") || v2 {
			if n := g.tasks(); n > 0 {
				u.Processes = n
			}
		}
	}
	return u
}

func ratio(a, b string) float64 {
	x, err1 := strconv.ParseFloat(a, 64)
	y, err2 := strconv.ParseFloat(b, 64)
	if err1 != nil || err2 != nil || y == 0 {
		return -1
	}
	return x / y
}

func (g cgroup) words(file string) []string {
	data, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

// number reads a file of one number; "max" is -1, as is what cannot be read.
func (g cgroup) number(file string) (int64, bool) {
	w := g.words(file)
	if len(w) != 1 {
		return -1, false
	}
	n, err := strconv.ParseInt(w[0], 10, 64)
	if err != nil {
		return -1, w[0] == "max"
	}
	return n, true
}

// field reads one line "name number" of a file.
func (g cgroup) field(file, name string) (int64, bool) {
	w := g.words(file)
	for i := 0; i+1 < len(w); i += 2 {
		if w[i] == name {
			n, err := strconv.ParseInt(w[i+1], 10, 64)
			return n, err == nil
		}
	}
	return -1, false
}

// ioStat sums v2's io.stat over all devices.
func (g cgroup) ioStat() (read, write int64, ok bool) {
	data, err := os.ReadFile(filepath.Join(g.dir, "io.stat"))
	if err != nil {
		return 0, 0, false
	}
	for _, w := range strings.Fields(string(data)) {
		k, v, _ := strings.Cut(w, "=")
		n, _ := strconv.ParseInt(v, 10, 64)
		switch k {
		case "rbytes":
			read += n
		case "wbytes":
			write += n
		}
	}
	return read, write, true
}

// blkio sums v1's figures over all devices: lines "8:0 Read 4096".
func (g cgroup) blkio() (read, write int64) {
	f, err := os.Open(filepath.Join(g.dir, "blkio.throttle.io_service_bytes_recursive"))
	if err != nil {
		return -1, -1
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		w := strings.Fields(s.Text())
		if len(w) != 3 {
			continue
		}
		n, _ := strconv.ParseInt(w[2], 10, 64)
		switch w[1] {
		case "Read":
			read += n
		case "Write":
			write += n
		}
	}
	return read, write
}

// tasks counts the threads in the group and below.
func (g cgroup) tasks() int64 {
	if n, ok := g.number("pids.current"); ok {
		return n
	}
	file := "tasks"
	if len(g.controllers) == 0 {
		file = "cgroup.threads"
	}
	var total int64
	filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if data, err := os.ReadFile(filepath.Join(path, file)); err == nil {
			total += int64(strings.Count(string(data), "\n"))
		}
		return nil
	})
	return total
}
