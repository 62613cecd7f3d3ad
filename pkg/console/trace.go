package console

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
)

// libvirt_lxc ends as soon as a signal tells it of its init's end, with what it read of
// the container's terminal and has not written yet. So that signal is held back until it
// has handed on all that the container said. As long as there is no process that keeps the
// console, libvirt_lxc has it blocked; then that process traces libvirt_lxc, which the
// kernel ends when the tracer ends, and meets each signal before libvirt_lxc does.
const childSignal = unix.SIGCHLD

// blockLimit is how long a process may take to stop for a moment. A frozen one does not.
const blockLimit = time.Second

// block has threads of a process block the signal that tells of a child's end, which stays
// pending, or let it through again. Those that have ended are done.
func block(tids []int, block bool) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: what it traces is let go with it, whatever happens
		var err error
		failed := func(e error) bool {
			if e != nil && e != unix.ESRCH && err == nil {
				err = fmt.Errorf("holding back the end of the container from libvirt_lxc: %w", e)
			}
			return e != nil
		}
		// All are on their way to a stop before the first is waited for.
		seized := slices.DeleteFunc(slices.Clone(tids), func(tid int) bool { return failed(seize(tid)) })
		for _, tid := range seized {
			failed(whileStopped(tid, func() error { return setBlocked(tid, block) }))
		}
		done <- err
	}()
	return <-done
}

// threads are a process's. The first is the main one, which has precedence with a signal
// and begins the others, which block what that does then.
func threads(pid int) []int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	all := []int{pid}
	for _, entry := range entries {
		if tid, err := strconv.Atoi(entry.Name()); err == nil && tid != pid {
			all = append(all, tid)
		}
	}
	return all
}

// whileStopped does something once a thread that was seized has stopped, and lets it go.
func whileStopped(tid int, do func() error) error {
	var status unix.WaitStatus
	for end := time.Now().Add(blockLimit); ; time.Sleep(20 * time.Microsecond) {
		n, err := unix.Wait4(tid, &status, unix.WALL|unix.WNOHANG, nil)
		switch {
		case err != nil && err != unix.EINTR:
			return err
		case n == tid && !status.Stopped():
			return unix.ESRCH
		case n == tid:
			err := do()
			_ = ptrace(unix.PTRACE_DETACH, tid, 0, uintptr(passed(status)))
			return err
		case time.Now().After(end):
			return fmt.Errorf("the thread %d does not stop", tid)
		}
	}
}

// seize begins to trace a thread, which then stops.
func seize(tid int) error {
	if err := ptrace(unix.PTRACE_SEIZE, tid, 0, 0); err != nil {
		return err
	}
	return ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0)
}

// passed is the signal that a stopped thread was about to get; 0: none.
func passed(status unix.WaitStatus) unix.Signal {
	if int(status)>>16 != 0 {
		return 0
	}
	return status.StopSignal()
}

// setBlocked changes whether a thread that is stopped blocks the signal.
func setBlocked(tid int, block bool) error {
	var mask uint64
	if err := ptrace(unix.PTRACE_GETSIGMASK, tid, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask))); err != nil {
		return err
	}
	want := mask &^ (1 << (childSignal - 1))
	if block {
		want |= 1 << (childSignal - 1)
	}
	if want == mask {
		return nil
	}
	return ptrace(unix.PTRACE_SETSIGMASK, tid, unsafe.Sizeof(want), uintptr(unsafe.Pointer(&want)))
}

//go:uintptrescapes
func ptrace(request, tid int, addr, data uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// A tracer holds the news of its init's end back from libvirt_lxc.
type tracer struct {
	pid        int
	controller *os.File      // the pidfd of libvirt_lxc
	init       *os.File      // the init's
	held       chan struct{} // closed when the news is there, and held back
}

// trace traces a controller until that ends, from when nobody else does.
func trace(controller, init *os.File) *tracer {
	t := &tracer{controller: controller, init: init, held: make(chan struct{})}
	t.pid, _ = strconv.Atoi(numberOf(controller))
	if t.pid > 0 {
		go t.run()
	}
	return t
}

func (t *tracer) run() {
	runtime.LockOSThread()
	for pause := time.Millisecond; seize(t.pid) != nil; pause = min(2*pause, time.Second) {
		if pollFor(t.controller, unix.POLLIN, pause) {
			return
		}
	}
	for first := true; ; first = false {
		var status unix.WaitStatus
		if _, err := unix.Wait4(t.pid, &status, unix.WALL, nil); err == unix.EINTR {
			continue
		} else if err != nil || !status.Stopped() {
			return
		}
		if first {
			_ = block(threads(t.pid)[1:], true) // for good: the main thread gets it
			_ = setBlocked(t.pid, false)
		}
		t.goOn(status)
	}
}

// goOn has libvirt_lxc go on after a stop, with the signal that it stopped for.
func (t *tracer) goOn(status unix.WaitStatus) {
	signal := passed(status)
	switch {
	case signal == 0 && status.StopSignal() != unix.SIGTRAP: // stopped, and not by us
		if ptrace(unix.PTRACE_LISTEN, t.pid, 0, 0) == nil {
			return
		}
	case signal == childSignal && !t.has() && !proc.Alive(t.init):
		close(t.held)
		signal = 0
	}
	_ = ptrace(unix.PTRACE_CONT, t.pid, 0, uintptr(signal))
}

// has says whether the news was held back, or is.
func (t *tracer) has() bool {
	select {
	case <-t.held:
		return true
	default:
		return false
	}
}

// tell lets libvirt_lxc have what was held back.
func (t *tracer) tell() {
	if t.has() && proc.Alive(t.controller) {
		_ = unix.Tgkill(t.pid, t.pid, childSignal)
	}
}
