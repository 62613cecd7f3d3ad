package instance

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/state"
)

// TestRangeIsAnothers has an instance of another state directory take an instance's host
// ids after the host has restarted: a start gives it others, and libvirt, whose definition
// names the old ones, is refused.
func TestRangeIsAnothers(t *testing.T) {
	ctx := t.Context()
	w, m := booted(t)
	if _, err := m.Stop(ctx, "web1", false); err != nil {
		t.Fatal(err)
	}
	was := find(t, m)
	before := w.String()

	store, err := state.Open(memDir(t), memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	m.Store.Registry = filepath.Join(t.TempDir(), "ids")
	store.Registry = m.Store.Registry
	pool, _ := m.IDs()
	other, err := store.Create(ctx, state.Record{Version: state.Version, ID: "0b9ff5f0-6d5c-4a0e-8a43-9f3a52d0c9ba", Name: "other"}, pool, nil)
	if err != nil || other.IDs != was.IDs {
		t.Fatalf("%+v, %v", other, err)
	}
	defer other.Close()

	if err := hookWith(t, w, m, HookPrepare, was.ID); !errors.Is(err, state.ErrState) || !strings.Contains(err.Error(), "gives it others") {
		t.Errorf("a start by libvirt: %v", err)
	}
	if now := find(t, m); now.Op != nil || now.IDs != was.IDs || w.String() != before {
		t.Errorf("refused, and it has %+v, %+v\n%s", now.Op, now.IDs, w)
	}
	if _, err := m.Start(ctx, "web1"); err != nil {
		t.Fatal(err)
	}
	now := find(t, m)
	if now.IDs.Overlaps(other.IDs) || w.domains[was.ID].cfg.IDMap.HostID != now.IDs.First || now.Op != nil {
		t.Errorf("started with %+v, and defined with %+v", now.IDs, w.domains[was.ID].cfg.IDMap)
	}
	if _, err := m.Delete(ctx, "web1"); err != nil {
		t.Fatal(err)
	}
	if err := other.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(m.Store.Registry); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ids are still taken: %v", err)
	}
}
