package console

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

// testLimit is how long a test waits for what must come.
const testLimit = 60 * time.Second

// TestMain lets the test's own program be the process that keeps a console.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "keep" {
		if err := Keep(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(testLimit); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// world is a container as its console's process sees it: a controller, the child of
// which is the init of a pid namespace, and a terminal.
type world struct {
	Options
	dir        string
	controller *exec.Cmd
	master     *os.File // what the container prints is written here
	terminal   *Terminal
	process    proc.Process
}

// newWorld starts a controller whose init runs a script of busybox's shell when the test
// writes to its FIFO "go".
func newWorld(t *testing.T, script string) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	w.Options = Options{
		LogPath: filepath.Join(w.dir, "log"), SocketPath: filepath.Join(w.dir, "sock"),
		Ended: []string{"/bin/sh", "-c", `echo "$0 $*" >` + w.dir + `/ended.new; mv ` + w.dir + `/ended.new ` + w.dir + `/ended`},
	}
	must(t, unix.Mkfifo(filepath.Join(w.dir, "go"), 0o600))
	must(t, unix.Mkfifo(filepath.Join(w.dir, "never"), 0o600))
	// As libvirt's, the controller lives on for a while after the init; the init ends with it.
	w.controller = exec.Command("unshare", "--pid", "busybox", "sh", "-c",
		`/usr/bin/setpriv --pdeathsig KILL busybox sh -c "$1" & wait; read -t 1 line <>"$0/never"`, w.dir, "read line <"+w.dir+"/go; "+script)
	must(t, w.controller.Start())
	t.Cleanup(func() { w.controller.Process.Kill(); w.controller.Wait() })
	master, slave, err := pty.Open()
	must(t, err)
	_, err = term.MakeRaw(int(slave.Fd()))
	must(t, err)
	fd, err := unix.Dup(int(master.Fd()))
	must(t, err)
	must(t, unix.SetNonblock(fd, true))
	w.master = os.NewFile(uintptr(fd), "master")
	pidfd, err := unix.PidfdOpen(w.controller.Process.Pid, 0)
	must(t, err)
	w.terminal = &Terminal{tty.Ends{Host: slave, Master: master}, w.controller.Process.Pid, os.NewFile(uintptr(pidfd), "pidfd"), nil}
	t.Cleanup(w.terminal.Close)
	t.Cleanup(func() { w.master.Close() })
	return w
}

// init waits for the controller's child, until that ends with it: before, it is the
// controller's copy, and then setpriv.
func (w *world) init(t *testing.T) (pid int) {
	t.Helper()
	eventually(t, "the init", func() bool {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", w.controller.Process.Pid))
		n, _ := fmt.Sscan(string(data), &pid)
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return n == 1 && strings.HasPrefix(string(line), "busybox") && !strings.Contains(string(line), "setpriv")
	})
	return pid
}

func (w *world) start(t *testing.T) {
	t.Helper()
	w.Warn = func(err error) { t.Errorf("a warning: %v", err) }
	p, err := Start([]string{os.Args[0], "keep"}, w.terminal, w.Options)
	must(t, err)
	w.process = p
	t.Cleanup(func() {
		if f, err := p.Open(); err == nil {
			unix.PidfdSendSignal(int(f.Fd()), unix.SIGCONT, nil, 0)
			unix.PidfdSendSignal(int(f.Fd()), unix.SIGKILL, nil, 0)
			f.Close()
		}
	})
}

// goOn lets the init run its script.
func (w *world) goOn(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(w.dir, "go"), []byte("\n"), 0))
}

// end ends the container from outside.
func (w *world) end() { w.controller.Process.Kill(); w.controller.Wait() }

// print prints something as the container; it must be taken.
func (w *world) print(t *testing.T, text string) {
	t.Helper()
	w.master.SetWriteDeadline(time.Now().Add(testLimit))
	if n, err := io.WriteString(w.master, text); err != nil {
		t.Fatalf("the container is blocked after %d of %d bytes: %v", n, len(text), err)
	}
}

func (w *world) log(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	must(t, ReadLog(w.LogPath, 0, &b))
	return b.String()
}

// ended waits for what follows the container's end and gives its arguments.
func (w *world) ended(t *testing.T) (args string) {
	t.Helper()
	eventually(t, "what follows the container's end", func() bool {
		data, err := os.ReadFile(filepath.Join(w.dir, "ended"))
		args = strings.TrimSpace(string(data))
		return err == nil
	})
	eventually(t, "the process to end", func() bool { return !w.process.Alive() })
	return args
}

