package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/seed"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/connector"
)

// booted is a world with one instance of the test plan, and its Manager. Nothing waits
// long for a lock.
func booted(t *testing.T) (*world, *Manager) {
	t.Helper()
	w := newWorld(t)
	w.volumes["more"] = &volume.Volume{ID: "more", Name: "more", Status: volume.StatusAvailable, Size: 1}
	store, err := state.Open(memDir(t), memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	store.Wait = 50 * time.Millisecond
	m := w.manager(store)
	bootFirst(t)(w, m)
	return w, m
}

func find(t *testing.T, m *Manager) *state.Record {
	t.Helper()
	rec, err := m.Store.Find("web1")
	if err != nil {
		t.Fatal(err)
	}
	return &rec
}

// definition is what libvirt has of an instance, as its hook is told.
func (w *world) definition(t *testing.T, id string) lxc.Domain {
	t.Helper()
	text, err := w.domains[id].cfg.XML()
	if err != nil {
		t.Fatal(err)
	}
	dom, err := lxc.ParseDomain(text)
	if err != nil {
		t.Fatal(err)
	}
	return dom
}

// verbs are what changes an instance; each is as its command calls it.
var verbs = map[string]func(context.Context, *Manager) error{
	"start":  func(ctx context.Context, m *Manager) error { _, err := m.Start(ctx, "web1"); return err },
	"stop":   func(ctx context.Context, m *Manager) error { _, err := m.Stop(ctx, "web1", true); return err },
	"reboot": func(ctx context.Context, m *Manager) error { _, err := m.Reboot(ctx, "web1", true); return err },
	"delete": func(ctx context.Context, m *Manager) error { _, err := m.Delete(ctx, "web1"); return err },
	"rename": func(ctx context.Context, m *Manager) error { return m.Rename(ctx, "web1", "web2") },
	"set": func(ctx context.Context, m *Manager) error {
		return m.Change(ctx, "web1", func(*state.Record) error { return nil })
	},
	"attach": func(ctx context.Context, m *Manager) error {
		_, err := m.AttachVolume(ctx, "web1", bdm.Mapping{Source: bdm.SourceVolume, Dest: bdm.DestVolume, ID: "more"})
		return err
	},
	"detach": func(ctx context.Context, m *Manager) error { _, err := m.DetachVolume(ctx, "web1", "mine"); return err },
	"undo":   func(ctx context.Context, m *Manager) error { return m.Undo(ctx, "web1") },
}

// TestHolderStands has every verb meet another process that holds the instance and does
// not go on: it is refused when its time is up, and names what that one does.
func TestHolderStands(t *testing.T) {
	w, m := booted(t)
	h, err := m.Store.Hold(t.Context(), time.Minute, "web1")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	h.Op = state.NewOperation(state.OpStop)
	if err := h.Save(); err != nil {
		t.Fatal(err)
	}
	before := w.String()
	for name, do := range verbs {
		if err := do(t.Context(), m); !errors.Is(err, state.ErrBusy) || !strings.Contains(err.Error(), "stop is under way") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if did, err := m.Repair(t.Context()); err != nil || len(did) != 0 {
		t.Errorf("repair did %q, %v", did, err)
	}
	if started, err := m.Autostart(t.Context()); err != nil || len(started) != 0 {
		t.Errorf("autostart started %q, %v", started, err)
	}
	if v, err := m.Show(t.Context(), "web1"); err != nil || !strings.Contains(v.Note, "busy: stop") {
		t.Errorf("show: %q, %v", v.Note, err)
	}
	if after := w.String(); after != before {
		t.Errorf("it changed\n%s\nto\n%s", before, after)
	}
}

// TestChangedBeforeTheLock has an instance change between the look that found it and the
// lock: what was read first decides nothing.
func TestChangedBeforeTheLock(t *testing.T) {
	w, m := booted(t)
	h, err := m.Store.Hold(t.Context(), time.Minute, "web1")
	if err != nil {
		t.Fatal(err)
	}
	h.Phase, h.Op = state.Building, state.NewOperation(state.OpBoot) // as while it is booted
	if err := h.Save(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	m.Store.Wait = time.Minute
	go func() {
		_, err := m.Stop(context.Background(), "web1", true)
		done <- err
	}()
	time.Sleep(20 * time.Millisecond) // it has read by now, or reads later: either must do
	h.Phase, h.Op = state.Built, nil
	if err := errors.Join(h.Save(), h.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("a stop that came while the boot ended: %v", err)
	}
	if rec := find(t, m); rec.Want != state.Down || strings.Contains(w.String(), lxc.Running) {
		t.Errorf("wanted %s:\n%s", rec.Want, w)
	}
}

// TestChangedSinceListed has an instance change while repair and autostart, which go through
// all of them, are at the one before it: what they read of it first decides nothing.
func TestChangedSinceListed(t *testing.T) {
	boots := func(r *state.Record) { r.Phase, r.Op = state.Building, state.NewOperation(state.OpBoot) }
	wentWell := func(r *state.Record) { r.Phase, r.Op = state.Built, nil }
	pending := func(op string) func(*state.Record) {
		return func(r *state.Record) { r.Op = state.NewOperation(op) }
	}
	ended := func(r *state.Record) { r.BootID = "an earlier one" }
	for name, c := range map[string]struct {
		first, second func(*state.Record) // as they are listed
		at            string              // the operation on the first one at which the second changes
		meanwhile     func(*state.Record)
		runs          bool // the containers, before
		want          bool // the second one's, after
	}{
		"a boot that ends well under repair": {pending(state.OpStop), boots, "destroy", wentWell, true, true},
		"a stop that ends, and a start":      {pending(state.OpStop), pending(state.OpStop), "destroy", wentWell, true, true},
		"stopped under autostart":            {ended, ended, "start", func(r *state.Record) { r.Want = state.Down }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, m := booted(t)
			plan := testPlan()
			plan.Name, plan.Mappings = "web2", plan.Mappings[:1]
			if _, err := m.Boot(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
			set := func(name string, change func(*state.Record)) {
				t.Helper()
				h, err := m.Store.Hold(t.Context(), time.Minute, name)
				if err != nil {
					t.Fatal(err)
				}
				change(&h.Record)
				if err := errors.Join(h.Save(), h.Close()); err != nil {
					t.Fatal(err)
				}
			}
			set("web1", c.first)
			set("web2", c.second)
			if !c.runs {
				for _, d := range w.domains {
					d.state = lxc.Shutoff
				}
			}
			changed := false
			w.fault = func(_ int, op string, after bool) error {
				if op == c.at && !after && !changed {
					changed = true
					set("web2", c.meanwhile)
				}
				return nil
			}
			var did []string
			var err error
			if c.runs {
				did, err = m.Repair(t.Context())
			} else {
				did, err = m.Autostart(t.Context())
			}
			if err != nil || len(did) != 1 || !strings.Contains(did[0], "web1") || !changed {
				t.Errorf("did %q, %v; changed %v", did, err, changed)
			}
			second, err := m.Show(t.Context(), "web2")
			if err != nil || (second.Status == StatusActive) != c.want {
				t.Errorf("the second one is %s, %v", second.Status, err)
			}
		})
	}
}

// TestOtherHost has every verb refuse another host's instance, which is shown, and
// adopt take it over when nothing there holds it.
func TestOtherHost(t *testing.T) {
	w, m := booted(t)
	n1 := m.Host
	m.Host = host.Host{ID: "there", Name: "n2", BootID: "other boot"}
	before := w.String()
	for name, do := range verbs {
		if err := do(t.Context(), m); !errors.Is(err, state.ErrState) || !strings.Contains(err.Error(), "of the host here (here), and this is n2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	did, err := m.Repair(t.Context())
	started, err2 := m.Autostart(t.Context())
	if err := errors.Join(err, err2, m.Ended(t.Context(), find(t, m).ID, nil)); err != nil || len(did)+len(started) != 0 {
		t.Errorf("repair did %q, autostart %q, %v", did, started, err)
	}
	if v, err := m.Show(t.Context(), "web1"); err != nil || v.Status != StatusUnknown || !strings.Contains(v.Note, "host here") {
		t.Errorf("show: %s %q, %v", v.Status, v.Note, err)
	}
	if err := m.Hook(t.Context(), HookPrepare, w.definition(t, find(t, m).ID), nil); !errors.Is(err, state.ErrState) {
		t.Errorf("the hook: %v", err)
	}
	if after := w.String(); after != before {
		t.Errorf("changed\n%s\nto\n%s", before, after)
	}

	// Its console's process has the claim as long as the container runs there.
	id := find(t, m).ID
	claim, err := os.Create(m.Store.ClaimPath(id))
	if err != nil || unix.Flock(int(claim.Fd()), unix.LOCK_EX) != nil {
		t.Fatal(err)
	}
	if err := m.Adopt(t.Context(), "web1"); !errors.Is(err, state.ErrState) || !strings.Contains(err.Error(), "runs on the host here") {
		t.Errorf("adopted while it runs there: %v", err)
	}
	claim.Close()
	// The host went down.
	clear(w.loops)
	clear(w.devices)
	clear(w.console)
	w.domains[id].state = lxc.Shutoff
	if adopted, err := m.AdoptAll(t.Context()); err != nil || len(adopted) != 1 {
		t.Fatalf("adopted %q, %v", adopted, err)
	}
	if started, err := m.Autostart(t.Context()); err != nil || len(started) != 1 {
		t.Errorf("autostart started %q, %v", started, err)
	}
	back := *m
	back.Host = n1
	if _, err := back.Delete(t.Context(), "web1"); !errors.Is(err, state.ErrState) {
		t.Errorf("the host that had it may delete it: %v", err)
	}
	if _, err := m.Delete(t.Context(), "web1"); err != nil {
		t.Error(err)
	}
}

// TestHostOfOldRecord: a record of version 1 has no host id, and is the host's whose name it
// has.
func TestHostOfOldRecord(t *testing.T) {
	for name, ours := range map[string]bool{"here": true, "n1": false, "": false} {
		_, m := booted(t)
		h, err := m.Store.Hold(t.Context(), m.Store.Wait, "web1")
		if err != nil {
			t.Fatal(err)
		}
		h.Host = host.Host{Name: name}
		if err := errors.Join(h.Save(), h.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Stop(t.Context(), "web1", true); ours && err != nil || !ours && !errors.Is(err, state.ErrState) {
			t.Errorf("of %q: %v", name, err)
		}
	}
}

// remote is a store whose volumes may be attached to hosts that do not see the records.
type remote struct{ volumesFake }

func (remote) Remote() bool { return true }

// TestAdoptHeld: an instance is not adopted whose volume another one has, nor one that the
// store of its volumes shows to be attached to its host.
func TestAdoptHeld(t *testing.T) {
	w, m := booted(t)
	rec := find(t, m)
	m.Host = host.Host{ID: "there", Name: "n2"}
	m.Volumes = remote{volumesFake{w}}
	w.domains[rec.ID].state = lxc.Shutoff
	mine := w.volumes["mine"]
	was := mine.Attachments
	for want, a := range map[string]volume.Attachment{
		"is held by instance another on the host n3": {ID: "new", InstanceID: "another", Host: "n3", HostID: "n3"},
		"is attached to the host here":               {ID: was[0].ID, InstanceID: rec.ID, Host: "here", HostID: "here"},
	} {
		mine.Attachments = []volume.Attachment{a}
		if err := m.Adopt(t.Context(), "web1"); !errors.Is(err, state.ErrState) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
		if now := find(t, m); now.Host.ID != "here" || len(mine.Attachments) != 1 {
			t.Errorf("%q: it is of %s now, and the volume has %v", want, now.Host.ID, mine.Attachments)
		}
	}
}

// TestTakenOver has a volume that goes with its instance be attached to another one, or by
// another attachment or host: the delete of the first leaves it alone.
func TestTakenOver(t *testing.T) {
	for name, taken := range map[string]func(*volume.Attachment){
		"another instance":   func(a *volume.Attachment) { a.ID, a.InstanceID = "new", "another" },
		"another attachment": func(a *volume.Attachment) { a.ID = "new" },
		"another host":       func(a *volume.Attachment) { a.Host, a.HostID = "n2", "there" },
	} {
		t.Run(name, func(t *testing.T) {
			w, m := booted(t)
			blank := find(t, m).Volumes[2]
			if !blank.Mapping.DeleteOnTermination {
				t.Fatal("the third volume is not one that goes with the instance")
			}
			taken(&w.volumes[blank.VolumeID].Attachments[0])
			var warned []string
			m.Warn = func(format string, _ ...any) { warned = append(warned, format) }
			if _, err := m.Delete(t.Context(), "web1"); err != nil {
				t.Fatal(err)
			}
			if v := w.volumes[blank.VolumeID]; v == nil || name == "another instance" && len(v.Attachments) != 1 || len(warned) != 1 {
				t.Errorf("volume %+v, warned %q", v, warned)
			}
		})
	}
}

// TestAttachmentGone has somebody else delete the attachment of a volume that stays: the
// delete says so, and goes through.
func TestAttachmentGone(t *testing.T) {
	w, m := booted(t)
	v := find(t, m).Volumes[0]
	w.volumes[v.VolumeID].Attachments = nil
	var warned []string
	m.Warn = func(format string, args ...any) { warned = append(warned, fmt.Sprintf(format, args...)) }
	if _, err := m.Delete(t.Context(), "web1"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(warned, "\n"), "attachment "+v.AttachmentID+" is gone") {
		t.Errorf("warned of %q", warned)
	}
}

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

// TestEnded: the status of an init is noted by the process that kept that container's
// console, and by no process of an earlier life.
func TestEnded(t *testing.T) {
	w, m := booted(t)
	id := find(t, m).ID
	self, err := proc.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	status := uint32(3 << 8)
	w.domains[id].state = lxc.Shutoff
	earlier := find(t, m).Console
	if err := m.Ended(t.Context(), id, &status); err != nil || find(t, m).Exit != nil {
		t.Errorf("an earlier life's status was noted: %+v, %v", find(t, m).Exit, err)
	}
	if _, err := m.Start(t.Context(), id); err != nil || earlier == self {
		t.Fatal(err)
	}
	if err := m.Change(t.Context(), id, func(r *state.Record) error { r.Console = self; w.console[self.PID] = id; return nil }); err != nil {
		t.Fatal(err)
	}
	w.domains[id].state = lxc.Shutoff
	if err := m.Ended(t.Context(), id, &status); err != nil {
		t.Fatal(err)
	}
	if e := find(t, m).Exit; e == nil || e.Code() != 3 || find(t, m).Want != state.Down {
		t.Errorf("exit %+v, wanted %s", e, find(t, m).Want)
	}
	// What ends because the host goes down is wanted up.
	if _, err := m.Start(t.Context(), id); err != nil || find(t, m).Exit != nil {
		t.Fatalf("%v; exit %+v of a running container", err, find(t, m).Exit)
	}
	m.Stopping = func(context.Context) bool { return true }
	w.domains[id].state = lxc.Shutoff
	if err := m.Ended(t.Context(), id, nil); err != nil || find(t, m).Want != state.Up {
		t.Errorf("wanted %s, %v", find(t, m).Want, err)
	}
}

// TestConsoleGone: show says that a running container's console is kept by nobody, and
// repair and autostart mend it.
func TestConsoleGone(t *testing.T) {
	for name, mend := range map[string]func(context.Context, *Manager) ([]string, error){
		"repair": func(ctx context.Context, m *Manager) ([]string, error) { return m.Repair(ctx) },
		"autostart": func(ctx context.Context, m *Manager) ([]string, error) {
			_, err := m.Autostart(ctx)
			return []string{"console"}, err
		},
	} {
		w, m := booted(t)
		clear(w.console)
		if v, err := m.Show(t.Context(), "web1"); err != nil || v.Status != StatusActive || !strings.Contains(v.Note, "console") {
			t.Errorf("show: %s %q, %v", v.Status, v.Note, err)
		}
		if did, err := mend(t.Context(), m); err != nil || !strings.Contains(strings.Join(did, ""), "console") || len(w.console) != 1 {
			t.Errorf("%s did %q, %v: %v", name, did, err, w.console)
		}
		if v, err := m.Show(t.Context(), "web1"); err != nil || v.Note != "" {
			t.Errorf("show: %q, %v", v.Note, err)
		}
	}
}

// TestRunIsItsCallers: what `run` booted is never autostarted, and `run --rm` that was
// killed is cleaned up after by repair, which leaves a living one's alone.
func TestRunIsItsCallers(t *testing.T) {
	w, m := booted(t)
	m.Host.BootID, _ = host.BootID()
	caller, err := state.CallerRunning(true)
	if err != nil {
		t.Fatal(err)
	}
	set := func(c state.Caller) {
		t.Helper()
		if err := m.Change(t.Context(), "web1", func(r *state.Record) error {
			r.Caller, r.Want, r.BootID = c, state.Up, m.Host.BootID
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	set(caller)
	if did, err := m.Repair(t.Context()); err != nil || len(did) != 0 {
		t.Errorf("of a run that lives, repair did %q, %v", did, err)
	}
	w.domains[find(t, m).ID].state = lxc.Shutoff
	set(caller)
	if started, err := m.Autostart(t.Context()); err != nil || len(started) != 0 {
		t.Errorf("autostart started %q, %v", started, err)
	}
	caller.Proc.Start++ // another process of that number
	set(caller)
	if did, err := m.Repair(t.Context()); err != nil || len(did) != 1 || len(records(t, m)) != 0 {
		t.Errorf("of a run that was killed, repair did %q, %v", did, err)
	}
}

// TestFullDisk: the instance that fills the disk can be stopped and deleted.
func TestFullDisk(t *testing.T) {
	for name, end := range map[string]func(context.Context, *Manager) error{
		"stop":   func(ctx context.Context, m *Manager) error { _, err := m.Stop(ctx, "web1", false); return err },
		"delete": func(ctx context.Context, m *Manager) error { _, err := m.Delete(ctx, "web1"); return err },
		"end":    func(ctx context.Context, m *Manager) error { return m.Ended(ctx, find(t, m).ID, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(dir, unix.MNT_DETACH)
			w := newWorld(t)
			store, err := state.Open(dir, memDir(t))
			if err != nil {
				t.Fatal(err)
			}
			m := w.manager(store)
			bootFirst(t)(w, m)
			var warned []string
			m.Warn = func(format string, args ...any) { warned = append(warned, format) }
			fill, err := os.Create(filepath.Join(dir, "fill"))
			if err != nil {
				t.Fatal(err)
			}
			defer fill.Close()
			for err == nil {
				_, err = fill.Write(make([]byte, 4096))
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			if name == "end" {
				w.domains[find(t, m).ID].state = lxc.Shutoff
			}
			if err := end(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			for _, held := range []string{"mount ", "loop ", lxc.Running} {
				if strings.Contains(w.String(), held) {
					t.Errorf("it holds on: %s", w)
				}
			}
			if (len(warned) == 0) != (name == "delete") {
				t.Errorf("warned: %q", warned)
			}
			os.Remove(fill.Name())
			if _, err := m.Delete(t.Context(), "web1"); err != nil && name != "delete" {
				t.Error(err)
			}
			if got := w.String(); got != afterDelete {
				t.Errorf("left behind:\n%s\nwant\n%s", got, afterDelete)
			}
		})
	}
}

// localDevices are files of this host's, of which nothing has to be acquired.
type localDevices struct{ devicesFake }

func (d localDevices) Prepare(ctx context.Context, req connector.Request) (connector.Device, error) {
	dev, err := d.devicesFake.Prepare(ctx, req)
	dev.Driver = "local"
	return dev, err
}

func (d localDevices) Connect(ctx context.Context, _ connector.Request, dev connector.Device) (connector.Device, error) {
	return dev, d.do(ctx, "connect device", func() error { return os.WriteFile(dev.Path, nil, 0o600) })
}

// TestSeedKept: what the seed's files replaced on a volume that the user brought comes
// back when the boot fails, however far it came, or was killed before the container ran.
func TestSeedKept(t *testing.T) {
	plan := testPlan()
	plan.Mappings = plan.Mappings[1:2]
	plan.Mappings[0].BootIndex, plan.Mappings[0].DeviceName = new(int), "/dev/vda"
	plan.Spec.Seed = seed.Seed{Hostname: "web1", Files: []seed.File{{Path: "/big", Data: make([]byte, 1<<20), Mode: 0o600}}}
	boot := func(ctx context.Context, m *Manager) error {
		_, err := m.Boot(ctx, plan)
		return err
	}
	// A device that is only a path of this host's is on disk with the record alone.
	local := func(w *world, m *Manager) { m.Devices = localDevices{devicesFake{w}} }
	strike(t, local, boot, func(t *testing.T, w *world, m *Manager, before string, err error, crashed bool) {
		ran := strings.Contains(w.String(), lxc.Running)
		kept := 0 // more than were written, at any time
		for n, op := range w.ops {
			switch op {
			case "keep file":
				kept++
			case "write file":
				if kept--; kept < 0 {
					t.Errorf("operation %d writes a file that was not kept", n)
				}
			}
		}
		if crashed && len(records(t, m)) == 1 {
			if _, err := m.Delete(context.Background(), "web1"); err != nil {
				t.Fatalf("delete after the crash: %v", err)
			}
		} else if err == nil {
			info, err := os.Stat(filepath.Join(m.Store.Dir(find(t, m).ID), "record.json"))
			if err != nil || info.Size() > 16<<10 {
				t.Errorf("the record has %d bytes, %v", info.Size(), err)
			}
			if _, err := m.Delete(context.Background(), "web1"); err != nil {
				t.Fatal(err)
			}
		}
		w.die()
		if len(w.kept) != 0 || w.forgot && (!ran && crashed || !crashed && err != nil) {
			t.Errorf("not put back, and forgotten: %v; kept: %v", w.forgot, w.kept)
		}
		if got := w.String(); got != before {
			t.Errorf("left behind:\n%s\nwant\n%s", got, before)
		}
	})
}

// TestAutostopThenEnded: of a container that was ended because the host goes down, the
// process that kept its console hands in the status when that is over already, and others
// look at it; all this may come when nothing says any more that the host goes down.
func TestAutostopThenEnded(t *testing.T) {
	for name, cut := range map[string]bool{"in full": false, "killed meanwhile": true} {
		t.Run(name, func(t *testing.T) {
			w, m := booted(t)
			id := find(t, m).ID
			self, err := proc.Of(os.Getpid())
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Change(t.Context(), id, func(r *state.Record) error { r.Console = self; w.console[self.PID] = id; return nil }); err != nil {
				t.Fatal(err)
			}
			if cut {
				h, err := m.Store.Hold(t.Context(), time.Minute, id)
				if err != nil {
					t.Fatal(err)
				}
				h.Op = state.NewOperation(state.OpAutostop)
				if err := errors.Join(h.Save(), h.Close()); err != nil {
					t.Fatal(err)
				}
				w.domains[id].state = lxc.Shutoff
			} else if stopped, err := m.Autostop(t.Context()); err != nil || len(stopped) != 1 {
				t.Fatalf("stopped %q, %v", stopped, err)
			}
			status := uint32(0)
			if err := m.Ended(t.Context(), id, &status); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Repair(t.Context()); err != nil {
				t.Fatal(err)
			}
			if rec := find(t, m); rec.Want != state.Up || rec.Pending() != "" || rec.Exit == nil {
				t.Errorf("wanted %s, pending %q, exit %+v", rec.Want, rec.Pending(), rec.Exit)
			}
			if started, err := m.Autostart(t.Context()); err != nil || len(started) != 1 {
				t.Errorf("started %q, %v", started, err)
			}
		})
	}
}

// TestAutostopGivenUp: the host stays, and so does the container.
func TestAutostopGivenUp(t *testing.T) {
	w, m := booted(t)
	h, err := m.Store.Hold(t.Context(), time.Minute, "web1")
	if err != nil {
		t.Fatal(err)
	}
	h.Op = state.NewOperation(state.OpAutostop)
	if err := errors.Join(h.Save(), h.Close()); err != nil {
		t.Fatal(err)
	}
	did, err := m.Repair(t.Context())
	if rec := find(t, m); err != nil || len(did) != 1 || rec.Want != state.Up || rec.Pending() != "" || !strings.Contains(w.String(), lxc.Running) {
		t.Errorf("did %q, %v; wanted %s, pending %q:\n%s", did, err, rec.Want, rec.Pending(), w)
	}
}

// TestAutostop: what is stopped because the host goes down is started when it comes up.
func TestAutostop(t *testing.T) {
	w, m := booted(t)
	for range 2 { // the second time there is nothing to stop
		if _, err := m.Autostop(t.Context()); err != nil {
			t.Fatal(err)
		}
		rec := find(t, m)
		if s := w.String(); strings.Contains(s, lxc.Running) || strings.Contains(s, "loop ") || rec.Want != state.Up || rec.Pending() != "" {
			t.Fatalf("wanted %s, %q:\n%s", rec.Want, rec.Pending(), s)
		}
		m.Host.BootID += " and again"
	}
	if started, err := m.Autostart(t.Context()); err != nil || len(started) != 1 {
		t.Errorf("started %q, %v", started, err)
	}
	if _, err := m.Stop(t.Context(), "web1", true); err != nil {
		t.Fatal(err)
	}
	if stopped, err := m.Autostop(t.Context()); err != nil || len(stopped) != 0 || find(t, m).Want != state.Down {
		t.Errorf("stopped %q, %v", stopped, err)
	}
}
