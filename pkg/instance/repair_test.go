package instance

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/state"
)

// TestRepairSays kills boot and delete at each operation: repair says of each what it did,
// an undoing or a finishing, and leaves nothing.
func TestRepairSays(t *testing.T) {
	for _, c := range []struct {
		name, says string
		prepare    func(*world, *Manager)
		do         func(context.Context, *Manager) error
	}{
		{"boot", "undid its boot, which had been interrupted", nil, func(ctx context.Context, m *Manager) error {
			_, err := m.Boot(ctx, testPlan())
			return err
		}},
		{"delete", "finished its delete, which had been interrupted", bootFirst(t), func(ctx context.Context, m *Manager) error {
			_, err := m.Delete(ctx, "web1")
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			strike(t, c.prepare, c.do, func(t *testing.T, w *world, m *Manager, _ string, _ error, crashed bool) {
				if !crashed {
					return
				}
				unfinished := false
				for _, r := range records(t, m) {
					unfinished = r.Phase != state.Built
				}
				did, err := m.Repair(context.Background())
				if errors.Is(err, state.ErrState) && c.name == "boot" {
					return // its container ran already
				}
				if said := strings.Contains(strings.Join(did, "\n"), c.says); err != nil || said != unfinished {
					t.Errorf("unfinished: %v; repair did %q, %v", unfinished, did, err)
				}
				if recs := records(t, m); unfinished && len(recs) != 0 {
					t.Errorf("record left: %+v", recs)
				}
			})
		})
	}
}
