//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// saving is a point at which a command holds an instance's lock, and has changed nothing.
const saving = "durable/record.json/before-rename"

// TestFinishedIsNotInterrupted has show, list and wait read a record while an operation is
// under way, and look whether somebody is at it when that has ended well.
func TestFinishedIsNotInterrupted(t *testing.T) {
	t.Parallel()
	count := newTally(t, "looks beside an operation that ends")
	w := newWorld(t, "looks", count)
	attach := []string{"volume", "attach", "NAME", "data"}
	for _, c := range []struct {
		name, point  string
		before       [][]string
		change, look []string
	}{
		{"show", "attach begun", [][]string{smallArgs, {"stop", "--force", "NAME"}}, attach, []string{"show", "NAME"}},
		{"list", "attach begun", [][]string{smallArgs, {"stop", "--force", "NAME"}}, attach, []string{"list", "--all", "--long"}},
		{"wait", "record created", nil, smallArgs, []string{"wait", "NAME", "--for", "ACTIVE", "--timeout", "60s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			count.fault()
			for _, args := range c.before {
				w.must(args...)
			}
			change := w.stopAt(c.point, c.change...)
			look := w.stopAt("record read", c.look...)
			if code, out := change.goOn(); code != 0 {
				t.Errorf("%v: exit code %d\n%s", c.change, code, out)
			}
			if code, out := look.goOn(); code != 0 || strings.Contains(out, "interrupted") {
				t.Errorf("%v: exit code %d\n%s", c.look, code, out)
			}
			w.must("delete", "NAME")
			w.asBefore()
		})
	}
}

// TestEndIsFollowed ends a container while a command that is no matter of its end holds
// the instance, and while nobody keeps its console any more: that command sees to it.
func TestEndIsFollowed(t *testing.T) {
	t.Parallel()
	count := newTally(t, "ends of containers beside a command")
	w := newWorld(t, "ends", count)
	for _, c := range []struct {
		name, point string
		before      [][]string
		args        []string
		codes       []int // what libvirt does to a container that has ended may fail
	}{
		{"set", saving, [][]string{{"volume", "attach", "NAME", "data"}}, []string{"set", "NAME", "--property", "a=b"}, []int{0}},
		{"attach", "disk attached", nil, []string{"volume", "attach", "NAME", "data"}, []int{0}},
		{"attach begun", "attach begun", nil, []string{"volume", "attach", "NAME", "data"}, []int{0, 1, 4}},
		{"detach", "disk detached", [][]string{{"volume", "attach", "NAME", "data"}}, []string{"volume", "detach", "NAME", "data"}, []int{0}},
		{"detach begun", "detach begun", [][]string{{"volume", "attach", "NAME", "data"}}, []string{"volume", "detach", "NAME", "data"}, []int{0, 1, 4}},
	} {
		for _, keeper := range share([]string{"kept", "alone"}, 1) {
			t.Run(c.name+"/"+keeper, func(t *testing.T) {
				w.t = t
				count.fault()
				w.must(smallArgs...)
				for _, args := range c.before {
					w.must(args...)
				}
				s := w.stopAt(c.point, c.args...)
				if keeper == "alone" {
					w.killKeeper()
				}
				if out, err := exec.Command("virsh", "-q", "-c", "lxc:///", "destroy", w.name).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				code, out := s.goOn()
				w.failed(code, out, c.codes...)
				w.releases()
				if out := w.must("show", "NAME", "-f", "value", "-c", "status", "-c", "note"); strings.TrimSpace(out) != "SHUTOFF" {
					t.Errorf("afterwards it is: %s", out)
				}
				w.must("autostart")
				if out := w.must("show", "NAME", "-f", "value", "-c", "status"); strings.TrimSpace(out) != "SHUTOFF" {
					t.Errorf("what ended by itself was started again: %s", out)
				}
				w.must("start", "NAME")
				w.must("delete", "NAME")
				w.asBefore()
			})
		}
	}
}

