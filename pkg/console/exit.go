package console

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

// exitLimit is how long the kernel is waited for to tell how an init ended: it does once
// libvirt's controller has taken note of the end.
const exitLimit = 2 * time.Second

// oldKernel makes the tests learn exit statuses as before Linux 6.15, and reaped as when
// the parent was faster.
var oldKernel, reaped = false, false

// ending is a process whose exit status is learnt although another process is its parent:
// it is held from before its end.
type ending struct {
	ends   *os.File // tells whether its end or its controller's came first
	pidfd  *os.File // tells the status from Linux 6.15 on (PIDFD_GET_INFO)
	events *os.File // the proc connector's socket, which tells it before; nil where it is not needed
}

// holdInit takes hold of the init with a number, which must be a child of controller.
func holdInit(pid, controller int, controllerFD *os.File) (*ending, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, ErrEnded
	}
	e := &ending{pidfd: os.NewFile(uintptr(fd), "pidfd")}
	var parent int
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil {
		_, err = fmt.Sscanf(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " %1s %d", new(string), &parent)
	}
	if err != nil || parent != controller || !proc.Alive(e.pidfd) {
		e.release()
		return nil, ErrEnded
	}
	if e.ends, err = watchEnds(fd, int(controllerFD.Fd())); err != nil {
		e.release()
		return nil, fmt.Errorf("watching the end of process %d: %w", pid, err)
	}
	if oldKernel || !release(6, 15) {
		if e.events, err = exitEvents(uint32(pid)); err != nil {
			e.release()
			return nil, fmt.Errorf("asking the kernel for the end of process %d: %w", pid, err)
		}
	}
	return e, nil
}

// release lets go of it here, while another process has it.
func (e *ending) release() {
	closeFile(e.ends)
	closeFile(e.pidfd)
	closeFile(e.events)
}

// wait waits for the end of a container's init and gives its wait status. A container
// that powered itself off counts as one whose init returned 0.
//
// As long as its parent has not taken note of the end, the kernel shows what it will tell
// that one. Later it says 0 of an init that called reboot(2) itself. When another process
// of the container did, the kernel killed the init, and has told the parent alone why. So
// an init that was killed counts as powered off then when it ended before its controller,
// as it does not when libvirt ends the container, and the kernel did not kill it for want of
// memory.
func (e *ending) wait() (status int, known bool) {
	oom := watchOOM(e.pidfd)
	defer closeFile(oom.log)
	// libvirt ends the controller as soon as that has told it: this thread is faster.
	runtime.LockOSThread() // and not unlocked: the thread ends with this goroutine
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK}, 0)
	first := endsFirst(e.ends)
	pollFor(e.pidfd, unix.POLLIN, -1)
	if status, known = zombieStatus(e.pidfd); known && !reaped {
		return status, known
	}
	if e.events != nil {
		status, known = eventStatus(e.events)
	} else {
		status, known = infoStatus(e.pidfd)
	}
	if known && status == int(unix.SIGKILL) && first && oom.spared() {
		status = 0
	}
	return status, known
}

// watchEnds is an epoll on the ends of an init and of its controller. By the time that
// somebody looks both may be over, on a busy host or where the init ends at once, but an
// epoll tells of files in the order in which they became ready.
func watchEnds(init, controller int) (*os.File, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	for which, pidfd := range []int{ofInit: init, ofController: controller} {
		if err == nil {
			err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, pidfd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(which)})
		}
	}
	return os.NewFile(uintptr(ep), "ends"), err
}

const (
	ofInit = iota
	ofController
)

// endsFirst waits for the first end, and says whether it is the init's.
func endsFirst(ends *os.File) bool {
	var ready [1]unix.EpollEvent
	for {
		n, err := unix.EpollWait(int(ends.Fd()), ready[:], -1)
		if err != unix.EINTR {
			return n == 1 && ready[0].Fd == ofInit
		}
	}
}

// infoStatus asks for the status of a process that has ended.
func infoStatus(pidfd *os.File) (int, bool) {
	for end := time.Now().Add(exitLimit); ; {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		// ESRCH: it was reaped while the kernel looked, and the next look tells.
		if err := unix.IoctlPidfdInfo(int(pidfd.Fd()), &info); err != nil && err != unix.ESRCH {
			return 0, false
		}
		if info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			return int(info.Exit_code), true
		}
		left := time.Until(end)
		if left <= 0 {
			return 0, false
		}
		pollFor(pidfd, 0, left) // POLLHUP: its parent has taken note
	}
}

