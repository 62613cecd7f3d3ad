package instance

import (
	"context"
	"os"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// TestExit has the process that kept a console hand in how the init ended, when that
// ended by itself, and when a stop that had the lock has settled all else before: it is
// in the record, but not in that of a life that another process keeps.
func TestExit(t *testing.T) {
	ctx := context.Background()
	self, err := proc.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	status := uint32(3 << 8)
	for name, end := range map[string]func(*testing.T, *world, *Manager, string){
		"by itself": func(_ *testing.T, w *world, _ *Manager, id string) {
			w.domains[id].state = lxc.Shutoff
		},
		"by a stop": func(t *testing.T, _ *world, m *Manager, id string) {
			if _, err := m.Stop(ctx, id, false); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := state.Open(memDir(t), memDir(t))
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t)
			m := w.manager(store)
			v, err := m.Boot(ctx, testPlan())
			if err != nil {
				t.Fatal(err)
			}
			keeps := func(p proc.Process) {
				t.Helper()
				h, err := store.Hold(ctx, 0, v.ID)
				if err != nil {
					t.Fatal(err)
				}
				defer h.Close()
				h.Console = p
				if err := h.Save(); err != nil {
					t.Fatal(err)
				}
			}
			ended := func(want int) {
				t.Helper()
				if err := m.Ended(ctx, v.ID, &status); err != nil {
					t.Fatal(err)
				}
				r, err := store.Find(v.ID)
				got := -1
				if r.Exit != nil {
					got = r.Exit.Code()
				}
				if err != nil || got != want {
					t.Errorf("exit code %d instead of %d, %v", got, want, err)
				}
			}
			keeps(self)
			end(t, w, m, v.ID)
			ended(3)
			// The next life is another's.
			if _, err := m.Start(ctx, v.ID); err != nil {
				t.Fatal(err)
			}
			ended(-1)
			end(t, w, m, v.ID)
			ended(-1)
		})
	}
}
