//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hangLimit is how long a command may take in a world that has changed under it.
const hangLimit = 5 * time.Minute

// A stopped command has stopped itself at a point.
type stopped struct {
	w    *world
	args []string
	at   string
	cmd  *exec.Cmd
	out  *bytes.Buffer
	done chan error
}

// stopAt runs lxcboot to a point where it stops itself.
func (w *world) stopAt(point string, args ...string) *stopped {
	w.t.Helper()
	s := &stopped{w: w, args: args, at: point, out: &bytes.Buffer{}, done: make(chan error, 1)}
	s.cmd = exec.Command("lxcboot-faults", w.words(args)...)
	s.cmd.Env = append(w.env(), "LXCBOOT_FAULT="+point+"=stop")
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := s.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	limit := time.After(hangLimit)
	for state := ""; state != "T"; {
		select {
		case err := <-s.done:
			w.t.Fatalf("%s does not stop at %s: %v\n%s", args[0], point, err, s.out)
		case <-limit:
			s.cmd.Process.Kill()
			w.t.Fatalf("%s does not come to %s", args[0], point)
		case <-time.After(5 * time.Millisecond):
			state = statOf(s.cmd.Process.Pid)
		}
	}
	return s
}

// goOn lets it go on to its end, and gives the exit code and what was printed.
func (s *stopped) goOn() (int, string) {
	s.w.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		s.w.t.Fatal(err)
	}
	select {
	case err := <-s.done:
		code, err := exitCode(err)
		if err != nil {
			s.w.t.Fatal(err)
		}
		return code, s.out.String()
	case <-time.After(hangLimit):
		s.cmd.Process.Kill()
		<-s.done
		s.w.t.Errorf("%s hangs after %s: it has not ended after %v\n%s", s.args[0], s.at, hangLimit, s.out)
		return -1, ""
	}
}

// halt runs lxcboot to a point where it stops itself, changes the world, and lets it
// go on. It gives the exit code and what was printed.
func (w *world) halt(point string, change func(), args ...string) (int, string) {
	w.t.Helper()
	s := w.stopAt(point, args...)
	change()
	return s.goOn()
}

// statOf is the letter of a process's state.
func statOf(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(data), ") ")
	return after[:min(1, len(after))]
}

// failed checks how a command says that it failed: with one of the exit codes, and
// one line for the error.
func (w *world) failed(code int, out string, codes ...int) {
	w.t.Helper()
	if !slices.Contains(codes, code) {
		w.t.Errorf("exit code %d\n%s", code, out)
	}
	if n := len(regexp.MustCompile(`(?m)^lxcboot: `).FindAllString(out, -1)); code != 0 && n != 1 {
		w.t.Errorf("%d lines of errors:\n%s", n, out)
	}
}

// gone says whether there is no instance any more.
func (w *world) gone() bool {
	code, _ := w.run("show", "NAME")
	return code == 3
}

// dataOf is the file that holds a volume.
func (w *world) dataOf(name string) string {
	w.t.Helper()
	id := strings.TrimSpace(w.must("volume", "show", name, "-f", "value", "-c", "id"))
	return filepath.Join(w.state, "volumes", id, "data")
}

// cutOff takes all but the first bytes of a file away: who reads the device above
// gets EIO for the rest.
func (w *world) cutOff(path string, size int64) {
	w.t.Helper()
	if err := os.Truncate(path, size); err != nil {
		w.t.Fatal(err)
	}
}

