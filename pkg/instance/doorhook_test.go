package instance

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// hookWith calls the hook as libvirt does, in a process that knows no libvirt. At the end
// of a container that waits for nobody.
func hookWith(t *testing.T, w *world, m *Manager, moment, id string) error {
	t.Helper()
	if begun := time.Now(); moment == HookRelease {
		defer func() {
			if took := time.Since(begun); took >= hookWait {
				t.Errorf("at the end of a container the hook waited %v", took)
			}
		}()
	}
	hooked := *m
	hooked.Domains, hooked.Volumes = nil, nil
	return hooked.Hook(t.Context(), moment, w.definition(t, id), func() (Volumes, error) { return m.Volumes, nil })
}

// TestHookStarts is virsh destroy and virsh start: the host releases what it held, and readies
// it again; whoever comes in between leaves it alone; and when libvirt's start comes to
// nothing, it goes.
func TestHookStarts(t *testing.T) {
	w, m := booted(t)
	id := find(t, m).ID
	m.Store.Wait = time.Minute
	w.domains[id].state = lxc.Shutoff
	if err := hookWith(t, w, m, HookRelease, id); err != nil {
		t.Fatal(err)
	}
	down := w.String()
	if strings.Contains(down, "mount ") || strings.Contains(down, "loop ") || find(t, m).Want != state.Down {
		t.Fatalf("after the end, wanted %s:\n%s", find(t, m).Want, down)
	}
	if err := hookWith(t, w, m, HookPrepare, id); err != nil {
		t.Fatal(err)
	}
	if len(w.mounts) != 2 || len(w.launched) != 1 || find(t, m).Pending() != state.OpLibvirt {
		t.Fatalf("prepared: %s", w)
	}
	// A set between the two is none of the start's business; libvirt still starts it.
	asked := 0
	started := startsWhenAsked{domainsFake{w}, id, &asked}
	m.Domains = started
	if err := m.Change(t.Context(), "web1", func(*state.Record) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if asked == 0 || w.domains[id].state != lxc.Running {
		t.Fatal("libvirt, which was about to start it, was not asked")
	}
	rec := find(t, m)
	if rec.Pending() != "" || rec.Want != state.Up || len(w.mounts)+len(w.launched) != 0 || len(w.console) != 1 {
		t.Errorf("after libvirt's start: %q, wanted %s\n%s", rec.Pending(), rec.Want, w)
	}
	if err := hookWith(t, w, m, HookStarted, id); err != nil {
		t.Error(err)
	}

	// A start that comes to nothing.
	m.Domains = domainsFake{w}
	w.domains[id].state = lxc.Shutoff
	w.die()
	if err := errors.Join(hookWith(t, w, m, HookRelease, id), hookWith(t, w, m, HookPrepare, id), hookWith(t, w, m, HookRelease, id)); err != nil {
		t.Fatal(err)
	}
	if got := w.String(); got != down || find(t, m).Pending() != "" {
		t.Errorf("left of a start that came to nothing (%q):\n%s\nwant\n%s", find(t, m).Pending(), got, down)
	}
}

// startsWhenAsked is a libvirt that has a start under way when it is asked.
type startsWhenAsked struct {
	domainsFake
	id    string
	asked *int
}

func (s startsWhenAsked) State(ctx context.Context, id string) (lxc.Info, error) {
	*s.asked++
	s.domains[s.id].state = lxc.Running
	return s.domainsFake.State(ctx, id)
}

// TestHookBesideCommands: the hook stands back for a command of ours that starts the
// container, and looks at what that has readied; any other is waited for, and the start
// refused. An end is never waited for: the holder sees to it.
func TestHookBesideCommands(t *testing.T) {
	w, m := booted(t)
	id := find(t, m).ID
	hold := func(op string) *state.Held {
		h, err := m.Store.Hold(t.Context(), time.Minute, id)
		if err != nil {
			t.Fatal(err)
		}
		h.Op = state.NewOperation(op)
		if err := h.Save(); err != nil {
			t.Fatal(err)
		}
		return h
	}
	h := hold(state.OpStart)
	if err := hookWith(t, w, m, HookPrepare, id); !errors.Is(err, state.ErrState) || !strings.Contains(err.Error(), "nothing is mounted at") {
		t.Errorf("a start without a root is let through: %v", err)
	}
	for i := range h.Volumes {
		if target := m.target(&h.Record, &h.Volumes[i]); target != "" {
			w.mounts[target] = "device"
		}
	}
	if err := os.Remove(m.Store.DeviceLink(id, "/dev/vdb")); err != nil {
		t.Fatal(err)
	}
	if err := hookWith(t, w, m, HookPrepare, id); !errors.Is(err, state.ErrState) || !strings.Contains(err.Error(), "does not lead to") {
		t.Errorf("a link that is not there is let through: %v", err)
	}
	clear(w.mounts)
	h.Op = state.NewOperation(state.OpDetach)
	if err := h.Save(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := hookWith(t, w, m, HookPrepare, id); !errors.Is(err, state.ErrBusy) || !strings.Contains(err.Error(), state.OpDetach) {
		t.Errorf("a start while a volume is detached: %v", err)
	}
	if took := time.Since(begun); took < hookWait || took > 4*hookWait {
		t.Errorf("it waited %v, and %v are allowed", took, hookWait)
	}
	w.domains[id].state = lxc.Shutoff
	if err := hookWith(t, w, m, HookRelease, id); err != nil {
		t.Error(err)
	}
	h.Op = nil
	if err := errors.Join(h.Save(), h.Close()); err != nil {
		t.Fatal(err)
	}

	// The end of a container while a command holds the instance.
	w.domains[id].state = lxc.Running
	err := m.Change(t.Context(), id, func(*state.Record) error {
		w.domains[id].state = lxc.Shutoff
		return hookWith(t, w, m, HookRelease, id)
	})
	if s := w.String(); err != nil || strings.Contains(s, "loop ") || find(t, m).Want != state.Down {
		t.Errorf("%v; after an end that the holder was not told of, wanted %s:\n%s", err, find(t, m).Want, s)
	}
}

// TestHookReady: beside a command of ours that starts the container, the hook lets libvirt
// go on when all is there that the definition names, and not when any of it is missing.
func TestHookReady(t *testing.T) {
	w, m := booted(t)
	id := find(t, m).ID
	h, err := m.Store.Hold(t.Context(), time.Minute, id)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	h.Op = state.NewOperation(state.OpStart)
	leads := func(to, recorded string) {
		t.Helper()
		h.Volumes[1].Loop.Path = recorded
		if err := errors.Join(h.Save(), m.Store.Link(id, "/dev/vdb", to)); err != nil {
			t.Fatal(err)
		}
	}
	root, srv, launch := m.Store.RootDir(id), m.Store.MountDir(id, "/dev/vdc"), m.Store.LaunchDir(id)
	for name, c := range map[string]struct {
		missing      string
		to, recorded string
		want         string // empty: it is let through
	}{
		"all":        {"", "/dev/null", "/dev/null", ""},
		"no root":    {root, "/dev/null", "/dev/null", "nothing is mounted at " + root},
		"no volume":  {srv, "/dev/null", "/dev/null", "nothing is mounted at " + srv},
		"no launch":  {launch, "/dev/null", "/dev/null", "nothing is mounted at " + launch},
		"another's":  {"", "/dev/zero", "/dev/null", "does not lead to /dev/null"},
		"no device":  {"", "/nowhere", "/nowhere", "is no device"},
		"not a node": {"", w.dir, w.dir, "is no device"},
	} {
		w.mounts[root], w.mounts[srv], w.launched[launch] = "device", "device", true
		delete(w.mounts, c.missing)
		delete(w.launched, c.missing)
		leads(c.to, c.recorded)
		err := hookWith(t, w, m, HookPrepare, id)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, state.ErrState) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOldDefinition: what an older lxcboot told libvirt names devices by numbers, which
// may be another instance's by now; and a rename, or a change of the host ids, may not have
// come to libvirt. The hook refuses to start that.
func TestOldDefinition(t *testing.T) {
	for words, c := range map[string]struct {
		change func(*lxc.Config)
		mended func(lxc.Config) bool
	}{
		`names "/dev/loop7"`: {func(c *lxc.Config) { c.Disks[0].Source = "/dev/loop7" }, func(c lxc.Config) bool { return !strings.HasPrefix(c.Disks[0].Source, "/dev/loop") }},
		`names "/srv"`:       {func(c *lxc.Config) { c.Filesystems[0].Source = "/srv" }, func(c lxc.Config) bool { return c.Filesystems[0].Source != "/srv" }},
		`as "before"`:        {func(c *lxc.Config) { c.Name = "before" }, func(c lxc.Config) bool { return c.Name == "web1" }},
		`not its host ids`:   {func(c *lxc.Config) { c.IDMap = &lxc.IDMap{HostID: 1, Count: 65536} }, func(c lxc.Config) bool { return c.IDMap.HostID == 1_000_000 }},
	} {
		w, m := booted(t)
		id := find(t, m).ID
		w.domains[id].state = lxc.Shutoff
		c.change(&w.domains[id].cfg)
		if err := hookWith(t, w, m, HookPrepare, id); !errors.Is(err, state.ErrState) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: prepared: %v", words, err)
		}
		if len(w.mounts) != 0 {
			t.Errorf("%s: left: %s", words, w)
		}
		if _, err := m.Start(t.Context(), "web1"); err != nil || !c.mended(w.domains[id].cfg) {
			t.Errorf("%s: start defines it anew: %+v, %v", words, w.domains[id].cfg, err)
		}
	}
}

// TestHookAfterDetach: what libvirt has of a mounted volume stays good when one before it is
// detached.
func TestHookAfterDetach(t *testing.T) {
	w, m := booted(t)
	id := find(t, m).ID
	if _, err := m.DetachVolume(t.Context(), id, "mine"); err != nil {
		t.Fatal(err)
	}
	w.domains[id].state = lxc.Shutoff
	if err := errors.Join(hookWith(t, w, m, HookRelease, id), hookWith(t, w, m, HookPrepare, id)); err != nil {
		t.Fatal(err)
	}
	all := w.domains[id].cfg.Filesystems
	for _, f := range all {
		if w.mounts[f.Source] == "" {
			t.Errorf("nothing is mounted at %s:\n%s", f.Source, w)
		}
	}
	if len(all) != 1 {
		t.Errorf("%d filesystems", len(all))
	}
}
