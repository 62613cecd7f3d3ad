// Package tty knows terminals: raw mode and sizes, the ends of pseudoterminals, those
// that a container's controller has, and what text is safe to show on one.
package tty

import (
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Raw puts a terminal into raw mode and tells its size, now and whenever it changes,
// until restore. A file that is no terminal is left alone.
func Raw(f *os.File, resize func(*unix.Winsize)) (restore func(), err error) {
	fd := int(f.Fd())
	if !term.IsTerminal(fd) {
		return func() {}, nil
	}
	tell := func() {
		if size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
			resize(size)
		}
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	old, err := term.MakeRaw(fd)
	if err != nil {
		signal.Stop(changed)
		return nil, fmt.Errorf("cannot set up the terminal: %w", err)
	}
	tell()
	stopped := make(chan struct{})
	go func() {
		for {
			select {
			case <-changed:
				tell()
			case <-stopped:
				return
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		close(stopped)
		term.Restore(fd, old)
	}, nil
}

// Resize sets the size of a terminal by either of its ends. It leaves the file to the
// runtime's poller.
func Resize(f *os.File, size *unix.Winsize) error {
	return Control(f, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
}

// Control runs do with a file's descriptor and leaves the file to the runtime's poller,
// which Fd would not.
func Control(f *os.File, do func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if e := c.Control(func(fd uintptr) { err = do(int(fd)) }); e != nil {
		return e
	}
	return err
}

// Peer opens the terminal of a pseudoterminal's master, whatever its name is here.
func Peer(master *os.File) (*os.File, error) {
	var peer uintptr
	err := Control(master, func(fd int) error {
		var errno unix.Errno
		peer, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(peer, "terminal"), nil
}
