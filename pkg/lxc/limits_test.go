package lxc

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// limitFiles are what a group's limits are called, of any version.
const limitFiles = `-name '*.max' -o -name '*.high' -o -name '*limit_in_bytes' -o -name '*quota_us' -o -name 'cpu*.cpus'`

// Root in a container lifts each limit that it sees, and is held by the host's all the
// same: with memory, CPU time and processes. With v1 and a user namespace it may lift
// none, and with v2 it depends on how that is mounted.
func TestLimitsOutOfReach(t *testing.T) {
	h := open(t)
	t.Run("user namespace", func(t *testing.T) { testLimits(t, h, config(t, ""), false) })
	t.Run("privileged", func(t *testing.T) { testLimits(t, h, privileged(t, ""), true) })
}

func testLimits(t *testing.T, h *Host, cfg box, lifts bool) {
	owner := 0
	if cfg.IDMap != nil {
		owner = int(cfg.IDMap.HostID)
	}
	var hold *Hold
	info, p := held(t, h, cfg, func() {
		_, err := cgroup.Make(limited(t), cfg.UUID, owner, cgroup.Limits{MemoryMiB: 64, VCPUs: 1, Processes: 64})
		must(t, err)
		hold, err = HoldInit(cfg.Launch)
		must(t, err)
	})
	must(t, cgroup.Confine(cfg.UUID, p.pid))
	hold.Release()
	_, err := h.WaitInit(limited(t), info)
	must(t, err)
	c := serve(t, h, cfg)
	paths, err := cgroup.Of(c.InitPID)
	must(t, err)
	outer, err := cgroup.Dirs(cgroup.Outer(cfg.UUID, paths))
	must(t, err)
	// count adds up what the outer groups say in files, of which each version has its own.
	count := func(files ...string) (n int64) {
		for _, g := range outer {
			for _, file := range files {
				name, field, has := strings.Cut(file, " ")
				v, ok := g.Number(name)
				if has {
					v, ok = g.Field(name, field)
				}
				if ok {
					n += v
				}
			}
		}
		return n
	}
	_, lifted, _ := c.run(t, ExecOptions{}, "sh", "-c", `for f in $(find /sys/fs/cgroup -type f \( `+limitFiles+` \)); do
		{ echo max >$f || echo -1 >$f; } 2>/dev/null && echo $f; done`)
	lifted = strings.Join(slices.DeleteFunc(strings.Fields(lifted), func(f string) bool { return !strings.Contains(f, "/memory.") }), " ")
	if v1 := count("memory.limit_in_bytes") > 0; v1 && lifts == (lifted == "") {
		t.Errorf("of its memory's limits it lifted %q", lifted)
	}
	if code, _, errs := c.run(t, ExecOptions{}, "tail", "/dev/zero"); code != 137 {
		t.Errorf("a memory hog ends with %d\n%s", code, errs)
	}
	if lifted != "" && count("memory.max_usage_in_bytes") < 64<<20 && count("memory.events max") == 0 {
		t.Error("something else than the outer group stopped the memory hog")
	}

	// On a busy host three loops may not come to a whole CPU's time; to a twentieth they do.
	dirs, err := cgroup.Dirs(paths)
	must(t, err)
	for _, g := range dirs {
		set(t, g, "cpu.cfs_quota_us", "-1")
	}
	for _, g := range outer {
		set(t, g, "cpu.cfs_quota_us", "5000")
		set(t, g, "cpu.max", "5000 100000")
	}
	if code, _, errs := c.run(t, ExecOptions{}, "sh", "-c", "for i in 1 2 3; do while true; do true; done & done >/dev/null 2>&1"); code != 0 {
		t.Fatal(errs)
	}
	for ctx := within(t, time.Minute); count("cpu.stat nr_throttled") == 0; {
		must(t, wait.For(ctx, poll))
	}
	if u, err := h.Usage(limited(t), cfg.UUID); err != nil || u.MemoryLimit != 64<<20 || u.CPULimit != 0.05 {
		t.Errorf("%+v, %v", u, err)
	}

	if slices.ContainsFunc(outer, func(g cgroup.Group) bool { return g.V2() || g.Has("pids") }) {
		_, out, errs := c.run(t, ExecOptions{}, "sh", "-c", "for i in $(seq 200); do sleep 100 & echo one; done")
		if n := strings.Count(out, "one"); n < 20 || n > 64 || count("pids.events max") == 0 {
			t.Errorf("%d processes, and the outer group stopped %d\n%s", n, count("pids.events max"), errs)
		}
	}
	must(t, h.Destroy(limited(t), cfg.UUID))
	must(t, cgroup.Remove(limited(t), cfg.UUID))
	for _, g := range outer {
		if _, err := os.Stat(g.Dir); strings.Contains(g.Dir, "lxcboot") && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", g.Dir, err)
		}
	}
}

// set writes to a file of a group, where that has it.
func set(t *testing.T, g cgroup.Group, file, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(g.Dir, file), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	must(t, err)
	defer f.Close()
	_, err = f.WriteString(text)
	must(t, err)
}
