package rootfs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// ErrTrim is what went wrong with discarding, and ErrNoDiscard that the device or the driver
// of the filesystem cannot do it.
var (
	ErrTrim      = errors.New("cannot discard what the filesystem does not use")
	ErrNoDiscard = errors.New("the device does not discard")
)

// fitrim is _IOWR('X', 121, struct fstrim_range) of linux/fs.h.
const fitrim = 0xc0185879

// Trim has a filesystem that Probe found on device tell it which blocks hold nothing, and
// gives how many bytes these are; ext4 leaves out those that it told before and that were
// not written to since. carrier is the block device by which the filesystem is mounted
// already, if it is: then the kernel's own is trimmed. Else it is mounted for the moment,
// nowhere, so that the mount and its loop device go with this process.
func Trim(ctx context.Context, device string, fsys Filesystem, carrier string) (discarded int64, err error) {
	fail := func(err error) (int64, error) { return 0, fmt.Errorf("%w on %s: %w", ErrTrim, device, err) }
	if fsys.ReadOnly || !slices.Contains(AllowList, fsys.Type) {
		return fail(fmt.Errorf("a filesystem of type %q is not written to", fsys.Type))
	}
	if err := context.Cause(ctx); err != nil {
		return fail(err)
	}
	if carrier == "" {
		backing, readOnly, err := openDevice(device, false)
		if err != nil {
			return fail(err)
		}
		defer backing.Close()
		if readOnly {
			return fail(unix.EROFS)
		}
		source, held, err := blockDevice(ctx, backing, fsys, loop.Options{})
		if err != nil {
			return fail(err)
		}
		if held != nil {
			defer held.Close()
		}
		carrier = source
	}
	top, err := OpenTop(carrier, fsys)
	if err != nil {
		return fail(err)
	}
	defer top.Close()
	fault.Point("trim mounted")
	// What was just removed is free on disk, and not before.
	if err := unix.Syncfs(int(top.Fd())); err != nil {
		return fail(err)
	}
	all := struct{ start, length, least uint64 }{0, math.MaxUint64, 0}
	switch err := ioctl(top, fitrim, unsafe.Pointer(&all)); {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
		return fail(ErrNoDiscard)
	case err != nil:
		return fail(err)
	}
	idle(ctx, carrier)
	return int64(all.length), nil
}

// idleLimit is how long a device is waited for that others keep busy.
const idleLimit = 2 * time.Second

// idle waits until a device has done what it was told: xfs does not wait for it. That it
// does not come to that is no error, as nothing depends on it but what is seen of the room.
func idle(ctx context.Context, device string) {
	ctx, cancel := context.WithTimeout(ctx, idleLimit)
	defer cancel()
	_ = wait.Until(ctx, time.Millisecond, 10*time.Millisecond, func() (bool, error) {
		var reads, writes int
		text, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(device), "inflight"))
		if err == nil {
			_, err = fmt.Sscan(string(text), &reads, &writes)
		}
		return err == nil && reads+writes == 0, err
	})
}
