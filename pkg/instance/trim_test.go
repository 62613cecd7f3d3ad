package instance

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// TestTrim: what is trimmed of a running instance, of one that is stopped, and of another
// host's, and what is told of the rest.
func TestTrim(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	store, err := state.Open(memDir(t), memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	m := w.manager(store)
	refused := func(kind error, text string) {
		t.Helper()
		w.ops = nil
		if _, err := m.TrimVolume(ctx, "mine"); !errors.Is(err, kind) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, and not %q", err, text)
		}
		if slices.Contains(w.ops, "trim") {
			t.Errorf("it did %q", w.ops)
		}
	}
	refused(volume.ErrConflict, "no instance here has it") // of a store whose volumes are no files
	if _, err := m.Boot(ctx, growPlan()); err != nil {
		t.Fatal(err)
	}
	// The fake's kernel finds nothing mounted.
	refused(volume.ErrConflict, "it is not mounted any more")
	all, err := m.TrimAll(ctx)
	if err != nil || len(all) == 0 || all[0].VolumeID != "mine" || all[0].Instance != "web1" || all[0].Skipped != "it is not mounted any more" {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := m.Stop(ctx, "web1", true); err != nil {
		t.Fatal(err)
	}
	if all, err := m.TrimAll(ctx); len(all) != 0 || err != nil {
		t.Errorf("of one that is stopped: %+v, %v", all, err)
	}
	if got, err := m.TrimVolume(ctx, "mine"); err != nil || got.Discarded != 4096 || got.Skipped != "" {
		t.Errorf("%+v, %v", got, err)
	}
	m.Host.ID, m.Host.Name = "other", "other"
	refused(state.ErrState, "is of the host")
	if all, err := m.TrimAll(ctx); len(all) == 0 || !strings.Contains(all[0].Skipped, "of the host") || err != nil {
		t.Errorf("of another host's: %+v, %v", all, err)
	}
}
