package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// FreezeLimit is how long a filesystem of a container may be frozen.
const FreezeLimit = 10 * time.Second

// guardWait is how long the process that keeps a console may take to do what it is asked.
const guardWait = 2 * time.Second

// Guard has the process that keeps a console thaw the filesystem of an open directory when
// this process ends, or release is called, and after FreezeLimit at the latest: a frozen
// filesystem outlives who froze it. When Guard returns it may be frozen. One that is not
// is left alone.
func Guard(ctx context.Context, socketPath string, keeper proc.Process, dir *os.File) (release func(), err error) {
	conn, err := dialUnix(ctx, socketPath)
	if err != nil {
		return nil, fmt.Errorf("%w (%v)", ErrNotServed, err)
	}
	go io.Copy(io.Discard, conn) // what the container says meanwhile
	has := func() (bool, error) { return hasOpen(keeper, dir), nil }
	release = func() {
		conn.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), guardWait)
		defer cancel()
		_ = wait.Until(ctx, time.Millisecond, 20*time.Millisecond, func() (bool, error) { return !hasOpen(keeper, dir), nil })
	}
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), dir.Fd())
	err = (&frameWriter{w: conn}).write(frameFreeze, []byte(path))
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, guardWait)
		defer cancel()
		err = wait.Until(ctx, time.Millisecond, 20*time.Millisecond, has)
	}
	if err != nil {
		release()
		return nil, fmt.Errorf("the process %d, which keeps the container's console, does not see to a frozen filesystem: reboot the instance, if it was started by an older lxcboot: %w", keeper.PID, err)
	}
	return release, nil
}

// hasOpen says whether a process has a file open.
func hasOpen(p proc.Process, f *os.File) bool {
	want, err := f.Stat()
	if err != nil || !p.Alive() {
		return false
	}
	dir := fmt.Sprintf("/proc/%d/fd/", p.PID)
	fds, _ := os.ReadDir(dir)
	for _, fd := range fds {
		if got, err := os.Stat(dir + fd.Name()); err == nil && os.SameFile(got, want) {
			return true
		}
	}
	return false
}

// guard is what Guard asks for. It ends with the client, its time, or the console.
func (h *hub) guard(conn net.Conn, path string) {
	h.mu.Lock()
	if h.ended {
		h.mu.Unlock()
		return
	}
	h.writers.Add(1) // what comes after the console's end must not be before the thaw
	h.mu.Unlock()
	defer h.writers.Done()
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer dir.Close()
	conn.SetReadDeadline(time.Now().Add(FreezeLimit))
	_, _ = io.Copy(io.Discard, conn)
	const thaw = 0xc0045878 // FITHAW of linux/fs.h
	for errors.Is(unix.IoctlSetInt(int(dir.Fd()), thaw, 0), unix.EINTR) {
	}
}
