package lxc

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
	"github.com/lxcboot/lxcboot/pkg/proc"
)

// containerCgroups are the groups that libvirt made for a container: what the
// groups of its controller and of its init have in common, since an init like
// systemd moves itself further down. Where libvirt made none, both are in libvirtd's.
func containerCgroups(controller, init int) ([]cgroup.Group, error) {
	a, err := cgroup.Of(controller)
	if err != nil {
		return nil, ErrNotRunning
	}
	b, err := cgroup.Of(init)
	if err != nil {
		return nil, ErrNotRunning
	}
	for names, path := range a {
		if a[names] = commonPath(path, b[names]); !madeFor(controller, a[names]) {
			delete(a, names)
		}
	}
	return cgroup.Dirs(a)
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
		groups, err := usageCgroups(info.PID, p.pid, id)
		if err != nil {
			return err
		}
		u = readUsage(groups, info.PID)
		if !proc.Alive(p.pidfd) {
			return fmt.Errorf("container %s: %w", id, ErrNotRunning)
		}
		return nil
	})
}

// usageCgroups are the groups that hold all of a container: its outer ones, whose limits
// are out of its reach. An older lxcboot, or virsh, started one without them.
func usageCgroups(controller, init int, id string) ([]cgroup.Group, error) {
	paths, err := cgroup.Of(init)
	if err != nil {
		return nil, ErrNotRunning
	}
	if outer := cgroup.Outer(id, paths); len(outer) > 0 {
		return cgroup.Dirs(outer)
	}
	return containerCgroups(controller, init)
}

func readUsage(groups []cgroup.Group, controller int) Usage {
	u := Usage{-1, -1, -1, -1, -1, -1, -1}
	for _, g := range groups {
		if g.V2() {
			if n, ok := g.Number("memory.current"); ok {
				u.MemoryBytes = n
				u.MemoryLimit, _ = g.Number("memory.max")
			}
			if n, ok := g.Field("cpu.stat", "usage_usec"); ok && u.CPUTime < 0 {
				u.CPUTime = time.Duration(n) * time.Microsecond
			}
			if f := g.Words("cpu.max"); len(f) == 2 && f[0] != "max" {
				u.CPULimit = ratio(f[0], f[1])
			}
		}
		if g.Has("memory") {
			u.MemoryBytes, _ = g.Number("memory.usage_in_bytes")
			u.MemoryLimit, _ = g.Number("memory.limit_in_bytes")
		}
		if g.Has("cpuacct") {
			n, _ := g.Number("cpuacct.usage")
			u.CPUTime = time.Duration(n)
		}
		if g.Has("cpu") {
			if q, ok := g.Number("cpu.cfs_quota_us"); ok && q > 0 {
				p, _ := g.Number("cpu.cfs_period_us")
				u.CPULimit = ratio(strconv.FormatInt(q, 10), strconv.FormatInt(p, 10))
			}
		}
		if g.V2() || g.Has("blkio") {
			if r, w, ok := g.IO(); ok {
				u.BlockReadBytes, u.BlockWriteBytes = r, w
			}
		}
		// libvirt makes no group in v1's pids: count in one that all are in.
		if g.V2() || g.Has("memory") {
			u.Processes = 0
			for _, tid := range g.Tasks() { // libvirt's controller is in the groups too
				if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%s", controller, tid)); err != nil {
					u.Processes++
				}
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
