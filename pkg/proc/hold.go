package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Open gives a pidfd of the process that has the number now, or os.ErrProcessDone. Who
// that is has to be looked at afterwards: from then on it cannot become another.
func Open(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case err == unix.ESRCH, err == unix.EINVAL: // no process, or no number of one
		return nil, os.ErrProcessDone
	case err != nil:
		return nil, fmt.Errorf("taking hold of process %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// Signal sends a signal to the process of a pidfd. One that has ended is
// os.ErrProcessDone.
func Signal(pidfd *os.File, sig unix.Signal) error {
	err := unix.PidfdSendSignal(int(pidfd.Fd()), sig, nil, 0)
	if err == unix.ESRCH {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// look is how often a wait for a process looks whether its context has ended.
const look = 20 * time.Millisecond

// WaitEnd waits until the process of a pidfd has ended. When ctx ends first, its cause is
// the error.
func WaitEnd(ctx context.Context, pidfd *os.File) error {
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(look.Milliseconds()))
		switch {
		case n > 0:
			return nil
		case err != nil && err != unix.EINTR:
			return os.NewSyscallError("poll", err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}

// A Push is a signal, 0 being none, and how long it is given to end a process.
type Push struct {
	Signal unix.Signal
	Wait   time.Duration
}

// ErrStays says that a process does not end.
var ErrStays = errors.New("the process does not end")

// End ends the process of a pidfd, by each push in turn until it has ended: else
// ErrStays. When ctx ends first, its cause is the error.
func End(ctx context.Context, pidfd *os.File, pushes ...Push) error {
	for _, p := range pushes {
		if p.Signal != 0 {
			if err := Signal(pidfd, p.Signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return err
			}
		}
		limited, cancel := context.WithTimeout(ctx, p.Wait)
		err := WaitEnd(limited, pidfd)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return ErrStays
}
