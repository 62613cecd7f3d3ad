package connector

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"golang.org/x/sys/unix"
)

// flushFile brings what was written to a file or block device to the storage,
// and forgets what the kernel cached of a block device, which may change
// elsewhere before it is seen here again. One that is not there is done.
func flushFile(ctx context.Context, path string) error {
	return within(ctx, "flushing "+path, func() error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			return nil // read-only: nothing was written
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Sync(); err != nil {
			return err
		}
		if fi, err := f.Stat(); err == nil && fi.Mode()&fs.ModeDevice != 0 {
			if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
				return fmt.Errorf("flushing buffers of %s: %w", path, err)
			}
		}
		return nil
	})
}

// flushApart is flushFile in programs of their own, for a disk or file that the kernel
// fetches from elsewhere: whoever waits for a storage that does not answer cannot be
// killed, and this process could not end before its driver gives up.
func (h *Host) flushApart(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, flushLimit, fmt.Errorf("the storage did not take what was written within %s", flushLimit))
	defer cancel()
	return within(ctx, "flushing "+path, func() error {
		fi, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			_, err = h.o.Run(ctx, "sync", "--", path)
		}
		if err == nil && fi.Mode()&fs.ModeDevice != 0 {
			_, err = h.o.Run(ctx, "blockdev", "--flushbufs", path)
		}
		return err
	})
}

// dialLimit bounds the question whether a storage server answers.
const dialLimit = 5 * time.Second

// dialAny sees whether one of the addresses answers; with none it is content.
func dialAny(ctx context.Context, addrs []string) error {
	if len(addrs) == 0 {
		return nil
	}
	var errs []string
	for _, a := range addrs {
		d := net.Dialer{Timeout: dialLimit}
		conn, err := d.DialContext(ctx, "tcp", a)
		if err == nil {
			conn.Close()
			return nil
		}
		errs = append(errs, err.Error())
	}
	return failure.Of(volume.ErrUnreachable, "no answer: %s", strings.Join(errs, "; "))
}
