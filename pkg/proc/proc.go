// Package proc tells the processes of this host apart: a number alone may be another
// process's by the time it is used.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process that outlives the command which started it. Its start time
// tells it from a later one with the same number.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since the host's boot, from /proc/PID/stat
}

// Of is the process that has the number now.
func Of(pid int) (Process, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, err
	}
	// The name before it, in parentheses, may hold anything; the start is field 22.
	f := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(f) < 20 {
		return Process{}, fmt.Errorf("/proc/%d/stat cannot be read", pid)
	}
	start, err := strconv.ParseUint(string(f[19]), 10, 64)
	return Process{PID: pid, Start: start}, err
}

// ticks is how many clock ticks of /proc are in a second, on all of Linux's machines that
// Go knows.
const ticks = 100

// Age is how long ago the process was started.
func (p Process) Age() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0
	}
	return time.Duration(now.Nano()) - time.Duration(p.Start)*(time.Second/ticks)
}

// Alive says whether that very process has not ended, as far as can be told.
func (p Process) Alive() bool {
	f, err := p.Open()
	if err != nil {
		return !errors.Is(err, os.ErrProcessDone) // without proof of its end it is alive
	}
	defer f.Close()
	return Alive(f)
}

// Open gives a pidfd of that very process, or os.ErrProcessDone where it has ended.
func (p Process) Open() (*os.File, error) {
	if p.PID <= 0 {
		return nil, os.ErrProcessDone
	}
	f, err := Open(p.PID)
	if err != nil {
		return nil, err
	}
	if now, err := Of(p.PID); err != nil || now != p {
		f.Close()
		return nil, os.ErrProcessDone
	}
	return f, nil
}

// Alive says whether the process of a pidfd has not ended.
func Alive(pidfd *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err == nil && n == 0
		}
	}
}

// All are the numbers of all processes that this host shows, sorted.
func All() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	var pids []int
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			pids = append(pids, n)
		}
	}
	slices.Sort(pids)
	return pids
}