// smallDisk mounts a small filesystem and gives a directory in it.
func smallDisk(t *testing.T, fstype string) string {
	t.Helper()
	dir := t.TempDir()
	if fstype == "tmpfs" {
		must(t, unix.Mount("none", dir, "tmpfs", 0, "size=256k"))
	} else {
		image := filepath.Join(t.TempDir(), "image")
		for _, argv := range [][]string{{"truncate", "-s", "8M", image}, {"mkfs." + fstype, "-q", "-m", "0", image}, {"mount", "-o", "loop", image, dir}} {
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%q: %v: %s", argv, err, out)
			}
		}
	}
	t.Cleanup(func() { eventually(t, "the disk to be idle", func() bool { return unix.Unmount(dir, 0) == nil }) })
	return dir
}

// A log that cannot be written loses bytes, and neither the container nor what follows
// its end; it goes on when there is space again.
func TestFullDisk(t *testing.T) {
	for _, fstype := range []string{"tmpfs", "ext4"} {
		t.Run(fstype, func(t *testing.T) {
			disk := smallDisk(t, fstype)
			w := newWorld(t, "sleep 1000")
			w.LogPath, w.MaxBytes = filepath.Join(disk, "log"), 64<<10
			w.start(t)
			w.print(t, "before\n")
			eventually(t, "the log", func() bool { return strings.Contains(w.log(t), "before") })
			filler := fill(t, disk)
			w.print(t, strings.Repeat("lost\n", 200_000))
			must(t, os.Remove(filler))
			eventually(t, "the log to go on", func() bool {
				w.print(t, "after\n")
				return strings.Contains(w.log(t), "after")
			})
			if !strings.Contains(w.log(t), "bytes were lost here") {
				t.Errorf("the log does not say that it has a gap")
			}
			fill(t, disk)
			w.print(t, strings.Repeat("lost\n", 200_000))
			w.end()
			w.ended(t)
		})
	}
}

// fill leaves no space on a disk.
func fill(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "filler-")
	must(t, err)
	defer f.Close()
	for size := 64 << 10; size > 0; size /= 2 {
		for {
			if _, err := f.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
	return f.Name()
}

// A disk that stands still holds up the container for a moment only.
func TestFrozenDisk(t *testing.T) {
	disk := smallDisk(t, "ext4")
	w := newWorld(t, "sleep 1000")
	w.LogPath = filepath.Join(disk, "log")
	w.start(t)
	w.print(t, "before\n")
	eventually(t, "the log", func() bool { return strings.Contains(w.log(t), "before") })
	dir, err := os.Open(disk)
	must(t, err)
	defer dir.Close()
	const freeze, thaw = 0xc0045877, 0xc0045878 // FIFREEZE, FITHAW
	must(t, unix.IoctlSetInt(int(dir.Fd()), freeze, 0))
	thawed := false
	defer func() {
		if !thawed {
			unix.IoctlSetInt(int(dir.Fd()), thaw, 0)
		}
	}()
	w.print(t, strings.Repeat("x", 3<<20))
	must(t, unix.IoctlSetInt(int(dir.Fd()), thaw, 0))
	thawed = true
	eventually(t, "the log to go on", func() bool {
		w.print(t, "after\n")
		return strings.Contains(w.log(t), "after")
	})
}

// listener fails before each client that it gives.
type listener struct {
	net.Listener
	fail error
}

func (l *listener) Accept() (net.Conn, error) {
	if err := l.fail; err != nil {
		l.fail = nil
		return nil, err
	}
	return l.Listener.Accept()
}

// A process that has no descriptor left for a client serves it later.
func TestNoDescriptorLeft(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ECONNABORTED} {
		path := filepath.Join(t.TempDir(), "sock")
		l, err := listen(path)
		must(t, err)
		h := &hub{clients: map[*client]bool{}}
		done := make(chan struct{})
		go func() {
			h.accept(&listener{l, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", errno)}})
			close(done)
		}()
		conn, err := dialUnix(t.Context(), path)
		must(t, err)
		defer conn.Close()
		eventually(t, "a client to be served after "+errno.Error(), func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.clients) == 1
		})
		l.Close()
		select {
		case <-done:
		case <-time.After(testLimit):
			t.Fatal("a closed listener is accepted from for ever")
		}
		h.end()
	}
}

