package console

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/proc"
)

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
