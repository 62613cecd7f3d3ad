package instance

import (
	"context"
	"errors"
	"time"

	"github.com/lxcboot/lxcboot/pkg/state"
)

// Before a container is started again there is a pause, which doubles from one time to the
// next. One that ran for ranWell begins anew with that, and with the count of its policy.
const (
	firstPause   = time.Second
	longestPause = time.Minute
	ranWell      = 10 * time.Second
)

// restarts says after which pause the container is to be started again, by its policy, and
// counts that; 0: it is not. It has ended by itself, after so long; how is in the record: one
// of which nobody knows has failed.
func (h *Handle) restarts(ran time.Duration) (pause time.Duration) {
	p := h.Spec.Restart
	failed := h.Exit == nil || h.Exit.Code() != 0
	if ran >= ranWell {
		h.Restarts = 0
	}
	if p.When == "" || p.When == state.RestartOnFailure && !failed || p.Most > 0 && h.Restarts >= p.Most {
		return 0
	}
	pause = longestPause
	if h.Restarts < 6 {
		pause = firstPause << h.Restarts
	}
	h.Restarts++
	return pause
}

// restarting says of a container that has ended that the process that keeps its console, or
// that did, sees to its policy, or is about to.
func (m *Manager) restarting(r *state.Record) bool {
	return r.Spec.Restart.When != "" && r.Want == state.Up && (m.Consoles.Alive(r.Former) || m.Consoles.Alive(r.Console))
}

// Again starts a container that Ended said is to be started again, unless something else was
// decided meanwhile. One that cannot be started stays down. A host that is going down starts
// it when it comes up again.
func (m *Manager) Again(ctx context.Context, id string) error {
	h, err := m.open(ctx, id, state.OpStart)
	if err != nil {
		return ignore(err, state.ErrNotFound)
	}
	defer m.close(ctx, h)
	if h.lives() || h.Want != state.Up || m.Stopping != nil && m.Stopping(ctx) {
		return nil
	}
	if err := m.start(ctx, h, state.OpStart); err != nil {
		h.Want = state.Down
		return errors.Join(err, h.SaveUndone())
	}
	return nil
}
