package inuse

import (
	"context"
	"errors"
	"time"

	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// aloneLimit is how long who ends may take to let go of a filesystem.
const aloneLimit = 10 * time.Second

// WaitAlone waits until no loop device on a file or block device that can write is mounted,
// or kept by something for itself alone, in whatever mount namespace: a further one would
// be a second filesystem in the kernel, and destroy what is on it. After a wait of ten
// seconds the error wraps ErrUsed, and says by whom.
func WaitAlone(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, aloneLimit)
	defer cancel()
	var last Volume
	err := wait.Until(ctx, time.Millisecond, 100*time.Millisecond, func() (bool, error) {
		devices, err := loops(path, func(d loop.Device) bool { return !d.ReadOnly })
		last = Volume{devices}
		return last.Carrier() == "", err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return last.Check(nil)
	}
	return err
}
