package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/wait"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestParse(t *testing.T) {
	got := parse("4:memory:/a\n2:cpu,cpuacct:/b:c (deleted)\n1:name=systemd:/\n0::/u\nrubbish\n")
	want := map[string]string{"memory": "/a", "cpu,cpuacct": "/b:c", "name=systemd": "/", "": "/u"}
	if !maps.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

const testID = "0b9ff5f0-6d5c-4a0e-8a43-9f3a52d0c9ba"

func TestOuter(t *testing.T) {
	const hex = "0b9ff5f06d5c4a0e8a439f3a52d0c9ba"
	got := Outer(testID, map[string]string{
		"":             `/machine.slice/machine-lxcboot.slice/machine-lxcboot-` + hex + `.slice/machine-lxc\x2d7\x2dweb1.scope/libvirt`,
		"memory":       "/machine/lxcboot.partition/" + hex + ".partition/lxc-7-web1.libvirt-lxc/init.scope",
		"name=systemd": "/lxcboot/" + testID,
		"pids":         "/machine/lxcboot.partition/" + strings.Repeat("0", 32) + ".partition",
	})
	want := map[string]string{
		"":       "/machine.slice/machine-lxcboot.slice/machine-lxcboot-" + hex + ".slice",
		"memory": "/machine/lxcboot.partition/" + hex + ".partition",
	}
	if !maps.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// outer are the outer groups that a container has on this host.
func outer(t *testing.T, id string) (groups []Group) {
	t.Helper()
	tops, err := Tops()
	must(t, err)
	for _, top := range tops {
		for _, path := range []string{partition(id), "machine.slice/machine-lxcboot.slice/" + slice(id)} {
			if g := top.below(path); g.Words("cgroup.procs") != nil || exists(g.Dir) {
				groups = append(groups, g)
			}
		}
	}
	return groups
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// value is what one of the files says, of which each version of cgroups has one.
func value(groups []Group, files ...string) string {
	for _, g := range groups {
		for _, f := range files {
			if w := g.Words(f); len(w) > 0 {
				return strings.Join(w, " ")
			}
		}
	}
	return ""
}

// The limits are there before anything is in the group, again with other ones, and when
// what was made is removed nothing is left.
func TestMake(t *testing.T) {
	id := uuid.NewString()
	t.Cleanup(func() { must(t, Remove(context.Background(), id)) })
	for _, l := range []Limits{{64, 0, 1, 100}, {128, 32, 2, 200}, {32, 8, 1, 50}} {
		_, err := Make(limited(t), id, 0, l)
		must(t, err)
		groups := outer(t, id)
		for what, want := range map[string][]string{
			value(groups, "memory.max", "memory.limit_in_bytes"): {strconv.Itoa(l.MemoryMiB << 20)},
			value(groups, "cpu.max", "cpu.cfs_quota_us"):         {strconv.Itoa(l.VCPUs*period) + " 100000", strconv.Itoa(l.VCPUs * period)},
			value(groups, "pids.max"):                            {strconv.Itoa(l.Processes), ""},
			value(groups, "memory.swap.max"):                     {strconv.Itoa(l.SwapMiB << 20), ""},
			value(groups, "memory.memsw.limit_in_bytes"):         {strconv.Itoa((l.MemoryMiB + l.SwapMiB) << 20), ""},
		} {
			if !slices.Contains(want, what) {
				t.Errorf("of %+v: %q instead of %q", l, what, want)
			}
		}
	}
	must(t, Remove(limited(t), id))
	if left := outer(t, id); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	must(t, Remove(limited(t), id))
	// The last one takes with it what held it, unless another's is just being made.
	tops, err := Tops()
	must(t, err)
	must(t, wait.Until(limited(t), time.Millisecond, 20*time.Millisecond, func() (bool, error) {
		for _, top := range tops {
			for _, dir := range []string{filepath.Dir(partition(id)), ownGroups} {
				all, err := os.ReadDir(filepath.Join(top.Dir, dir))
				if err == nil && !slices.ContainsFunc(all, os.DirEntry.IsDir) {
					return false, nil
				}
			}
		}
		return true, nil
	}))
}

// A first process is put where libvirt puts none, and one that has ended is no failure.
func TestConfine(t *testing.T) {
	id := uuid.NewString()
	t.Cleanup(func() { must(t, Remove(context.Background(), id)) })
	_, err := Make(limited(t), id, 0, Limits{64, 0, 1, 100})
	must(t, err)
	cmd := exec.Command("sleep", "60")
	must(t, cmd.Start())
	must(t, Confine(id, cmd.Process.Pid))
	for _, g := range outer(t, id) {
		in := slices.Contains(g.Words("cgroup.procs"), strconv.Itoa(cmd.Process.Pid))
		if in != g.Has("pids") {
			t.Errorf("in %s: %v", g.Dir, in)
		}
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	must(t, Confine(id, cmd.Process.Pid))
	must(t, Remove(limited(t), id))
	must(t, Confine(id, os.Getpid())) // there is no group
}

// Groups that come and go side by side do not take away what holds them.
func TestSideBySide(t *testing.T) {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			id := uuid.NewString()
			for range 10 {
				if _, err := Make(limited(t), id, 100_000, Limits{64, 0, 1, 100}); err != nil {
					t.Error(err)
				}
				if err := Remove(limited(t), id); err != nil {
					t.Error(err)
				}
			}
			if left := outer(t, id); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
	all.Wait()
}

// What a container's root made in its group goes with it, but not what is in use.
func TestRemoveTree(t *testing.T) {
	id := uuid.NewString()
	t.Cleanup(func() { must(t, Remove(context.Background(), id)) })
	_, err := Make(limited(t), id, 0, Limits{64, 0, 1, 100})
	must(t, err)
	for _, g := range outer(t, id) {
		must(t, os.MkdirAll(g.below("a/b").Dir, 0o755))
	}
	must(t, Remove(limited(t), id))
	if left := outer(t, id); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := Of(1 << 30); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the groups of no process: %v", err)
	}
}

// What stays in a group is named, and goes with the next try.
func TestOccupied(t *testing.T) {
	id := uuid.NewString()
	t.Cleanup(func() { must(t, Remove(context.Background(), id)) })
	_, err := Make(limited(t), id, 0, Limits{64, 0, 1, 100})
	must(t, err)
	cmd := exec.Command("sleep", "600")
	must(t, cmd.Start())
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	for _, g := range outer(t, id) {
		must(t, g.Join(cmd.Process.Pid))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	want := fmt.Sprintf("(its processes: %d (sleep), in state S)", cmd.Process.Pid)
	if err := Remove(ctx, id); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v", err)
	}
}

// v1 limits memory and swap together, v2 swap alone: of either a container has as much swap
// as was asked for.
func TestSwap(t *testing.T) {
	for _, c := range []struct {
		group Group
		mib   int
		want  []setting
	}{
		{Group{}, 64, []setting{{"swap", "memory.swap.max", "67108864"}}},
		{Group{}, 0, []setting{{"swap", "memory.swap.max", "0"}}},
		{Group{Controllers: []string{"memory"}}, 64, []setting{{"swap", "memory.memsw.limit_in_bytes", "-1"}, {"swap", "memory.memsw.limit_in_bytes", "335544320"}}},
		{Group{Controllers: []string{"memory"}}, 0, []setting{{"swap", "memory.memsw.limit_in_bytes", "-1"}, {"swap", "memory.memsw.limit_in_bytes", "268435456"}}},
	} {
		got := slices.DeleteFunc(Limits{MemoryMiB: 256, SwapMiB: c.mib, VCPUs: 1, Processes: 1}.settings(c.group), func(s setting) bool { return s.what != "swap" })
		if !slices.Equal(got, c.want) {
			t.Errorf("%d MiB of swap in %+v: %v", c.mib, c.group, got)
		}
	}
}
