package proc

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// InMounts runs a function in the mount namespace of a pidfd's process, on a thread that
// ends with it. Paths begin at that namespace's root. A process that has ended is
// os.ErrProcessDone.
func InMounts(pidfd *os.File, f func() error) error {
	done := make(chan error)
	go func() { done <- inMounts(pidfd, f) }()
	return <-done
}

func inMounts(pidfd *os.File, f func() error) error {
	runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
	// But for the first one, which is what /proc/self shows: it would stay in the namespace,
	// and keep that alive. While this goroutine has it, no other can.
	if unix.Gettid() == os.Getpid() {
		defer runtime.UnlockOSThread()
		return InMounts(pidfd, f)
	}
	err := unix.Unshare(unix.CLONE_FS)
	if err == nil {
		err = unix.Setns(int(pidfd.Fd()), unix.CLONE_NEWNS)
	}
	switch err {
	case nil:
		return f()
	case unix.ESRCH:
		return os.ErrProcessDone
	}
	return os.NewSyscallError("setns", err)
}
