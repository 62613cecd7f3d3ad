package instance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// A volume is still when nobody has it that writes to it: nobody, a stopped instance, or one
// that only reads. As long as it is copied the instance is not started.
func TestCopyVolume(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	store, err := state.Open(memDir(t), memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	store.Wait = 50 * time.Millisecond
	m := w.manager(store)
	copied := func(do func(volume.Copying)) volume.Copying {
		t.Helper()
		ran := 0
		var got volume.Copying
		if err := m.CopyVolume(ctx, "mine", func(how volume.Copying) error {
			ran, got = ran+1, how
			if do != nil {
				do(how)
			}
			return nil
		}); err != nil || ran != 1 {
			t.Fatalf("it ran %d times, %v", ran, err)
		}
		return got
	}
	copied(nil) // nobody has it
	if _, err := m.Boot(ctx, testPlan()); err != nil {
		t.Fatal(err)
	}
	if how := copied(nil); how.Still {
		t.Error("the volume of a running instance is said to be still")
	}
	if _, err := m.Stop(ctx, "web1", true); err != nil {
		t.Fatal(err)
	}
	how := copied(func(volume.Copying) {
		if _, err := m.Start(ctx, "web1"); !errors.Is(err, state.ErrBusy) {
			t.Errorf("started while its volume is copied: %v", err)
		}
	})
	if !how.Still {
		t.Error("the volume of a stopped instance is not said to be still")
	}
	if _, err := m.Start(ctx, "web1"); err != nil {
		t.Error(err)
	}
	// Somebody else has it, of whom nothing is known here.
	w.volumes["mine"].Attachments = []volume.Attachment{{ID: "a", VolumeID: "mine", InstanceID: "elsewhere"}}
	if how := copied(nil); how.Still {
		t.Error("a volume that another has is said to be still")
	}
	failed := errors.New("failed")
	if err := m.CopyVolume(ctx, "mine", func(volume.Copying) error { return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if err := m.CopyVolume(ctx, "nothere", func(volume.Copying) error { return nil }); !errors.Is(err, volume.ErrNotFound) {
		t.Error(err)
	}
}

// copyRoot copies the root volume of the running instance, and says whether it was frozen at
// that moment, and what came of it.
func copyRoot(ctx context.Context, w *world, m *Manager) (frozen bool, err error) {
	rec, err := m.Store.Find("web1")
	if err != nil {
		return false, err
	}
	err = m.CopyVolume(ctx, rec.Root().VolumeID, func(how volume.Copying) error {
		if how.Still || how.Moment == nil {
			return errors.New("nothing is held back")
		}
		return how.Moment(func() error {
			return w.do(ctx, "take", func() error {
				frozen = len(w.frozen) == 1
				return nil
			})
		})
	})
	return frozen, err
}

// TestCopyFaults breaks a copy of a running instance's root at every operation: its
// filesystem is thawed when that is over, also when the process was killed, and when that
// which would thaw it was killed as well, by whatever is done with the instance next.
func TestCopyFaults(t *testing.T) {
	boot := func(blind bool) func(w *world, m *Manager) {
		return func(w *world, m *Manager) {
			if _, err := m.Boot(context.Background(), testPlan()); err != nil {
				t.Fatal(err)
			}
			w.blind, w.carried = blind, true
		}
	}
	for _, blind := range []bool{false, true} {
		var w *world
		prepare := boot(blind)
		strike(t, func(world *world, m *Manager) { w = world; prepare(world, m) }, func(ctx context.Context, m *Manager) error {
			frozen, err := copyRoot(ctx, w, m)
			if err == nil && !frozen && w.fault == nil {
				return errors.New("it was not frozen")
			}
			return err
		}, func(t *testing.T, w *world, m *Manager, before string, err error, crashed bool) {
			if got := w.String(); got != before && !blind {
				t.Errorf("left behind:\n%s\nwant\n%s", got, before)
			}
			if err := m.CopyVolume(context.Background(), "mine", func(volume.Copying) error { return nil }); err != nil {
				t.Error(err)
			}
			if got := w.String(); got != before {
				t.Errorf("left behind, after another command:\n%s\nwant\n%s", got, before)
			}
			if rec := records(t, m)[0]; rec.Op != nil {
				t.Errorf("the record says %+v", rec.Op)
			}
		})
	}
}

// What cannot be frozen is copied all the same, and that is told.
func TestCopyNotFrozen(t *testing.T) {
	for what, spoil := range map[string]func(w *world, op string) error{
		"cannot be frozen": func(_ *world, op string) error {
			if op == "freeze" {
				return errInjected
			}
			return nil
		},
		"no console's process": func(w *world, op string) error {
			if op == "guard" {
				clear(w.console)
			}
			return nil
		},
		"thawed too early": func(w *world, op string) error {
			if op == "take" {
				clear(w.frozen)
			}
			return nil
		},
	} {
		w := newWorld(t)
		store, err := state.Open(memDir(t), memDir(t))
		if err != nil {
			t.Fatal(err)
		}
		m := w.manager(store)
		if _, err := m.Boot(context.Background(), testPlan()); err != nil {
			t.Fatal(err)
		}
		w.carried = true
		var told string
		m.Warn = func(format string, args ...any) { told += fmt.Sprintf(format, args...) }
		w.fault = func(_ int, op string, after bool) error {
			if after {
				return nil
			}
			return spoil(w, op)
		}
		if _, err := copyRoot(context.Background(), w, m); err != nil || !strings.Contains(told, "power cut") {
			t.Errorf("%s: %v, told %q", what, err, told)
		}
		if len(w.frozen) > 0 {
			t.Errorf("%s: %v is left frozen", what, w.frozen)
		}
	}
}
