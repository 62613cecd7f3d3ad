package lxc

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
)

// A container sees its own control groups, and none of the host's: in what is mounted,
// in what it mounts itself, and in what is run in it.
func TestControlGroups(t *testing.T) {
	h := open(t)
	for _, private := range []bool{true, false} {
		t.Run(fmt.Sprint("user namespace ", private), func(t *testing.T) {
			cfg := config(t, "")
			if !private {
				cfg = privileged(t, "")
			}
			c := start(t, h, cfg)
			ours, err := os.Stat("/proc/self/ns/cgroup")
			must(t, err)
			if theirs, err := os.Stat(fmt.Sprintf("/proc/%d/ns/cgroup", c.InitPID)); err != nil || os.SameFile(ours, theirs) {
				t.Errorf("it is in the host's namespace: %v", err)
			}
			for _, pid := range []string{"1", "self"} {
				_, out, _ := c.run(t, ExecOptions{}, "cat", "/proc/"+pid+"/cgroup")
				for line := range strings.Lines(out) {
					if !strings.HasSuffix(line, ":/\n") {
						t.Errorf("%s: %s", pid, line)
					}
				}
			}
			groups, err := containerCgroups(c.PID, c.InitPID)
			must(t, err)
			if len(groups) == 0 {
				t.Fatal("the container has no groups")
			}
			// What is mounted is the container's own: a group that the host makes below it is
			// seen, and the host's own are not.
			_, tree, _ := c.run(t, ExecOptions{}, "ls", "-R", "/sys/fs/cgroup")
			for _, word := range []string{"machine", "libvirt-lxc", "system.slice", "lxcboot"} {
				if strings.Contains(tree, word) {
					t.Errorf("%s is seen", word)
				}
			}
			for _, g := range groups {
				at := "/sys/fs/cgroup"
				if len(g.Controllers) > 0 {
					at += "/" + strings.Join(g.Controllers, ",")
				}
				own := filepath.Join(g.Dir, "seen")
				must(t, os.Mkdir(own, 0o755))
				if code, _, errs := c.run(t, ExecOptions{}, "ls", at+"/seen"); code != 0 {
					t.Errorf("%s does not show the container's own group: %s", at, errs)
				}
				must(t, os.Remove(own))
				if len(g.Controllers) > 0 {
					_, out, errs := c.run(t, ExecOptions{}, "sh", "-c", "mkdir -p /tmp/g && mount -t cgroup -o "+strings.Join(g.Controllers, ",")+" x /tmp/g && ls /tmp/g && umount /tmp/g")
					if !strings.Contains(out, "cgroup.procs") || strings.Contains(out, "machine") {
						t.Errorf("mounted anew: %q %q", out, errs)
					}
				}
			}
		})
	}
}

// Where libvirt makes no group for systemd in a container, the container has one of its
// own, which neither its start nor its end shares with another's.
func TestOwnGroup(t *testing.T) {
	h := open(t)
	first := config(t, "")
	if own := first.groups(t); own == "" {
		must(t, cgroup.Remove(limited(t), first.UUID))
		dirs, err := cgroup.Dirs(map[string]string{"name=systemd": "/"})
		must(t, err)
		if _, err := os.Stat("/run/systemd/system"); err != nil && len(dirs) > 0 {
			t.Error("it is given none")
		}
		return // libvirt makes one for each
	}
	running := []*container{start(t, h, first)}
	makes := func(c *container, group string) {
		t.Helper()
		if code, _, errs := c.run(t, ExecOptions{}, "mkdir", "-p", "/sys/fs/cgroup/systemd/"+group); code != 0 {
			t.Errorf("no group can be made: %s", errs)
		}
	}
	makes(running[0], "a/b")
	// libvirt gives the next container what is right below its own group.
	running = append(running, start(t, h, boxOf(t, makeRoot(t, testIDs+65536, ""), &IDMap{HostID: testIDs + 65536, Count: 65536})))
	group := func(c *container) string {
		t.Helper()
		paths, err := cgroup.Of(c.InitPID)
		must(t, err)
		dirs, err := cgroup.Dirs(map[string]string{"name=systemd": paths["name=systemd"]})
		must(t, err)
		if len(dirs) != 1 || !strings.HasSuffix(dirs[0].Dir, c.UUID) {
			t.Fatalf("it is in %v of %v", dirs, paths)
		}
		return dirs[0].Dir
	}
	groups := []string{group(running[0]), group(running[1])}
	for _, c := range running {
		makes(c, "later")
		for _, file := range []string{"cgroup.procs", "tasks"} {
			if code, _, errs := c.run(t, ExecOptions{}, "sh", "-c", "echo $$ >/sys/fs/cgroup/systemd/"+file); code != 0 {
				t.Errorf("nothing can be moved there by its %s: %s", file, errs)
			}
		}
	}
	for i, c := range running {
		must(t, h.Destroy(limited(t), c.UUID))
		must(t, cgroup.Remove(limited(t), c.UUID))
		for j, dir := range groups {
			if _, err := os.Stat(dir); (err == nil) != (j > i) {
				t.Errorf("the group of container %d after the end of %d: %v", j, i, err)
			}
		}
	}
}