// SIGTERM does not keep what follows the container's end from being done, and ends the
// process while the container runs.
func TestSignalAtTheEnd(t *testing.T) {
	w := newWorld(t, "sleep 1000")
	w.start(t)
	w.print(t, "up\n")
	eventually(t, "the process to serve", func() bool { return strings.Contains(w.log(t), "up") })
	must(t, unix.Kill(w.process.PID, unix.SIGSTOP))
	w.end()
	must(t, unix.Kill(w.process.PID, unix.SIGTERM))
	must(t, unix.Kill(w.process.PID, unix.SIGCONT))
	w.ended(t)

	w = newWorld(t, "sleep 1000")
	w.start(t)
	must(t, Stop(t.Context(), w.process))
	if _, err := os.Stat(filepath.Join(w.dir, "ended")); err == nil {
		t.Error("what follows the container's end was done while it runs")
	}
}

// What follows the container's end is done by the new program when that is just being put
// in the old one's place. A signal meanwhile does not change that.
func TestProgramIsReplaced(t *testing.T) {
	w := newWorld(t, "sleep 1000")
	program := filepath.Join(w.dir, "program")
	w.Ended[0] = program
	w.start(t)
	w.end()
	eventually(t, "the socket to go, with the container's end", func() bool { _, err := os.Lstat(w.SocketPath); return err != nil })
	must(t, unix.Kill(w.process.PID, unix.SIGTERM))
	time.Sleep(100 * time.Millisecond) // not to be waited for: it is looked for in vain meanwhile
	must(t, unix.Kill(w.process.PID, unix.SIGTERM))
	must(t, os.Symlink("/bin/sh", program))
	w.ended(t)
}

// A client that takes nothing does not hold up what follows the container's end.
func TestSlowClientAtTheEnd(t *testing.T) {
	w := newWorld(t, "sleep 1000")
	w.start(t)
	conn, err := dialUnix(t.Context(), w.SocketPath)
	must(t, err)
	defer conn.Close()
	eventually(t, "the client to be served", func() bool {
		w.print(t, "up\n")
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, _ := conn.Read(make([]byte, 1))
		return n > 0
	})
	done := make(chan struct{})
	defer close(done)
	go func() { // slow, and no single write takes long
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
				conn.SetReadDeadline(time.Now().Add(time.Second))
				conn.Read(make([]byte, 6000))
			}
		}
	}()
	w.print(t, strings.Repeat("x", 3<<20)) // 50 seconds' worth for it, and not enough to be let go
	w.end()
	since := time.Now()
	w.ended(t)
	if took := time.Since(since); took > 25*time.Second {
		t.Errorf("it was held up for %v", took)
	}
}