// zombieStatus reads the status of an init that has ended and that its parent has not
// taken note of. A power-off, which the kernel tells the parent as SIGINT, is 0.
func zombieStatus(pidfd *os.File) (status int, known bool) {
	pid := numberOf(pidfd)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%s/stat", pid))
	if err != nil || pid != numberOf(pidfd) { // else the number may be another's
		return 0, false
	}
	// The name, in parentheses, may hold anything; the status is the last field.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 50 || string(fields[0]) != "Z" {
		return 0, false
	}
	if status, err = strconv.Atoi(string(fields[49])); status == int(unix.SIGINT) {
		status = 0
	}
	return status, err == nil
}

// numberOf is the number of a process as long as it has one; else it is -1.
func numberOf(pidfd *os.File) string {
	info, _ := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
	_, rest, _ := bytes.Cut(info, []byte("\nPid:\t"))
	pid, _, _ := bytes.Cut(rest, []byte("\n"))
	return string(pid)
}

// oomWatch reads in the kernel's log whether it killed a process for want of memory.
type oomWatch struct {
	log  *os.File // from the watch's start on; nil: it cannot be read
	line []byte
}

func watchOOM(pidfd *os.File) oomWatch {
	pid := numberOf(pidfd)
	// By its descriptor and not through os.File's poller, which would wait.
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil || pid == "" {
		return oomWatch{}
	}
	_, _ = unix.Seek(fd, 0, unix.SEEK_END)
	return oomWatch{os.NewFile(uintptr(fd), "/dev/kmsg"), fmt.Appendf(nil, "Killed process %s (", pid)}
}

// spared says whether the log can be read and says nothing of the process.
func (o oomWatch) spared() bool {
	if o.log == nil {
		return false
	}
	buf := make([]byte, 8192)
	err := tty.Control(o.log, func(fd int) error {
		for {
			n, err := unix.Read(fd, buf)
			switch {
			case err == unix.EAGAIN: // all is read
				return nil
			case err == unix.EPIPE || err == unix.EINTR: // some was overwritten
			case err != nil:
				return err
			case bytes.Contains(buf[:n], o.line):
				return errKilled
			}
		}
	})
	return err == nil
}

var errKilled = errors.New("killed for want of memory")

// pollFor waits until a file is ready, or for a time; negative: without limit.
func pollFor(f *os.File, events int16, limit time.Duration) bool {
	ms := -1
	if limit >= 0 {
		ms = int((limit + time.Millisecond - 1) / time.Millisecond)
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: events}}
	for {
		n, err := unix.Poll(fds, ms)
		if err != unix.EINTR {
			return n > 0
		}
	}
}

// The proc connector, from linux/connector.h and linux/cn_proc.h: a netlink message, a
// connector's message in it, and an operation or an event in that.
const (
	connectorProc = 1 // CN_IDX_PROC and CN_VAL_PROC
	listenEvents  = 1 // PROC_CN_MCAST_LISTEN
	ignoreEvents  = 2 // PROC_CN_MCAST_IGNORE
	eventExit     = 0x80000000

	atWhat, atPID, atTGID, atCode = 36, 52, 56, 60 // where an event has them
)

// exitEvents is a socket that gets the end of one process and nothing else: the filter
// keeps the other events of the host from waking whoever reads it.
func exitEvents(pid uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "exit events")
	must := func(at, value uint32) []unix.SockFilter {
		network := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, value)) // as a filter loads it
		return []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: network, Jt: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		}
	}
	var filter []unix.SockFilter
	for _, m := range [][2]uint32{{atWhat, eventExit}, {atPID, pid}, {atTGID, pid}} {
		filter = append(filter, must(m[0], m[1])...)
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16})
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: connectorProc})
	}
	if err == nil {
		err = tellConnector(fd, listenEvents)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// tellConnector sends an operation.
func tellConnector(fd int, op uint32) error {
	e := binary.NativeEndian
	b := make([]byte, 40)
	e.PutUint32(b, 40) // nlmsghdr: length, type
	e.PutUint16(b[4:], unix.NLMSG_DONE)
	e.PutUint32(b[16:], connectorProc) // cn_msg: idx, val, seq, ack, len
	e.PutUint32(b[20:], connectorProc)
	e.PutUint16(b[32:], 4)
	e.PutUint32(b[36:], op)
	return unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// eventStatus reads the status from the proc connector, and has it send no more.
func eventStatus(events *os.File) (int, bool) {
	defer tellConnector(int(events.Fd()), ignoreEvents) // older kernels do not notice that a listener goes
	if !pollFor(events, unix.POLLIN, exitLimit) {
		return 0, false
	}
	buf := make([]byte, 256)
	n, err := unix.Read(int(events.Fd()), buf)
	if err != nil || n < atCode+4 {
		return 0, false
	}
	return int(binary.NativeEndian.Uint32(buf[atCode:])), true
}

// release says whether this kernel is of a version or a later one.
func release(major, minor int) bool {
	var u unix.Utsname
	var a, b int
	if unix.Uname(&u) != nil {
		return false
	}
	n, _ := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b)
	return n == 2 && (a > major || a == major && b >= minor)
}
