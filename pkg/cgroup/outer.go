package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits are what all processes of a container may use together. The program of
// libvirt's that controls it, with some threads and little memory, is among them.
type Limits struct {
	MemoryMiB int
	SwapMiB   int // beyond the memory; not held where the kernel does not count swap
	VCPUs     int // CPUs' worth of time
	Processes int // and threads; not held where the kernel has no controller "pids"
}

// The outer group of a container is named by its id, in which libvirt would take a '-'
// for one that has to be escaped.
func short(id string) string { return strings.ReplaceAll(id, "-", "") }

// Partition is what libvirt's definition of a container calls the outer group.
func Partition(id string) string { return "/machine/lxcboot/" + short(id) }

// partition is where libvirt looks for it below the top of each hierarchy, and slice the
// unit that it asks for where systemd-machined makes the containers' groups.
func partition(id string) string {
	return "machine/lxcboot.partition/" + short(id) + ".partition"
}
func slice(id string) string { return "machine-lxcboot-" + short(id) + ".slice" }

// ownGroups holds the groups of containers' own in v1's hierarchy of systemd. libvirt
// makes none there where systemd does not run: it gives the group that it is in itself,
// and all that is right below it, to the root of the container that was started last. Two
// levels below it nothing of one container's becomes another's.
const ownGroups = "lxcboot"

// Make makes the outer group of a container, which is not started yet, in each hierarchy,
// with its limits; one that is there is given them. own is not empty where the container
// needs a group of its own in v1's hierarchy of systemd: its path there, and the group is
// the host user owner's.
func Make(ctx context.Context, id string, owner int, l Limits) (own string, err error) {
	if machined() {
		return "", makeSlice(ctx, id, l)
	}
	tops, err := Tops()
	if err != nil {
		return "", err
	}
	limited := map[string]bool{}
	for _, top := range tops {
		switch {
		case top.Has("name=systemd"):
			if !systemd() {
				own = filepath.Join(ownGroups, id)
				err = giveGroup(filepath.Join(top.Dir, own), owner)
			}
		default:
			err = top.limit(id, l, limited)
		}
		if err != nil {
			return "", fmt.Errorf("cannot make the container's control group: %w", err)
		}
	}
	for _, what := range []string{"memory", "cpu"} {
		if !limited[what] {
			return "", fmt.Errorf("the control groups that are mounted here cannot limit a container's %s", what)
		}
	}
	return own, nil
}

// giveGroup makes a group of a user's.
func giveGroup(dir string, owner int) error {
	err := makeDir(dir)
	for _, name := range []string{"", "cgroup.procs", "tasks"} {
		if err == nil {
			err = os.Chown(filepath.Join(dir, name), owner, owner)
		}
	}
	return err
}

// makeDir makes a directory and those above it, of which a Remove of another container's
// may take one away meanwhile.
func makeDir(dir string) (err error) {
	for range 100 {
		if err = os.MkdirAll(dir, 0o755); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return err
}

// limit makes the outer group in a hierarchy, sets there what that can limit, and notes
// what that is.
func (g Group) limit(id string, l Limits, limited map[string]bool) error {
	if err := makeDir(filepath.Join(g.Dir, partition(id))); err != nil {
		return err
	}
	for _, part := range strings.Split(partition(id), "/") {
		below := g.below(part)
		if err := g.handDown(below); err != nil {
			return err
		}
		g = below
	}
	for _, s := range l.settings(g) {
		switch err := g.write(s.file, s.value); {
		case err == nil:
			limited[s.what] = true
		case !errors.Is(err, fs.ErrNotExist): // else the hierarchy does not do it
			return err
		}
	}
	return nil
}

// handDown lets a group below this one have what this one has: v2's controllers, and the
// CPUs and memory nodes, without which v1's cpuset takes no process.
func (g Group) handDown(below Group) error {
	if g.V2() {
		for _, controller := range g.Words("cgroup.controllers") {
			// One that cannot be had is missed when its limit is set.
			_ = g.write("cgroup.subtree_control", "+"+controller)
		}
	}
	if !g.Has("cpuset") {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if len(below.Words(file)) == 0 {
			if err := below.write(file, strings.Join(g.Words(file), "")); err != nil {
				return err
			}
		}
	}
	return nil
}

// period is that of the limit on CPU time in microseconds, the kernel's default.
const period = 100_000

type setting struct{ what, file, value string }

// settings are the limits as the files of a group of its kind take them, in their order.
func (l Limits) settings(g Group) []setting {
	mib := func(n int) string { return strconv.FormatInt(int64(n)<<20, 10) }
	quota := strconv.Itoa(l.VCPUs * period)
	if g.V2() {
		return []setting{
			{"memory", "memory.max", mib(l.MemoryMiB)},
			{"swap", "memory.swap.max", mib(l.SwapMiB)},
			{"cpu", "cpu.max", quota + " " + strconv.Itoa(period)},
			{"pids", "pids.max", strconv.Itoa(l.Processes)},
		}
	}
	var all []setting
	if g.Has("memory") {
		all = append(all, // the second is never under the first
			setting{"swap", "memory.memsw.limit_in_bytes", "-1"},
			setting{"memory", "memory.limit_in_bytes", mib(l.MemoryMiB)},
			setting{"swap", "memory.memsw.limit_in_bytes", mib(l.MemoryMiB + l.SwapMiB)})
	}
	if g.Has("cpu") {
		all = append(all, setting{"cpu", "cpu.cfs_period_us", strconv.Itoa(period)}, setting{"cpu", "cpu.cfs_quota_us", quota})
	}
	if g.Has("pids") {
		all = append(all, setting{"pids", "pids.max", strconv.Itoa(l.Processes)})
	}
	return all
}

// Confine puts a container's first process, which has no children yet, where libvirt puts
// none: into the outer group of v1's hierarchy of pids. One that has ended is done.
func Confine(id string, pid int) error {
	tops, err := Tops()
	if err != nil {
		return err
	}
	for _, top := range tops {
		if !top.Has("pids") {
			continue
		}
		if err := top.below(partition(id)).Join(pid); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot limit the container's processes: %w", err)
		}
	}
	return nil
}

// Outer cuts the paths of a process of a container to its outer group; the others are
// left out.
func Outer(id string, paths map[string]string) map[string]string {
	outer := map[string]string{}
	for names, path := range paths {
		parts := strings.Split(path, "/")
		i := slices.IndexFunc(parts, func(part string) bool {
			return part == slice(id) || part == filepath.Base(partition(id))
		})
		if i >= 0 {
			outer[names] = strings.Join(parts[:i+1], "/")
		}
	}
	return outer
}

// Remove removes the groups of a container, which has ended, with all that is left in
// them. None is done; processes that stay in one are named.
func Remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, emptyLimit)
	defer cancel()
	tops, err := Tops()
	if err != nil {
		return err
	}
	if systemd() {
		err = removeSlice(ctx, id, tops)
	}
	for _, top := range tops {
		dir := partition(id)
		if top.Has("name=systemd") {
			dir = filepath.Join(ownGroups, id)
		}
		err = errors.Join(err, RemoveTree(ctx, filepath.Join(top.Dir, dir)))
		_ = unix.Rmdir(filepath.Join(top.Dir, filepath.Dir(dir))) // unless another container has its group in it
	}
	if err != nil {
		return fmt.Errorf("a control group of container %s is left: %w", id, err)
	}
	return nil
}