// The claim is held from Start to the end of what follows the container's, and another's
// is waited for beside the work.
func TestClaim(t *testing.T) {
	w := newWorld(t, "sleep 1000")
	w.Claim = filepath.Join(w.dir, "claim")
	w.Ended = []string{"/bin/sh", "-c", "echo up >" + w.dir + "/ended; read line <" + w.dir + "/release"}
	must(t, unix.Mkfifo(filepath.Join(w.dir, "release"), 0o600))
	free := func() bool {
		f, err := os.OpenFile(w.Claim, os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	}
	f, err := os.OpenFile(w.Claim, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	w.start(t)
	w.print(t, "up\n")
	eventually(t, "the console to be kept without the claim", func() bool { return strings.Contains(w.log(t), "up") })
	must(t, f.Close())
	eventually(t, "the claim to be taken", func() bool { return !free() })
	w.end()
	eventually(t, "what follows", func() bool { _, err := os.Stat(filepath.Join(w.dir, "ended")); return err == nil })
	if free() {
		t.Error("the claim is free while what follows the end still runs")
	}
	must(t, os.WriteFile(filepath.Join(w.dir, "release"), []byte("\n"), 0))
	eventually(t, "the claim to be let go", free)

	// It is held when Start returns, also where the process has not come up yet.
	w = newWorld(t, "sleep 1000")
	w.Claim = filepath.Join(w.dir, "claim")
	p, err := Start([]string{"/bin/sh", "-c", "read line <" + w.dir + "/never"}, w.terminal, w.Options)
	must(t, err)
	defer unix.Kill(p.PID, unix.SIGKILL)
	if free() {
		t.Error("the claim is free when Start has returned")
	}
	must(t, Stop(t.Context(), p))
	if !free() {
		t.Error("the claim is held by nobody, and not free")
	}
}

// How the init ended is handed on, by either way of the kernel's.
func TestExitStatus(t *testing.T) {
	for _, way := range []string{"unreaped", "pidfd", "connector"} {
		for _, tt := range []struct {
			name, script string
			want         int
		}{
			{"returned", "exit 0", 0},
			{"failed", "exit 7", 7 << 8},
			{"killed", "", int(unix.SIGKILL)},
			{"powered off by itself", "exec busybox poweroff -f", 0},
			{"powered off by another", "busybox poweroff -f & while :; do busybox sleep 1; done", 0},
		} {
			t.Run(way+"/"+tt.name, func(t *testing.T) {
				oldKernel, reaped = way == "connector", way != "unreaped"
				defer func() { oldKernel, reaped = false, false }()
				w := newWorld(t, tt.script)
				must(t, w.terminal.HoldInit(w.init(t)))
				if asked := w.terminal.init.events != nil; asked != (oldKernel || !release(6, 15)) {
					t.Errorf("the proc connector is asked: %v", asked)
				}
				w.start(t)
				if tt.script == "" { // as libvirt does it: the controller first
					w.end()
				} else {
					w.goOn(t)
				}
				w.controller.Wait()
				args := w.ended(t)
				if want := fmt.Sprintf("--status %d", tt.want); args != want {
					t.Errorf("%q is handed on instead of %q", args, want)
				}
			})
		}
	}
}

// Which of two processes ended first is known also to one who looks when both are over.
func TestEndsFirst(t *testing.T) {
	for _, initFirst := range []bool{true, false} {
		var files [2]*os.File
		var cmds [2]*exec.Cmd
		for i := range cmds {
			cmds[i] = exec.Command("sleep", "1000")
			must(t, cmds[i].Start())
			fd, err := unix.PidfdOpen(cmds[i].Process.Pid, 0)
			must(t, err)
			files[i] = os.NewFile(uintptr(fd), "pidfd")
			defer files[i].Close()
		}
		ends, err := watchEnds(int(files[0].Fd()), int(files[1].Fd()))
		must(t, err)
		defer ends.Close()
		if !initFirst {
			slices.Reverse(cmds[:])
		}
		for _, cmd := range cmds {
			must(t, cmd.Process.Kill())
			_ = cmd.Wait()
		}
		if got := endsFirst(ends); got != initFirst {
			t.Errorf("the init ended first: %v, and it is said: %v", initFirst, got)
		}
	}
}

// A process that is not the controller's child is not taken for the init, and what is not
// known is not said.
func TestNotTheInit(t *testing.T) {
	other := exec.Command("sleep", "1000")
	must(t, other.Start())
	for _, pid := range []int{0, other.Process.Pid, 1<<22 + 1} {
		w := newWorld(t, "sleep 1000")
		must(t, w.terminal.HoldInit(pid))
		w.start(t)
		if pid == other.Process.Pid {
			other.Process.Kill()
			other.Wait()
		}
		w.end()
		if args := w.ended(t); strings.Contains(args, "--status") {
			t.Errorf("of the init %d: %q", pid, args)
		}
	}
}

// The socket of the proc connector hears of one process alone.
func TestExitEventsOfOne(t *testing.T) {
	f, err := exitEvents(1 << 30)
	must(t, err)
	defer f.Close()
	for range 20 {
		must(t, exec.Command("true").Run())
	}
	if pollFor(f, unix.POLLIN, 0) {
		t.Error("it is woken by others")
	}
	cmd := exec.Command("sleep", "1000")
	must(t, cmd.Start())
	g, err := exitEvents(uint32(cmd.Process.Pid))
	must(t, err)
	defer g.Close()
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	cmd.Wait()
	if s, known := eventStatus(g); !known || s != int(unix.SIGTERM) {
		t.Errorf("%d, %t", s, known)
	}
}

// The kernel's log tells whom it killed for want of memory.
func TestOOMWatch(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	must(t, err)
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	says := func(pid int) { // in the kernel's words
		t.Helper()
		must(t, os.WriteFile("/dev/kmsg", fmt.Appendf(nil, "Memory cgroup out of memory: Killed process %d (sleep) total-vm:5kB\n", pid), 0))
	}
	says(cmd.Process.Pid) // before: of an older process of the number
	w := watchOOM(pidfd)
	defer closeFile(w.log)
	says(cmd.Process.Pid * 10)
	if !w.spared() {
		t.Error("another's end is taken for its end")
	}
	says(cmd.Process.Pid)
	if w.spared() {
		t.Error("its end is not seen")
	}
}

// Neither a descriptor nor a control group of its caller's is the process's.
func TestProcessIsApart(t *testing.T) {
	w := newWorld(t, "sleep 1000")
	lock, err := os.Create(filepath.Join(w.dir, "lock"))
	must(t, err)
	defer lock.Close()
	_, err = unix.FcntlInt(lock.Fd(), unix.F_SETFD, 0) // as a shell's 9> is
	must(t, err)
	must(t, host.CloseOnExec()) // as each command does at first
	w.start(t)
	w.print(t, "up\n")
	eventually(t, "the process to serve", func() bool { return strings.Contains(w.log(t), "up") })
	dir := fmt.Sprintf("/proc/%d/fd", w.process.PID)
	fds, err := os.ReadDir(dir)
	must(t, err)
	for _, fd := range fds {
		if link, _ := os.Readlink(filepath.Join(dir, fd.Name())); link == lock.Name() {
			t.Error("the process holds what its caller had open")
		}
	}
	tops, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	must(t, err)
	ours, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	its, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", w.process.PID))
	must(t, err)
	for line := range strings.Lines(string(ours)) {
		path := strings.TrimSpace(line[strings.LastIndexByte(line, ':')+1:])
		top := slices.ContainsFunc(tops, func(m *mountinfo.Info) bool { return m.Root == path })
		if !top && strings.Contains(string(its), line) {
			t.Errorf("the process is in its caller's group %s", line)
		}
	}
}

// Under systemd the process has a scope of its own: named by the instance and the start, and
// stopped after the unit that ends the containers. The test runs once more where there seems
// to be one.
func TestProcessScope(t *testing.T) {
	const again = "LXCBOOT_TEST_SYSTEMD"
	dir := os.Getenv(again)
	if dir == "" {
		dir = t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "systemd-run"), []byte(`#!/bin/sh
printf '%s\n' "$@" >"$0.args"
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
`), 0o755))
		cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec "$0" -test.run '^TestProcessScope$'`, os.Args[0])
		cmd.Env = append(os.Environ(), again+"="+dir, "PATH="+dir+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	w := newWorld(t, "sleep 1000")
	w.start(t)
	args, err := os.ReadFile(filepath.Join(dir, "systemd-run.args"))
	must(t, err)
	unit := regexp.MustCompile(`(?m)^--unit=lxcboot-console-` + regexp.QuoteMeta(filepath.Base(w.dir)) + `-\d+\.scope$`)
	if !unit.Match(args) || !strings.Contains(string(args), "\n--property=Before=lxcboot.service\n") {
		t.Errorf("systemd-run is given\n%s", args)
	}
}

// A process of a version before this one is given nothing of what is new, and knows
// nothing of it.
func TestStartedByAnOlderOne(t *testing.T) {
	w := newWorld(t, "sleep 1000")
	l, err := listen(w.SocketPath)
	must(t, err)
	defer l.Close()
	socket, err := l.File()
	must(t, err)
	defer socket.Close()
	log, err := openLog(w.LogPath, 0)
	must(t, err)
	defer log.Close()
	cmd := exec.Command(os.Args[0], append([]string{"keep", w.LogPath, "0", w.SocketPath}, w.Ended...)...)
	cmd.ExtraFiles = []*os.File{w.terminal.Host, w.terminal.controller, w.terminal.Master, socket, log.f}
	cmd.Env = []string{"PATH=" + searchPath}
	must(t, cmd.Start())
	w.process, err = proc.Of(cmd.Process.Pid)
	must(t, err)
	go cmd.Wait()
	w.print(t, "up\n")
	eventually(t, "the log", func() bool { return strings.Contains(w.log(t), "up") })
	w.end()
	if args := w.ended(t); strings.Contains(args, "--status") {
		t.Errorf("%q", args)
	}
}

// TestStatusOfUnreaped: how a process ended is known before its parent has taken note, as
// the new parent of an orphan may never do.
func TestStatusOfUnreaped(t *testing.T) {
	cmd := exec.Command("sh", "-c", "exit 7")
	must(t, cmd.Start())
	pidfd, err := proc.Open(cmd.Process.Pid)
	must(t, err)
	defer pidfd.Close()
	if !pollFor(pidfd, unix.POLLIN, time.Minute) {
		t.Fatal("it does not end")
	}
	if status, known := zombieStatus(pidfd); !known || status != 7<<8 {
		t.Errorf("status %d, known %v", status, known)
	}
	cmd.Wait()
	if status, known := zombieStatus(pidfd); known {
		t.Errorf("status %d is known of what is gone", status)
	}
}
