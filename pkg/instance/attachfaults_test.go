package instance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/flavor"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// attachments are the ways in which an instance is given a volume.
var attachments = []struct {
	running bool
	mount   string
}{{true, ""}, {false, ""}, {true, "/data"}, {false, "/data"}}

// TestAttachFaults: an attach that fails leaves the instance as it was; one that was
// cut short is detached again; and delete works in any case.
func TestAttachFaults(t *testing.T) {
	for _, c := range attachments {
		running := c.running
		prepare := func(w *world, m *Manager) {
			w.volumes["more"] = &volume.Volume{ID: "more", Name: "more", Status: volume.StatusAvailable, Size: 1}
			bootFirst(t)(w, m)
			if !running {
				if _, err := m.Stop(context.Background(), "web1", false); err != nil {
					t.Fatal(err)
				}
			}
		}
		attach := func(ctx context.Context, m *Manager) error {
			_, err := m.AttachVolume(ctx, "web1", bdm.Mapping{Source: bdm.SourceVolume, Dest: bdm.DestVolume, ID: "more", MountPath: c.mount})
			return err
		}
		strike(t, prepare, attach, func(t *testing.T, w *world, m *Manager, before string, err error, crashed bool) {
			switch {
			case crashed:
				if _, err := m.DetachVolume(context.Background(), "web1", "more"); err != nil {
					t.Fatalf("detach after the crash: %v", err)
				}
				w.die()
			case err == nil:
				if _, err := m.DetachVolume(context.Background(), "web1", "more"); err != nil {
					t.Fatalf("detach: %v", err)
				}
			}
			if got := w.String(); got != before {
				t.Errorf("left behind:\n%s\nwant\n%s", got, before)
			}
			if _, err := m.Delete(context.Background(), "web1"); err != nil {
				t.Fatalf("delete: %v", err)
			}
			if got := w.String(); !strings.HasPrefix(got, "volume mine available 0\nvolume more available 0") {
				t.Errorf("after delete:\n%s", got)
			}
		})
	}
}