// releases waits until the host holds nothing for a container that has ended, but for its
// definition.
func (w *world) releases() {
	w.t.Helper()
	var left []string
	until := time.Now().Add(20 * time.Second)
	for {
		all, err := w.left(0)
		if err != nil {
			w.t.Fatal(err)
		}
		left = left[:0]
		for _, line := range all {
			if !strings.HasPrefix(line, "+ domain ") && !strings.HasPrefix(line, "+ file /etc/libvirt/lxc/") {
				left = append(left, line)
			}
		}
		if entries, _ := filepath.Glob(filepath.Join(w.runDir, "*")); len(entries) > 0 {
			left = append(left, entries...)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(until) {
			w.t.Errorf("after the container's end the host holds:\n%s", strings.Join(left, "\n"))
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// killKeeper kills the process that keeps the console of the world's container.
func (w *world) killKeeper() {
	w.t.Helper()
	if err := exec.Command("pkill", "-KILL", "-f", w.state+".* ended ").Run(); err != nil {
		w.t.Fatal("nobody keeps the console")
	}
}

// TestHookWaits has libvirt start a container while a command holds its instance: it is
// started when that lets go in time, refused else, and never without its root.
func TestHookWaits(t *testing.T) {
	t.Parallel()
	count := newTally(t, "starts by libvirt beside a command")
	w, libvirtd := newPrivateWorld(t, "hook", count)
	libvirtd("stop")
	setup := exec.Command("private-libvirtd", "run", filepath.Join(w.work, "lv"), "lxcboot", "setup")
	setup.Env = w.env()
	if out, err := setup.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	libvirtd("start")
	w.must(smallArgs...)
	w.must("stop", "--force", "NAME")
	virsh := func() (string, time.Duration, error) {
		began := time.Now()
		out, err := exec.Command("virsh", "-q", "-c", w.connect, "start", w.name).CombinedOutput()
		return string(out), time.Since(began), err
	}
	for _, c := range []struct {
		name, point string
		args        []string
		words       string
		atLeast     time.Duration
		asks        bool
	}{
		{"set", saving, []string{"set", "NAME", "--property", "a=b"}, "busy: another process works on it", 5 * time.Second, false},
		{"attach", "attach begun", []string{"volume", "attach", "NAME", "data"}, "busy: volume attach is under way", 5 * time.Second, true},
		// A command that has libvirt start it is not waited for: has it readied all?
		{"start", "start begun", []string{"start", "NAME"}, "nothing is mounted at ", 0, false},
		{"rooted", "filesystem mounted", []string{"start", "NAME"}, "dev/vdb does not lead to ", 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			count.fault()
			s := w.stopAt(c.point, c.args...)
			out, took, err := virsh()
			if err == nil || !strings.Contains(out, c.words) || took < c.atLeast || took > 60*time.Second {
				t.Errorf("beside a command that stands still, virsh start ends after %v: %v\n%s", took, err, out)
			}
			if out := w.must("show", "NAME", "-f", "value", "-c", "init_pid"); strings.TrimSpace(out) != "0" {
				t.Errorf("a container runs: %s", out)
			}
			if c.atLeast == 0 {
				code, out := s.goOn()
				if more, _ := w.run("exec", "NAME", "--", "test", "-x", "/bin/busybox"); code != 0 || more != 0 {
					t.Errorf("%v: exit code %d\n%s", c.args, code, out)
				}
				w.must("stop", "--force", "NAME")
				return
			}
			// One that lets go is waited for, unless it has to ask libvirt itself, which
			// waits for the hook.
			done := make(chan error, 1)
			go func() {
				out, _, err := virsh()
				if err != nil {
					err = fmt.Errorf("%w\n%s", err, out)
				}
				done <- err
			}()
			w.waits("hook")
			if code, out := s.goOn(); code != 0 {
				t.Errorf("%v: exit code %d\n%s", c.args, code, out)
			}
			switch err := <-done; {
			case err == nil:
				if code, out := w.run("exec", "NAME", "--", "test", "-x", "/bin/busybox"); code != 0 {
					t.Errorf("it runs without its root: exit code %d\n%s", code, out)
				}
			case !c.asks || !strings.Contains(err.Error(), c.words):
				t.Errorf("virsh start beside a command that ends: %v", err)
			default:
				w.must("start", "NAME")
			}
			w.must("stop", "--force", "NAME")
		})
	}
	w.t = t
	w.must("delete", "NAME")
	w.noDomains()
	libvirtd("stop")
	w.connect = ""
	w.host()
}

// waits waits until a process of the world's runs that has a word in its command line.
func (w *world) waits(word string) {
	w.t.Helper()
	until := time.Now().Add(20 * time.Second)
	for exec.Command("pgrep", "-f", w.state+".* "+word+" ").Run() != nil {
		if time.Now().After(until) {
			w.t.Fatalf("there is no %s", word)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestWaitsEnd has each command wait for what another holds that stands still: it ends
// when --timeout says so, and says for whom it waited.
func TestWaitsEnd(t *testing.T) {
	t.Parallel()
	count := newTally(t, "waits for a command that stands still")
	w := newWorld(t, "waits", count)
	w.must("volume", "create", "--image", "busybox", "--size", "1", "root")
	fromVolume := func(verb string) []string {
		return []string{verb, "--flavor", "m1.tiny", "--nic", "none", "--boot-volume", "root", "NAME-b"}
	}
	small := append([]string{"run"}, smallArgs[1:len(smallArgs)-1]...)
	small = append(small, "NAME-b")
	type try struct {
		args []string
		code int
	}
	for _, c := range []struct {
		name, point string
		before      [][]string
		args        []string
		tries       []try
	}{
		{"instance", saving, [][]string{smallArgs}, []string{"set", "NAME", "--property", "a=b"}, []try{
			{[]string{"start", "NAME"}, 4}, {[]string{"stop", "NAME"}, 4}, {[]string{"reboot", "NAME"}, 4}, {[]string{"delete", "NAME"}, 4},
			{[]string{"volume", "attach", "NAME", "data"}, 4}, {[]string{"rename", "NAME", "NAME-c"}, 4}, {[]string{"unset", "NAME", "--property", "a"}, 4},
			{[]string{"autostart"}, 0}, {[]string{"repair"}, 0},
		}},
		{"names", "record/create/after-mkdir", nil, smallArgs, []try{
			{small, 125}, {append([]string{"boot"}, small[1:]...), 4}, {[]string{"repair"}, 4},
		}},
		{"volume", "local/extend-volume/after-data", nil, []string{"volume", "extend", "root", "--size", "2"}, []try{
			{fromVolume("boot"), 4}, {fromVolume("run"), 125}, {[]string{"volume", "delete", "root"}, 4},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			for _, args := range c.before {
				w.must(args...)
			}
			s := w.stopAt(c.point, c.args...)
			for _, try := range c.tries {
				count.fault()
				began := time.Now()
				code, out := w.run(append([]string{"--timeout", "1s"}, try.args...)...)
				if took := time.Since(began); code != try.code || took > time.Minute {
					t.Errorf("%v: exit code %d after %v\n%s", try.args, code, took, out)
				}
				w.failed(code, out, try.code)
			}
			if code, out := s.goOn(); code != 0 {
				t.Errorf("%v: exit code %d\n%s", c.args, code, out)
			}
			w.run("delete", "NAME")
		})
	}
	w.t = t
	w.must("volume", "delete", "root")
	w.asBefore()
	if code, out := w.run("show", "NAME-b"); code != 3 {
		t.Errorf("something is left of NAME-b: %s", out)
	}
}
