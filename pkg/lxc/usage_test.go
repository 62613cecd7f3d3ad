package lxc

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/moby/sys/mountinfo"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
)

func TestCgroupPaths(t *testing.T) {
	for _, tt := range []struct{ a, b, want string }{
		{"/machine/lxc-1-x.libvirt-lxc", "/machine/lxc-1-x.libvirt-lxc/init.scope", "/machine/lxc-1-x.libvirt-lxc"},
		{"/machine.slice/machine-lxc\\x2d1.scope", "/machine.slice/machine-lxc\\x2d1.scope", "/machine.slice/machine-lxc\\x2d1.scope"},
		{"/machine/ab", "/machine/abc", "/machine"}, {"/", "/x", "/"}, {"/x", "", "/"},
	} {
		if got := commonPath(tt.a, tt.b); got != tt.want {
			t.Errorf("%q and %q: %q", tt.a, tt.b, got)
		}
	}
}

func TestMadeFor(t *testing.T) {
	for path, want := range map[string]bool{
		"/machine/lxc-42-web1.libvirt-lxc":                         true,
		"/machine/lxc-42-web1.libvirt-lxc/init.scope":              true,
		"/machine.slice/machine-lxc\\x2d42\\x2dweb1.scope/libvirt": true,
		"/machine/lxc-421-web1.libvirt-lxc":                        false,
		"/machine.slice/machine-qemu\\x2d42\\x2dweb1.scope":        false,
		"/": false, "/system.slice/libvirtd.service": false, "/ci/job-42": false, "/lxc/web1": false,
	} {
		if got := madeFor(42, path); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
}

// hierarchies are the places where cgroups are mounted.
func hierarchies(t *testing.T) (dirs []string) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	must(t, err)
	for _, m := range mounts {
		dirs = append(dirs, m.Mountpoint)
	}
	if len(dirs) == 0 {
		t.Fatal("this host has no cgroups mounted")
	}
	return dirs
}

// group makes a control group; false: the hierarchy does not take it.
func group(t *testing.T, dir string, owner int) bool {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Log(err)
		return false
	}
	t.Cleanup(func() {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(poll) { // until its processes are gone
			err := os.Remove(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				return
			}
			if time.Now().After(end) {
				t.Error(err)
				return
			}
		}
	})
	must(t, os.Chown(dir, owner, owner))
	return true
}

// ownRange is a range of host ids that no other run of the tests has at the same time.
func ownRange() *IDMap {
	return &IDMap{HostID: 900_000_000 + 65536*uint32(rand.IntN(10_000)), Count: 65536}
}

// A container's root makes groups wherever it may; after its end none is left.
func TestGroupsOfContainer(t *testing.T) {
	h := open(t)
	ids := ownRange()
	name := "lxcboot-ut-" + uuid.NewString()[:8]
	cfg := boxOf(t, makeRoot(t, int(ids.HostID), "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir -p $d/"+name+"/deep && echo in $d; done; echo all made"), ids)
	there := func() (dirs []string) {
		for _, top := range hierarchies(t) {
			filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() && strings.Contains(path, name) {
					dirs = append(dirs, path)
				}
				return nil
			})
		}
		return dirs
	}
	define(t, h, cfg)
	for ctx := limited(t); ; must(t, ctx.Err()) {
		up(t, h, cfg)
		c := serve(t, h, cfg)
		c.waitLog(t, "all made")
		if len(there()) > 0 {
			break
		}
		// Another container was started in between, and libvirtd's group was given to that.
		t.Log(c.readLog(t))
		must(t, h.Destroy(ctx, cfg.UUID))
	}
	must(t, h.Shutdown(limited(t), cfg.UUID))
	t.Logf("left by the end: %q", there())
	must(t, h.Destroy(limited(t), cfg.UUID))
	must(t, cgroup.Remove(limited(t), cfg.UUID))
	if left := there(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// The groups that libvirtd itself is in are not the container's, whatever they are: they
// are not counted, and not waited for.
func TestLibvirtdInOtherGroups(t *testing.T) {
	name := "lxcboot-ut-" + uuid.NewString()[:8]
	var groups []string
	for _, top := range hierarchies(t) { // before libvirtd, so that they are removed after its end
		if dir := filepath.Join(top, name); group(t, dir, 0) {
			groups = append(groups, dir)
		}
	}
	h, pid := privateLibvirtd(t)
	moved := 0
	for _, dir := range groups {
		if err := os.WriteFile(dir+"/cgroup.procs", []byte(fmt.Sprint(pid)), 0); err != nil {
			t.Log(err) // cpuset, which has no CPUs yet
			continue
		}
		moved++
	}
	if moved == 0 {
		t.Fatal("libvirtd could not be moved to another group")
	}
	cfg := config(t, "")
	define(t, h, cfg)
	up(t, h, cfg)
	info, err := h.State(limited(t), cfg.UUID)
	must(t, err)
	own, err := containerCgroups(info.PID, info.InitPID)
	must(t, err)
	if len(own) == 0 {
		t.Error("the container has no groups")
	}
	for _, g := range own {
		if filepath.Base(g.Dir) == name {
			t.Errorf("%s is taken for the container's", g.Dir)
		}
	}
	if u, err := h.Usage(limited(t), cfg.UUID); err != nil || u.MemoryLimit != int64(cfg.MemoryMiB)<<20 {
		t.Errorf("%+v, %v", u, err)
	}
	began := time.Now()
	must(t, h.Destroy(limited(t), cfg.UUID))
	if took := time.Since(began); took > goneLimit/2 {
		t.Errorf("it took %s", took)
	}
}

// Version 2 is not on every host that runs the tests: its files are made here.
func TestUsageV2(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"memory.current": "4096\n", "memory.max": "67108864\n", "cpu.stat": "usage_usec 1500\nuser_usec 1000\n",
		"cpu.max": "200000 100000\n", "cgroup.threads": fmt.Sprintf("%d\n4194304\n4194305\n", os.Getpid()),
		"io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n7:1 rbytes=1 wbytes=2\n",
	} {
		writeFile(t, dir+"/"+name, text)
	}
	got := readUsage([]cgroup.Group{{Dir: dir}}, os.Getpid())
	if want := (Usage{4096, 64 << 20, 1500_000, 2, 11, 22, 2}); got != want {
		t.Errorf("%+v", got)
	}
	writeFile(t, dir+"/memory.max", "max\n")
	writeFile(t, dir+"/cpu.max", "max 100000\n")
	if got := readUsage([]cgroup.Group{{Dir: dir}}, os.Getpid()); got.MemoryLimit != -1 || got.CPULimit != -1 {
		t.Errorf("%+v", got)
	}
	if got := readUsage(nil, 0); got != (Usage{-1, -1, -1, -1, -1, -1, -1}) {
		t.Errorf("%+v", got)
	}
}
