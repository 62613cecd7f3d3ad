package console

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// claimLimit is how long the process that keeps a console may take to do what it is asked.
const claimLimit = 5 * time.Second

// Claim has the process that keeps a console open a block device to be this host's only user
// of it, until the container has ended, or Unclaim. That it has it already is fine.
func Claim(ctx context.Context, socketPath string, keeper proc.Process, device string) error {
	return ask(ctx, socketPath, keeper, frameClaim, device)
}

// Unclaim undoes Claim. A process, or a device, that is gone is done.
func Unclaim(ctx context.Context, socketPath string, keeper proc.Process, device string) error {
	return ask(ctx, socketPath, keeper, frameUnclaim, device)
}

// ask sends a frame, and sees by the files that the process has open that it was heeded.
func ask(ctx context.Context, socketPath string, keeper proc.Process, kind byte, device string) error {
	number, known := blockNumber(device)
	done := func() (bool, error) {
		return (known && holds(keeper, number)) == (kind == frameClaim), nil
	}
	if ok, _ := done(); ok || kind == frameUnclaim && !keeper.Alive() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, claimLimit)
	defer cancel()
	conn, err := dialUnix(ctx, socketPath)
	if err != nil {
		return fmt.Errorf("%w (%v)", ErrNotServed, err)
	}
	defer conn.Close()
	if err := (&frameWriter{w: conn}).write(kind, []byte(device)); err != nil {
		return fmt.Errorf("%w (%v)", ErrNotServed, err)
	}
	if err := wait.Until(ctx, time.Millisecond, 20*time.Millisecond, done); err != nil {
		return fmt.Errorf("the process %d, which keeps the container's console, did not take or leave %s as it was asked to: reboot the instance, if it was started by an older lxcboot: %w", keeper.PID, device, err)
	}
	return nil
}

// holds says whether a process has a block device open.
func holds(p proc.Process, number uint64) bool {
	dir := fmt.Sprintf("/proc/%d/fd/", p.PID)
	fds, _ := os.ReadDir(dir)
	return p.Alive() && slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
		n, ok := blockNumber(dir + fd.Name())
		return ok && n == number
	})
}

// blockNumber is the number of the block device that a path names.
func blockNumber(path string) (uint64, bool) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return st.Rdev, err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK
}

// claims are block devices that this process has to itself.
type claims struct {
	mu    sync.Mutex
	files []*os.File
}

func (c *claims) take(device string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK, 0); err == nil {
		c.files = append(c.files, f)
	}
}

func (c *claims) drop(device string) {
	number, ok := blockNumber(device)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files = slices.DeleteFunc(c.files, func(f *os.File) bool {
		var st unix.Stat_t
		if !ok || unix.Fstat(int(f.Fd()), &st) != nil || st.Rdev != number {
			return false
		}
		f.Close()
		return true
	})
}