// needsFailing skips a test where a loop device does not fail: that of Linux 6.1 has zeros
// where its file ends.
func needsFailing(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dev, err := exec.Command("losetup", "--find", "--show", "--read-only", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	path := strings.TrimSpace(string(dev))
	err = os.Truncate(file, 4096)
	read := exec.Command("dd", "if="+path, "of=/dev/null", "bs=4k", "skip=16", "count=1").Run()
	if out, e := exec.Command("losetup", "--detach", path).CombinedOutput(); err != nil || e != nil {
		t.Fatalf("%v, %v\n%s", err, e, out)
	}
	if read == nil {
		t.Skip("a loop device of this kernel reads zeros where its file ends, and does not fail")
	}
}

// TestUnreadable takes a volume's content away from below its loop device: while it is
// booted from, while its container runs, and while it is imported.
func TestUnreadable(t *testing.T) {
	needsFailing(t)
	t.Parallel()
	count := newTally(t, "disks that fail")
	op := operations[0]
	t.Run("boot", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "eio-boot", count)
		points := w.points(op)
		points = points[slices.Index(points, "volume reserved#1"):]
		for _, point := range share(points, 6) {
			t.Run(point, func(t *testing.T) {
				w.t = t
				count.fault()
				code, out := w.halt(point, func() { w.cutOff(w.dataOf(w.name+"-image"), 64<<10) }, op.args...)
				w.failed(code, out, 0, 1, 7)
				if code == 1 && !w.gone() {
					t.Errorf("it says that all is undone, and the instance is there:\n%s", out)
				}
				w.tidy(op)
				w.asBefore()
			})
		}
	})
	t.Run("running", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "eio-running", count)
		for _, end := range [][]string{{"delete", "NAME"}, {"stop", "NAME"}, {"reboot", "NAME"}} {
			t.Run(end[0], func(t *testing.T) {
				w.t = t
				count.fault()
				w.must(op.args...)
				w.cutOff(w.dataOf(w.name+"-image"), 64<<10)
				w.cutOff(w.dataOf("data"), 0)
				code, out := w.run("exec", "NAME", "--", "dd", "if=/dev/vdb", "of=/dev/null", "bs=1M", "count=1")
				if code == 0 {
					t.Errorf("the container reads what is not there:\n%s", out)
				}
				code, out = w.run(end...)
				w.failed(code, out, 0, 1, 4, 7)
				if end[0] == "delete" && code != 0 {
					t.Errorf("delete: exit code %d\n%s", code, out)
				}
				w.tidy(op)
				// The volume that the user brought is there, and as broken as it was.
				w.cutOff(w.dataOf("data"), 1<<30)
				w.asBefore()
			})
		}
	})
	t.Run("import", func(t *testing.T) {
		t.Parallel()
		w := newStoreWorld(t, "eio-import", count)
		file := filepath.Join(w.work, "failing")
		if out, err := exec.Command("cp", w.words([]string{"IMAGE"})[0], file).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		dev, err := exec.Command("losetup", "--find", "--show", "--read-only", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimSpace(string(dev))
		w.cutOff(file, 1<<20)
		count.fault()
		code, out := w.run("image", "import", path, "--name", "imported")
		w.failed(code, out, 1)
		if !strings.Contains(out, "input/output error") {
			t.Errorf("it does not say why:\n%s", out)
		}
		if out, err := exec.Command("losetup", "--detach", path).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		w.asBefore()
		w.host()
	})
}

// newPrivateWorld is a world with a libvirtd of its own.
func newPrivateWorld(t *testing.T, name string, count *tally) (w *world, libvirtd func(action string)) {
	w = newWorldWith(t, name, count, func(w *world) {
		dir := filepath.Join(w.work, "lv")
		libvirtd = func(action string) {
			w.t.Helper()
			if out, err := exec.Command("private-libvirtd", action, dir).CombinedOutput(); err != nil {
				w.t.Fatalf("private-libvirtd %s: %v\n%s", action, err, out)
			}
		}
		w.connect = "lxc:///?socket=" + dir + "/sock/libvirt-sock"
		w.undo = append(w.undo, func() { exec.Command("private-libvirtd", "stop", dir).Run() })
		w.again = func() { libvirtd("start") }
		w.again()
		w.must(smallArgs...)
		w.must("delete", "NAME")
	})
	return w, libvirtd
}

// noDomains checks that the world's own libvirtd knows no container.
func (w *world) noDomains() {
	w.t.Helper()
	out, err := exec.Command("virsh", "-q", "-c", w.connect, "list", "--all", "--name").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "" {
		w.t.Errorf("libvirt still knows: %v %s", err, out)
	}
}

// TestLibvirtdAnywhere stops libvirtd, restarts it, and in a long run freezes it, at
// the points of boot, delete, stop and start. The command ends, with success or with a
// code that says what to do, and once libvirtd is back delete cleans up.
func TestLibvirtdAnywhere(t *testing.T) {
	t.Parallel()
	count := newTally(t, "ends, restarts and standstills of libvirtd")
	quick := map[string]int{"boot": 4, "delete": 2, "stop": 2, "start": 3}
	ways := []string{"stop", "restart"}
	if torture > 0 {
		ways = append(ways, "freeze") // each takes minutes, until libvirtd is given up
	}
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			w, libvirtd := newPrivateWorld(t, "lv-"+way, count)
			for _, op := range operations[:4] {
				points := w.points(op)
				// Before that, libvirt is not spoken to again.
				if i := slices.Index(points, "begin start the container#1"); torture == 0 && i >= 0 {
					points = points[i:]
				}
				points = share(points, quick[op.name])
				if way == "freeze" {
					points = points[len(points)/2 : len(points)/2+1]
				}
				for _, point := range points {
					t.Run(op.name+"/"+point, func(t *testing.T) {
						w.t = t
						count.fault()
						w.setUp(op)
						code, out := w.halt(point, func() {
							switch way {
							case "freeze":
								w.signalLibvirtd(syscall.SIGSTOP)
							case "restart":
								libvirtd("stop")
								libvirtd("start")
							case "stop":
								libvirtd("stop")
							}
						}, op.args...)
						w.failed(code, out, 0, 1, 5, 7)
						if code == 7 && !strings.Contains(out, "lxcboot delete") {
							t.Errorf("it does not say what to do:\n%s", out)
						}
						switch way {
						case "freeze":
							w.signalLibvirtd(syscall.SIGCONT)
						case "stop":
							libvirtd("start")
						}
						if op.name == "boot" && (code == 1 || code == 5) && !w.gone() {
							t.Errorf("exit code %d says that all is undone, and the instance is there:\n%s", code, out)
						}
						w.tidy(op)
						w.noDomains()
						w.asBefore()
					})
				}
			}
			libvirtd("stop")
			w.connect = ""
		})
	}
}

