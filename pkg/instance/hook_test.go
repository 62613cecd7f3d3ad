package instance

import (
	"context"
	"regexp"
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
