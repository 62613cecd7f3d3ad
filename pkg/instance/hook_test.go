package instance

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// TestHook has libvirt start and end a container by itself, with its hook alone taking
// part: what it prepares is there when libvirt starts the container, and goes with it.
func TestHook(t *testing.T) {
	ctx := context.Background()
	w, m := booted(t)
	id := find(t, m).ID
	seen := func() string { return regexp.MustCompile(`(console|loop) \d+`).ReplaceAllString(w.String(), "$1") }
	up := seen()
	hook := func(moment string) {
		t.Helper()
		h := w.manager(m.Store)
		h.Domains = nil
		cfg := w.domains[id].cfg
		dom := lxc.Domain{ID: id, Name: cfg.Name, Filesystems: cfg.Filesystems, Disks: cfg.Disks, IDMap: cfg.IDMap}
		if err := h.Hook(ctx, moment, dom, func() (Volumes, error) { return m.Volumes, nil }); err != nil {
			t.Fatalf("%s: %v", moment, err)
		}
	}
	end := func() {
		t.Helper()
		w.domains[id].state = lxc.Shutoff
		w.die()
		hook(HookRelease)
	}
	if _, err := m.Stop(ctx, "web1", false); err != nil {
		t.Fatal(err)
	}
	down := seen()
	for range 2 {
		hook(HookPrepare)
		if _, err := m.Domains.Start(ctx, id); err != nil {
			t.Fatalf("what the hook prepared is not there: %v", err)
		}
		hook(HookStarted)
		if now := seen(); now != up {
			t.Errorf("started by libvirt:\n%s\nwant\n%s", now, up)
		}
		if r, err := m.Store.Find(id); err != nil || r.Op != nil || r.Want != state.Up {
			t.Errorf("started by libvirt, and the record says %v %q, %v", r.Op, r.Want, err)
		}
		end()
		if now := seen(); now != down {
			t.Errorf("ended:\n%s\nwant\n%s", now, down)
		}
	}
}

// TestHookWithoutLibvirt: the hook, which knows no libvirt, meets every operation that was
// cut short, and a host on which each thing that it does fails: it does what it can, and
// what it could not do is done by who comes next.
func TestHookWithoutLibvirt(t *testing.T) {
	call := func(t *testing.T, w *world, m *Manager, moment, id string) error {
		t.Helper()
		defer func() {
			if r := recover(); r != nil {
				t.Errorf("%s: %v", moment, r)
			}
		}()
		return hookWith(t, w, m, moment, id)
	}
	for _, op := range []string{state.OpStart, state.OpStop, state.OpReboot, state.OpAttach, state.OpDetach, state.OpRename, state.OpResize, state.OpLibvirt, state.OpAutostop} {
		for _, moment := range []string{HookPrepare, HookStarted, HookRelease} {
			for _, running := range []bool{true, false} {
				if running == (moment == HookPrepare) {
					continue
				}
				w, m := booted(t)
				id := find(t, m).ID
				h, err := m.Store.Hold(t.Context(), m.Store.Wait, id)
				if err != nil {
					t.Fatal(err)
				}
				h.Op = state.NewOperation(op)
				h.Op.Volume = "mine"
				if err := errors.Join(h.Save(), h.Close()); err != nil {
					t.Fatal(err)
				}
				if !running {
					w.domains[id].state = lxc.Shutoff
				}
				// What libvirt has of a volume that was cut short, the hook cannot change.
				cut := moment == HookPrepare && (op == state.OpAttach || op == state.OpDetach)
				if err := call(t, w, m, moment, id); err != nil && !(cut && errors.Is(err, state.ErrState)) {
					t.Errorf("%s after %s was cut short, running %v: %v", moment, op, running, err)
				}
				if ran := w.domains[id].state == lxc.Running; ran != running {
					t.Errorf("%s after %s was cut short: running %v, and it was %v", moment, op, ran, running)
				}
			}
		}
	}
	for n := 0; ; n++ {
		w, m := booted(t)
		id := find(t, m).ID
		w.domains[id].state = lxc.Shutoff
		w.ops = nil
		w.fault = func(i int, _ string, after bool) error {
			if i == n && !after {
				return errInjected
			}
			return nil
		}
		err := call(t, w, m, HookRelease, id)
		w.fault = nil
		if n >= len(w.ops) {
			if n < 2 || err != nil {
				t.Errorf("a release does only %d things, %v", n, err)
			}
			return
		}
		if !errors.Is(err, errInjected) {
			t.Errorf("%s fails, and the release says %v", w.ops[n], err)
		}
		if _, err := m.Repair(t.Context()); err != nil || strings.Contains(w.String(), "loop ") || strings.Contains(w.String(), "groups ") || find(t, m).Want != state.Down {
			t.Errorf("after a release that failed (%s) repair leaves, wanted %s, %v:\n%s", w.ops[n], find(t, m).Want, err, w)
		}
	}
}