func (w *world) signalLibvirtd(sig syscall.Signal) {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.work, "lv", "pid"))
	if err != nil {
		w.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err == nil {
		err = syscall.Kill(pid, sig)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestHostDown takes from the world all that a host loses when it goes down (its
// processes, mounts, loop devices, and what is below /run) at points of a boot and of
// a start, and while a container runs. Then the state directory is all that there is.
func TestHostDown(t *testing.T) {
	t.Parallel()
	count := newTally(t, "hosts that went down")
	for _, op := range []operation{operations[0], operations[3]} {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			w, libvirtd := newPrivateWorld(t, "down-"+op.name, count)
			for i, point := range share(w.points(op), 5) {
				t.Run(point, func(t *testing.T) {
					w.t = t
					count.fault()
					w.setUp(op)
					w.kill(point, op.args...)
					w.goDown()
					libvirtd("start")
					// The last point is that of a command that has done all it had to.
					if i%2 == 0 || point == "boot recorded#1" {
						w.must("repair")
						if op.name == "boot" && point != "boot recorded#1" && !w.gone() {
							t.Error("repair did not undo the boot")
						}
						w.must("autostart")
						w.works()
					}
					w.tidy(op)
					w.noDomains()
					w.asBefore()
				})
			}
			if op.name == "boot" {
				t.Run("running", func(t *testing.T) {
					w.t = t
					count.fault()
					w.must(op.args...)
					w.must("exec", "NAME", "--", "sh", "-c", "echo kept >/root/kept && sync")
					w.goDown()
					libvirtd("start")
					w.must("repair")
					w.must("autostart")
					if out := w.must("exec", "NAME", "--", "cat", "/root/kept"); !strings.Contains(out, "kept") {
						t.Errorf("after autostart the file holds %q", out)
					}
					w.goDown()
					libvirtd("start")
					w.tidy(op)
					w.noDomains()
					w.asBefore()
				})
			}
			libvirtd("stop")
			w.connect = ""
		})
	}
}

// goDown takes away all that the kernel holds for the world, its libvirtd included.
func (w *world) goDown() {
	w.t.Helper()
	lv := filepath.Join(w.work, "lv")
	w.signalLibvirtd(syscall.SIGKILL)
	// What a killed process had begun ends before the next look.
	until := time.Now().Add(20 * time.Second)
	for {
		for _, pid := range w.processes() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		w.eachLine("/proc/self/mountinfo", func(line string) {
			if at := strings.Fields(line)[4]; strings.HasPrefix(at, w.runDir+"/") {
				syscall.Unmount(at, syscall.MNT_DETACH)
			}
		})
		backings, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, path := range backings {
			if data, _ := os.ReadFile(path); strings.HasPrefix(string(data), w.state+"/") {
				exec.Command("losetup", "--detach", "/dev/"+strings.Split(path, "/")[3]).Run()
			}
		}
		exec.Command("find", "/sys/fs/cgroup/", "-depth", "-type", "d", "-path", "*lxc-*"+w.name+"*", "-exec", "rmdir", "{}", ";").Run()
		for _, dir := range []string{w.runDir, filepath.Join(lv, "run")} {
			if err := os.RemoveAll(dir); err != nil && time.Now().After(until) {
				w.t.Fatal(err)
			}
		}
		left, err := w.left(0)
		if err != nil {
			w.t.Fatal(err)
		}
		if len(left) == 0 {
			w.otherBoot()
			return
		}
		if time.Now().After(until) {
			w.t.Fatalf("the host does not go down:\n%s", strings.Join(left, "\n"))
		}
	}
}

// otherBoot makes the records those of another start of the host than this one.
func (w *world) otherBoot() {
	w.t.Helper()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		w.t.Fatal(err)
	}
	records, _ := filepath.Glob(filepath.Join(w.state, "instances", "*", "record.json"))
	for _, path := range records {
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, bytes.ReplaceAll(data, bytes.TrimSpace(boot), []byte("the-start-before")), 0o600)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// processes are the world's: lxcboot's own, libvirt's controllers, and the inits of
// the containers.
func (w *world) processes() (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		args, _ := os.ReadFile(dir + "/cmdline")
		words := strings.Split(string(args), "\x00")
		if i := slices.Index(words, "--name"); i >= 0 && i+1 < len(words) && strings.HasPrefix(words[i+1], w.name) {
			children, _ := os.ReadFile(fmt.Sprintf("%s/task/%d/children", dir, pid))
			for _, child := range strings.Fields(string(children)) {
				n, _ := strconv.Atoi(child)
				pids = append(pids, n)
			}
			pids = append(pids, pid)
		} else if slices.Contains(words, w.state) && slices.Contains(words, "ended") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (w *world) eachLine(path string, do func(line string)) {
	w.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		do(line)
	}
}
