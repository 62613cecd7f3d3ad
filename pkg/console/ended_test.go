package console

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
)

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