// cgroupV2 is where the hierarchy of cgroup v2 is mounted: by the host, or for this test.
func cgroupV2(t *testing.T) string {
	t.Helper()
	dirs, err := cgroup.Dirs(map[string]string{"": "/"})
	must(t, err)
	if len(dirs) > 0 {
		return dirs[0].Dir
	}
	dir := t.TempDir()
	must(t, unix.Mount("none", dir, "cgroup2", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// byHand runs lxcboot-init without libvirt, in a group of cgroup v2 and with that mounted
// as libvirt does it where there is no other, on the root of this host.
func byHand(t *testing.T, l Launch, group, mounted string) (string, error) {
	t.Helper()
	launch := t.TempDir()
	must(t, l.Mount(launch))
	defer func() { must(t, UnmountLaunch(launch)) }()
	must(t, ReleaseInit(limited(t), launch))
	out, err := exec.CommandContext(within(t, 30*time.Second), "sh", "-ec", `echo $$ >"$1/cgroup.procs"
exec unshare --mount --pid --fork --uts sh -ec '
mount --bind "$2" "$3"
umount -l /sys/fs/cgroup
mount --move "$3" /sys/fs/cgroup
mount -t tmpfs none /dev
mkdir /dev/.lxcboot
mount --bind "$1" /dev/.lxcboot
mount -t proc none /proc
exec /dev/.lxcboot/lxcboot-init' sh "$2" "$3" "$4"`, "sh", group, launch, mounted, t.TempDir()).CombinedOutput()
	return string(out), err
}

// With cgroup v2 libvirt mounts the host's tree as a whole: here by hand, as no host has
// both. The init sees its own group alone.
func TestControlGroupsV2(t *testing.T) {
	mounted := cgroupV2(t)
	own := filepath.Join(mounted, fmt.Sprint("lxcboot-ut-", os.Getpid()))
	must(t, os.MkdirAll(filepath.Join(own, "in", "below"), 0o755))
	t.Cleanup(func() {
		for _, dir := range []string{"in/below", "in", ""} {
			must(t, cgroup.RemoveTree(context.Background(), filepath.Join(own, dir)))
		}
	})
	out, err := byHand(t, Launch{
		Program: initProgram, Init: "/bin/sh", Privileged: true,
		Args: []string{"-c", "cat /proc/self/cgroup; echo :; ls -R /sys/fs/cgroup; echo :; grep ' - cgroup' /proc/self/mountinfo"},
	}, own+"/in", mounted)
	parts := strings.Split(out, "\n:\n")
	if err != nil || len(parts) != 3 {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.HasSuffix(parts[0], "0::/") || strings.Contains(parts[1], filepath.Base(own)) || !strings.Contains(parts[1], "/below:") || strings.Count(parts[2], "\n") != 1 {
		t.Errorf("%s", out)
	}
}
