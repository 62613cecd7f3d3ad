// Package lock keeps processes apart by flock(2): the kernel drops a lock with its
// holder, however that ends.
package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// ErrHeld is the kind of the error when another has the lock and ctx ended before they
// let go.
var ErrHeld = errors.New("the lock is held by another")

// A Lock is a locked file. Close lets go of the lock, and of the file.
type Lock struct{ *os.File }

// Close lets go at once: a process that is being started has all open files of this one
// until it executes its program, on a busy host for a while, and would keep the lock.
func (l *Lock) Close() error {
	err := syscall.Flock(int(l.Fd()), syscall.LOCK_UN)
	return errors.Join(os.NewSyscallError("flock", err), l.File.Close())
}

// longest is the most that passes from the end of one lock to the next.
const longest = 20 * time.Millisecond

// File opens the file at path for reading and writing and takes its exclusive lock,
// waiting until ctx ends: ErrHeld, which wraps the cause. A ctx that has ended already
// allows one attempt. flags are more flags
// of open(2): with O_CREATE the file is made (mode 0600) where it is not there.
//
// The file is the one at path when the lock is had: one that was removed meanwhile is
// opened anew, or os.ErrNotExist. A link at path is refused.
func File(ctx context.Context, path string, flags int) (*Lock, error) {
	return Open(ctx, path, os.O_RDWR|syscall.O_NOFOLLOW|flags, syscall.LOCK_EX)
}

// Open is File with flags that are all of those of open(2), and with LOCK_SH or LOCK_EX.
// A directory is opened with O_RDONLY.
func Open(ctx context.Context, path string, flags, how int) (*Lock, error) {
	for {
		f, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			return nil, err
		}
		err = take(ctx, f, how)
		same := false
		if err == nil {
			same, err = isAt(f, path)
		}
		if same {
			return &Lock{f}, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}

// Held says whether another has the exclusive lock of the file or directory at path now.
// One that is not there is nobody's. The look takes a shared lock for a moment, which
// may cost somebody else's first attempt.
func Held(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer (&Lock{f}).Close()
	free, err := try(f, syscall.LOCK_SH)
	return err == nil && !free, err
}

// take waits for the lock of an open file.
func take(ctx context.Context, f *os.File, how int) error {
	for pause := time.Millisecond; ; pause = min(2*pause, longest) {
		taken, err := try(f, how)
		if taken || err != nil {
			return err
		}
		if err := wait.For(ctx, pause); err != nil {
			return failure.Of(ErrHeld, "%s is locked by another process: %w", f.Name(), err)
		}
	}
}

// try takes the lock of an open file unless another's is in the way.
func try(f *os.File, how int) (taken bool, err error) {
	for {
		switch err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err {
		case nil:
			return true, nil
		case syscall.EWOULDBLOCK:
			return false, nil
		case syscall.EINTR:
		default:
			return false, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
	}
}

// isAt says whether an open file is still the one at path.
func isAt(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, now), err
}