// TestVerbsAfterCut kills an attach and a detach at each operation: then each verb
// works, and a container that runs goes on running under all but those that end it.
func TestVerbsAfterCut(t *testing.T) {
	more := bdm.Mapping{Source: bdm.SourceVolume, Dest: bdm.DestVolume, ID: "more"}
	attach := func(ctx context.Context, m *Manager) error {
		_, err := m.AttachVolume(ctx, "web1", more)
		return err
	}
	detach := func(ctx context.Context, m *Manager) error {
		_, err := m.DetachVolume(ctx, "web1", "more")
		return err
	}
	verbs := []struct {
		name string
		do   func(context.Context, *Manager) error
		// refused is the kind of error that there may be: always, while the container
		// runs, and while it does not.
		refused, running, stopped error
		ends                      bool // the container may end
	}{
		{name: "start", running: state.ErrState, do: func(ctx context.Context, m *Manager) error { _, err := m.Start(ctx, "web1"); return err }},
		{name: "stop", stopped: state.ErrState, ends: true, do: func(ctx context.Context, m *Manager) error { _, err := m.Stop(ctx, "web1", true); return err }},
		{name: "reboot", ends: true, do: func(ctx context.Context, m *Manager) error { _, err := m.Reboot(ctx, "web1", true); return err }},
		{name: "attach", refused: state.ErrState, do: attach},
		{name: "detach", refused: volume.ErrNotFound, do: detach},
		{name: "rename", running: state.ErrState, do: func(ctx context.Context, m *Manager) error { return m.Rename(ctx, "web1", "web1") }},
		{name: "delete", ends: true, do: func(ctx context.Context, m *Manager) error { _, err := m.Delete(ctx, "web1"); return err }},
		{name: "repair", do: func(ctx context.Context, m *Manager) error { _, err := m.Repair(ctx); return err }},
		{name: "autostart", do: func(ctx context.Context, m *Manager) error { _, err := m.Autostart(ctx); return err }},
		{name: "set", do: func(ctx context.Context, m *Manager) error {
			return m.Change(ctx, "web1", func(r *state.Record) error {
				r.Spec.Flavor = flavor.Flavor{MemoryMiB: 64, VCPUs: 1}
				return nil
			})
		}},
	}
	for _, c := range attachments {
		running := c.running
		more.MountPath = c.mount
		for name, cut := range map[string]func(context.Context, *Manager) error{"attach": attach, "detach": detach} {
			prepare := func(w *world, m *Manager) {
				w.volumes["more"] = &volume.Volume{ID: "more", Name: "more", Status: volume.StatusAvailable, Size: 1}
				bootFirst(t)(w, m)
				var err error
				if !running {
					_, err = m.Stop(context.Background(), "web1", true)
				}
				if err == nil && name == "detach" {
					err = attach(context.Background(), m)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, verb := range verbs {
				t.Run(fmt.Sprintf("%s %v%s/%s", name, running, strings.ReplaceAll(c.mount, "/", " "), verb.name), func(t *testing.T) {
					strike(t, prepare, cut, func(t *testing.T, w *world, m *Manager, _ string, _ error, crashed bool) {
						if !crashed {
							return // it was undone, or it went well
						}
						ctx := context.Background()
						refused := verb.stopped
						if running {
							refused = verb.running
						}
						if err := verb.do(ctx, m); err != nil && !(refused != nil && errors.Is(err, refused)) && !(verb.refused != nil && errors.Is(err, verb.refused)) {
							t.Fatal(err)
						}
						if ran := strings.Contains(w.String(), lxc.Running); running && !verb.ends && !ran {
							t.Errorf("the container has ended:\n%s", w)
						}
						if verb.name == "delete" {
							if got := w.String(); got != "volume mine available 0\nvolume more available 0\nvolume web1-image available 0" {
								t.Errorf("after delete:\n%s", got)
							}
							return
						}
						_, err := m.Stop(ctx, "web1", true)
						if err = ignore(err, state.ErrState); err == nil {
							_, err = m.Start(ctx, "web1")
						}
						if err == nil {
							err = ignore(attach(ctx, m), state.ErrState)
						}
						if err == nil {
							err = detach(ctx, m)
						}
						if err == nil {
							_, err = m.Delete(ctx, "web1")
						}
						if err != nil {
							t.Errorf("afterwards: %v", err)
						}
						if got := w.String(); got != "volume mine available 0\nvolume more available 0\nvolume web1-image available 0" {
							t.Errorf("at the end:\n%s", got)
						}
					})
				})
			}
		}
	}
}

// TestCutAttachInUse kills an attach whose volume the running container has taken into use:
// it cannot be taken away again, and stays, as if nothing had cut its attach short.
func TestCutAttachInUse(t *testing.T) {
	ctx := context.Background()
	w, m := booted(t)
	id := find(t, m).ID
	more := bdm.Mapping{Source: bdm.SourceVolume, Dest: bdm.DestVolume, ID: "more"}
	w.fault = func(_ int, op string, after bool) error {
		if op == "attach disk" && after {
			panic(crash{})
		}
		return nil
	}
	if _, crashed := attempt(w, func() error { _, err := m.AttachVolume(ctx, id, more); return err }); !crashed {
		t.Fatal("the attach was not killed")
	}
	w.fault = func(_ int, op string, after bool) error {
		if op == "detach loop" && !after { // what runs in the container uses it
			return errInjected
		}
		return nil
	}
	did, err := m.Repair(ctx)
	rec := find(t, m)
	if err != nil || len(did) != 1 || !strings.Contains(did[0], "finished its volume attach") || rec.Pending() != "" || rec.Volume("more") < 0 {
		t.Errorf("repair did %q, %v; pending %q, volumes %s", did, err, rec.Pending(), rec.VolumesText())
	}
	if d := w.domains[id]; d.state != lxc.Running || len(d.cfg.Disks) != 2 || linked(d.cfg.Disks[1].Source) == "" {
		t.Errorf("the container is %s and has %+v", d.state, d.cfg.Disks)
	}
	w.fault = nil
	if _, err := m.DetachVolume(ctx, id, "more"); err != nil || len(w.domains[id].cfg.Disks) != 1 {
		t.Errorf("detach: %v", err)
	}
	if _, err := m.Delete(ctx, id); err != nil {
		t.Error(err)
	}
}
