package instance

import (
	"context"
	"errors"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/flavor"
	"github.com/lxcboot/lxcboot/pkg/state"
)

var larger = flavor.Flavor{Name: "large", MemoryMiB: 256, VCPUs: 4}

func resize(ctx context.Context, m *Manager) error {
	_, err := m.Resize(ctx, "web1", larger)
	return err
}

// sized passes the door once more, and holds that what the record says then is so: in libvirt's
// definition, and in the container where it was limited.
func sized(t *testing.T, w *world, m *Manager) {
	t.Helper()
	if err := m.Change(t.Context(), "web1", func(*state.Record) error { return nil }); err != nil {
		t.Fatal(err)
	}
	rec := find(t, m)
	d, fl := w.domains[rec.ID], rec.Spec.Flavor
	if rec.Op != nil || d.cfg.MemoryMiB != fl.MemoryMiB || d.cfg.VCPUs != fl.VCPUs {
		t.Errorf("the flavor is %+v, the definition has %d MiB and %d CPUs; %v", fl, d.cfg.MemoryMiB, d.cfg.VCPUs, rec.Op)
	}
	if d.memoryMiB != 0 && (d.memoryMiB != fl.MemoryMiB || d.vcpus != fl.VCPUs) {
		t.Errorf("the flavor is %+v, the container has %d MiB and %d CPUs", fl, d.memoryMiB, d.vcpus)
	}
}

// TestResizeFaults strikes at every operation of a resize of a container that runs: it has the
// one flavor or the other, and as its error says.
func TestResizeFaults(t *testing.T) {
	strike(t, bootFirst(t), resize, func(t *testing.T, w *world, m *Manager, _ string, err error, crashed bool) {
		if want := map[bool]string{true: "large", false: "small"}[err == nil]; !crashed && find(t, m).Spec.Flavor.Name != want {
			t.Errorf("after %v the flavor is %s", err, find(t, m).Spec.Flavor.Name)
		}
		sized(t, w, m)
	})
}

// TestResizeStopped holds that a stopped instance has the flavor at its next start, also after
// a resize that was killed.
func TestResizeStopped(t *testing.T) {
	for _, killed := range []bool{false, true} {
		w, m := booted(t)
		if _, err := m.Stop(t.Context(), "web1", true); err != nil {
			t.Fatal(err)
		}
		w.fault = func(_ int, _ string, after bool) error {
			if killed && !after {
				panic(crash{})
			}
			return nil
		}
		if err, crashed := attempt(w, func() error { return resize(t.Context(), m) }); err != nil || crashed != killed {
			t.Fatal(err, crashed)
		}
		sized(t, w, m)
		if fl := find(t, m).Spec.Flavor; fl != larger {
			t.Errorf("killed %v: %+v", killed, fl)
		}
		if _, err := m.Start(t.Context(), "web1"); err != nil {
			t.Error(err)
		}
	}
}

func TestResizeRefused(t *testing.T) {
	w, m := booted(t)
	if err := m.Change(t.Context(), "web1", func(r *state.Record) error { r.Spec.SwapMiB = 64; return nil }); err != nil {
		t.Fatal(err)
	}
	before := w.String()
	if _, err := m.Resize(t.Context(), "web1", larger); !errors.Is(err, failure.ErrInvalid) {
		t.Errorf("a flavor without swap: %v", err)
	}
	if _, err := m.Resize(t.Context(), "web1", flavor.Flavor{Name: "none", SwapMiB: 64}); !errors.Is(err, failure.ErrInvalid) {
		t.Errorf("a flavor without memory: %v", err)
	}
	w.used = 300 << 20
	if _, err := m.Resize(t.Context(), "web1", flavor.Flavor{Name: "small", MemoryMiB: 256, VCPUs: 1, SwapMiB: 64}); !errors.Is(err, state.ErrState) {
		t.Errorf("a flavor with less memory than is in use: %v", err)
	}
	if rec := find(t, m); w.String() != before || rec.Op != nil || rec.Spec.Flavor.Name != "small" {
		t.Errorf("%s\n%+v", w, rec.Op)
	}
}
