package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
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
	"resize": func(ctx context.Context, m *Manager) error {
		_, err := m.Resize(ctx, "web1", larger)
		return err
	},
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
	_, err3 := m.Ended(t.Context(), find(t, m).ID, nil)
	if err := errors.Join(err, err2, err3); err != nil || len(did)+len(started) != 0 {
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
