// Package wait has the pauses of loops that wait for what gives no event.
package wait

import (
	"context"
	"time"
)

// For pauses for d. When ctx ends first, its cause is the error.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Until calls f until it is done or fails. The pauses between the calls begin with
// first and grow by half, up to longest. When ctx ends in one of them, its cause is the error;
// f is called at least once, even if ctx has ended before.
func Until(ctx context.Context, first, longest time.Duration, f func() (done bool, err error)) error {
	for pause := first; ; pause = min(pause*3/2, longest) {
		if done, err := f(); done || err != nil {
			return err
		}
		if err := For(ctx, pause); err != nil {
			return err
		}
	}
}
