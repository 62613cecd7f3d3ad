//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
)

// systemdLimit is how long a container with systemd may take on a busy host.
const systemdLimit = 10 * time.Minute

// debians imports Debian 12 and 13 with systemd, of Debian's own packages, which are kept
// from one run to the next.
func (w *world) debians() []string {
	w.t.Helper()
	suites := []string{"bookworm", "trixie"}
	for _, suite := range suites {
		cmd := exec.Command("../stockvm/image", "container")
		cmd.Env = append(os.Environ(), "SUITE="+suite)
		cmd.Stderr = os.Stderr
		dir, err := cmd.Output()
		if err != nil {
			w.t.Fatalf("the image of %s: %v", suite, err)
		}
		w.must("image", "import", filepath.Join(strings.TrimSpace(string(dir)), "root.ext4"), "--name", suite)
	}
	return suites
}

// until waits until a program in an instance succeeds and says one of the words.
func (w *world) until(name, words string, args ...string) {
	w.t.Helper()
	for end := time.Now().Add(systemdLimit); ; time.Sleep(100 * time.Millisecond) {
		code, out := w.run(append([]string{"exec", name, "--"}, args...)...)
		for _, word := range strings.Fields(words) {
			if strings.TrimSpace(out) == word {
				return
			}
		}
		if words == "" && code == 0 {
			return
		}
		if time.Now().After(end) {
			_, failed := w.run("exec", name, "--", "systemctl", "--failed", "--no-legend", "--plain")
			w.t.Fatalf("%s: %v: exit code %d\n%s\n%s", name, args, code, out, failed)
		}
	}
}

// well waits until all of an instance's services are up, and sees that none has failed.
func (w *world) well(name string) {
	w.t.Helper()
	w.until(name, "running degraded", "systemctl", "is-system-running")
	if failed := strings.TrimSpace(w.must("exec", name, "--", "systemctl", "--failed", "--no-legend", "--plain")); failed != "" {
		w.t.Errorf("in %s these have failed:\n%s", name, failed)
	}
}

// apart puts a process into a group of its own in every hierarchy that takes one. undo
// removes the groups, once it has ended.
func apart(t *testing.T, name string, pid int) (undo func()) {
	t.Helper()
	tops, err := cgroup.Tops()
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, top := range tops {
		if top.Has("cpuset") { // takes nobody until it has CPUs
			continue
		}
		dir := filepath.Join(top.Dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
		if err := (cgroup.Group{Controllers: top.Controllers, Dir: dir}).Join(pid); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for _, dir := range dirs {
			if err := cgroup.RemoveTree(context.Background(), dir); err != nil {
				t.Error(err)
			}
		}
	}
}

// allow sets one of the kernel's settings as the file of lxcboot setup does, until the test
// ends.
func allow(t *testing.T, name, file string) {
	t.Helper()
	path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, value, found := strings.Cut(string(text), name+" = ")
	if !found {
		t.Fatalf("%s says nothing of %s: %s", file, name, text)
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, was, 0o644); err != nil {
			t.Error(err)
		}
	})
}

// TestSideBySide has twelve containers with systemd side by side, eight of which boot at
// once, under a libvirtd that is in control groups of its own: every one of them is well,
// and stays well while others start, are started by virsh, reboot from inside and end.
func TestSideBySide(t *testing.T) {
	count := newTally(t, "containers with systemd side by side")
	w, libvirtd := newPrivateWorld(t, "side-by-side", count)
	libvirtd("stop")
	setup := exec.Command("private-libvirtd", "run", filepath.Join(w.work, "lv"), "lxcboot", "setup")
	setup.Env = w.env()
	if out, err := setup.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	allow(t, "fs.inotify.max_user_instances", filepath.Join(w.work, "lv/sysctl/98-lxcboot.conf"))
	libvirtd("start")
	data, err := os.ReadFile(filepath.Join(w.work, "lv", "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	undo := apart(t, unique+"-libvirtd", pid)
	t.Cleanup(func() {
		libvirtd("stop")
		undo()
	})
	suites := w.debians()

	var names []string
	name := func(i int) string { return fmt.Sprintf("%s-%d", w.name, i) }
	do := func(args ...string) { // also beside others
		if code, out := w.run(args...); code != 0 {
			t.Errorf("%v: exit code %d\n%s", args, code, out)
		}
	}
	boot := func(i int) {
		count.fault()
		do("boot", "-q", "--flavor", "m1.tiny", "--image", suites[i%2], "--boot-from-volume", "1", "--delete-on-termination", "--nic", "none", name(i))
	}
	var all sync.WaitGroup
	for i := range 8 {
		names = append(names, name(i))
		all.Go(func() { boot(i) })
	}
	all.Wait()
	for _, n := range names {
		w.well(n)
	}

	// While others start, units of the first start and end.
	started := make(chan struct{})
	var restarts int
	all.Go(func() {
		for {
			for _, unit := range []string{"systemd-journald", "systemd-networkd"} {
				if code, out := w.run("exec", names[0], "--", "sh", "-c", "systemctl reset-failed "+unit+"; systemctl restart "+unit); code != 0 {
					t.Errorf("restart of %s in %s, after %d: exit code %d\n%s", unit, names[0], restarts, code, out)
				}
				restarts++
			}
			select {
			case <-started:
				return
			default:
			}
		}
	})
	for i := 8; i < 12; i++ {
		names = append(names, name(i))
		boot(i)
	}
	for _, n := range names[8:] {
		w.well(n)
	}
	close(started)
	all.Wait()
	t.Logf("%d restarts of units in the first while the others started", restarts)

	// By virsh, and from inside, beside a boot by lxcboot.
	init := func(n string) string {
		_, out := w.run("show", n, "-f", "value", "-c", "init_pid")
		return strings.TrimSpace(out)
	}
	before := init(names[2])
	all.Go(func() {
		do("stop", names[0])
		do("start", names[0])
	})
	all.Go(func() {
		for _, action := range []string{"destroy", "start"} {
			if out, err := exec.Command("virsh", "-q", "-c", w.connect, action, names[1]).CombinedOutput(); err != nil {
				t.Errorf("virsh %s: %v\n%s", action, err, out)
			}
		}
	})
	all.Go(func() {
		w.run("exec", names[2], "--", "systemctl", "reboot")
		for end := time.Now().Add(systemdLimit); ; time.Sleep(100 * time.Millisecond) {
			if now := init(names[2]); now != "0" && now != before {
				return
			}
			if time.Now().After(end) {
				t.Errorf("%s does not come back from its reboot", names[2])
				return
			}
		}
	})
	all.Wait()
	for _, n := range names {
		w.well(n)
		w.until(n, "", "systemctl", "restart", "systemd-journald")
	}

	// What libvirtd itself is in is no container's.
	for _, n := range names[:4] {
		began := time.Now()
		w.must("stop", n)
		if took := time.Since(began); took > 50*time.Second {
			t.Errorf("stop of %s takes %v", n, took)
		}
	}
	for _, n := range names {
		all.Go(func() { do("delete", n) })
	}
	all.Wait()
	for _, suite := range suites {
		w.must("image", "delete", suite)
	}
	w.asBefore()
}
