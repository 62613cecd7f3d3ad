package loop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/wait"
)

// Detach frees the device that dev describes, and returns when it is really free. One
// that is gone is no error; if its number backs another file by now, that is left alone.
// A device that is mounted or held open is waited for, at most ten seconds; then the
// error wraps ErrInUse, and it is as it was.
func Detach(dev Device) error {
	ctx, cancel := context.WithTimeout(context.Background(), detachLimit)
	defer cancel()
	err := wait.Until(ctx, time.Millisecond, 100*time.Millisecond, func() (bool, error) { return detach(dev) })
	if errors.Is(err, context.DeadlineExceeded) {
		if err := stay(dev); err != nil {
			return err
		}
		return fmt.Errorf("%w: %s (%s) is still mounted or open (see: fuser -v %s)", ErrInUse, dev.Path, dev.BackingFile, dev.Path)
	}
	return err
}

// stay takes back what detach asked of a device that others have open, so that it does not
// go with the last of them.
func stay(dev Device) error {
	f, err := openNode(dev.Number, os.O_RDONLY)
	if isGone(err) || dev.Autoclear {
		return nil
	}
	if err != nil {
		return wrapDetach(dev, err)
	}
	defer f.Close()
	if now, err := identify(f, dev.Number); err != nil || !now.same(dev) {
		return nil // it is gone, or has just become another's
	}
	return Keep(f)
}

// detach says whether the device is gone. If not, it asks the kernel to free the device,
// which happens when the last one who has it open closes it.
func detach(dev Device) (gone bool, err error) {
	// An exclusive open fails while the device is mounted. LOOP_CLR_FD would free it at
	// the unmount then, although nobody expects that any more.
	f, err := openNode(dev.Number, os.O_RDONLY|unix.O_EXCL)
	if errors.Is(err, unix.EBUSY) {
		now, gone, err := lookup(dev.Number)
		return gone || err == nil && !now.same(dev), wrapDetach(dev, err)
	}
	if isGone(err) {
		return true, nil
	}
	if err != nil {
		return false, wrapDetach(dev, err)
	}
	defer f.Close()
	now, err := identify(f, dev.Number)
	if isGone(err) || err == nil && !now.same(dev) {
		return true, nil
	}
	if err != nil {
		return false, wrapDetach(dev, err)
	}
	// While it is open here its number cannot come to back another file.
	err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
	if err != nil && !lostRace(err) {
		return false, wrapDetach(dev, err)
	}
	return false, nil
}

func wrapDetach(dev Device, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot detach %s (%s): %w", dev.Path, dev.BackingFile, err)
}

// lookup reads the device of a number, which may be gone.
func lookup(n int) (dev Device, gone bool, err error) {
	f, err := openNode(n, os.O_RDONLY)
	if isGone(err) {
		return Device{}, true, nil
	}
	if err != nil {
		return Device{}, false, err
	}
	defer f.Close()
	dev, err = identify(f, n)
	if isGone(err) {
		return Device{}, true, nil
	}
	return dev, false, err
}

func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) }
