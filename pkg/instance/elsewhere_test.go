package instance

import (
	"context"
	"errors"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// elsewhere is another store than the world's.
type elsewhere struct{ volumesFake }

func (elsewhere) StoreID() string { return "elsewhere" }

// TestOtherStore has an instance be changed with another store than that of its
// volumes, where none of them would be found: it is refused, and nothing is lost.
func TestOtherStore(t *testing.T) {
	ctx := context.Background()
	store, err := state.Open(memDir(t), memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	m := w.manager(store)
	if _, err := m.Boot(ctx, testPlan()); err != nil {
		t.Fatal(err)
	}
	here := m.Volumes
	before := w.String()
	m.Volumes = elsewhere{volumesFake{w}}
	for name, do := range map[string]func() error{
		"delete": func() error { _, err := m.Delete(ctx, "web1"); return err },
		"undo":   func() error { return m.Undo(ctx, "web1") },
		"start":  func() error { _, err := m.Start(ctx, "web1"); return err },
		"reboot": func() error { _, err := m.Reboot(ctx, "web1", true); return err },
		"attach": func() error {
			_, err := m.AttachVolume(ctx, "web1", bdm.Mapping{Source: bdm.SourceVolume, Dest: bdm.DestVolume, ID: "more"})
			return err
		},
		"detach": func() error { _, err := m.DetachVolume(ctx, "web1", "mine"); return err },
	} {
		if err := do(); !errors.Is(err, state.ErrState) {
			t.Errorf("%s: %v", name, err)
		}
		if after := w.String(); after != before {
			t.Errorf("%s changed\n%s\nto\n%s", name, before, after)
		}
	}
	// Nor does repair undo what was cut short, or belonged to a run that was killed.
	for name, change := range map[string]func(*state.Record){
		"a boot":           func(r *state.Record) { r.Phase, r.Op = state.Building, state.NewOperation(state.OpBoot) },
		"a delete":         func(r *state.Record) { r.Phase, r.Op = state.Deleting, state.NewOperation(state.OpDelete) },
		"a start":          func(r *state.Record) { r.Op = state.NewOperation(state.OpStart) },
		"an attach":        func(r *state.Record) { r.Op = state.NewOperation(state.OpAttach) },
		"a run --rm ended": func(r *state.Record) { r.Caller = state.Caller{Name: state.CallerRun, Remove: true} },
	} {
		h, err := m.Store.Hold(ctx, m.Store.Wait, "web1")
		if err != nil {
			t.Fatal(err)
		}
		was := h.Record
		change(&h.Record)
		if err := errors.Join(h.Save(), h.Close()); err != nil {
			t.Fatal(err)
		}
		if did, err := m.Repair(ctx); !errors.Is(err, state.ErrState) || len(did) != 0 {
			t.Errorf("repair of %s did %q, %v", name, did, err)
		}
		if after := w.String(); after != before {
			t.Errorf("repair of %s changed\n%s\nto\n%s", name, before, after)
		}
		if h, err = m.Store.Hold(ctx, m.Store.Wait, "web1"); err != nil {
			t.Fatal(err)
		}
		h.Record = was
		if err := errors.Join(h.Save(), h.Close()); err != nil {
			t.Fatal(err)
		}
	}
	// What is not to run needs no store.
	if _, err := m.Stop(ctx, "web1", true); err != nil {
		t.Error(err)
	}
	if _, err := m.Autostart(ctx); err != nil {
		t.Errorf("autostart: %v", err)
	}
	m.Volumes = here
	if _, err := m.Delete(ctx, "web1"); err != nil {
		t.Error(err)
	}
}
