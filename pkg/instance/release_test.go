package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// TestRelease takes a volume from a host by each kind of claim there is.
func TestRelease(t *testing.T) {
	const gone, other = "5f7c1c3e-0000-4000-8000-000000000001", "5f7c1c3e-0000-4000-8000-000000000002"
	of := func(id, instance, name, hostID, boot string) volume.Attachment {
		return volume.Attachment{ID: id, VolumeID: "more", InstanceID: instance, Host: name, HostID: hostID, BootID: boot, Status: "attached"}
	}
	n1 := of("a", gone, "n1", "id-of-n1", "boot-of-n1")
	for name, c := range map[string]struct {
		has    []volume.Attachment
		also   volume.Attachment // of another volume
		host   string
		multi  bool
		domain string // that libvirt has
		kind   error
		says   string
		left   int
		asked  bool
	}{
		"by name":                     {has: []volume.Attachment{n1}, host: "n1", asked: true},
		"by id":                       {has: []volume.Attachment{n1}, host: "id-of-n1", asked: true},
		"of an older lxcboot":         {has: []volume.Attachment{of("a", gone, "n1", "", "")}, host: "n1", asked: true},
		"never connected":             {has: []volume.Attachment{of("a", gone, "", "id-of-n1", "boot-of-n1")}, host: "id-of-n1", asked: true},
		"nobody's":                    {host: "n1"},
		"another host's":              {has: []volume.Attachment{n1}, host: "n2", kind: volume.ErrInUse, says: gone + " on n1", left: 1},
		"another program's":           {has: []volume.Attachment{of("a", "", "", "", "")}, host: "n1", kind: volume.ErrInUse, says: "somebody", left: 1},
		"another program's as well":   {has: []volume.Attachment{n1, of("b", "", "", "", "")}, host: "n1", kind: volume.ErrInUse, says: "somebody", left: 2},
		"another host's as well":      {has: []volume.Attachment{n1, of("b", other, "n2", "id-of-n2", "x")}, host: "n1", multi: true, left: 1, asked: true},
		"two hosts of a name":         {has: []volume.Attachment{n1}, also: of("b", other, "n1", "id-of-twin", "x"), host: "n1", kind: volume.ErrAmbiguous, says: "id-of-n1, id-of-twin", left: 1},
		"two hosts of a name, by id":  {has: []volume.Attachment{n1}, also: of("b", other, "n1", "id-of-twin", "x"), host: "id-of-n1", asked: true},
		"named as this host":          {has: []volume.Attachment{of("a", gone, "here", "id-of-n1", "x")}, host: "here", kind: volume.ErrAmbiguous, says: "here, id-of-n1", left: 1},
		"of this start of this host":  {has: []volume.Attachment{of("a", gone, "here", "here", "boot")}, host: "here", asked: true},
		"of a start before":           {has: []volume.Attachment{of("a", gone, "here", "here", "boot before")}, host: "here"},
		"of a copy of this host":      {has: []volume.Attachment{of("a", gone, "copy", "here", "boot before")}, host: "copy", asked: true},
		"libvirt has it":              {has: []volume.Attachment{of("a", gone, "here", "here", "boot")}, host: "here", domain: gone, kind: state.ErrState, says: "libvirt has", left: 1},
		"libvirt has it, not running": {has: []volume.Attachment{of("a", gone, "here", "here", "")}, host: "here", domain: gone, kind: state.ErrState, says: "libvirt has", left: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w, m := booted(t)
			more := w.volumes["more"]
			more.Multiattach, more.Attachments = c.multi, c.has
			if len(c.has) > 0 {
				more.Status = volume.StatusInUse
			}
			if c.also.ID != "" {
				w.volumes["also"] = &volume.Volume{ID: "also", Status: volume.StatusInUse, Attachments: []volume.Attachment{c.also}}
			}
			if c.domain != "" {
				w.domains[c.domain] = &domain{state: lxc.Shutoff}
			}
			asked := false
			_, err := m.Release(t.Context(), "more", c.host, func(Holding) error { asked = true; return nil })
			if !errors.Is(err, c.kind) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want %v", err, c.kind)
			}
			if len(more.Attachments) != c.left || asked != c.asked {
				t.Errorf("left are %+v; asked %v", more.Attachments, asked)
			}
		})
	}
}

// TestReleaseOwn: what this host has a record of, or a host runs that shares its state
// directory, is deleted or adopted, and not released.
func TestReleaseOwn(t *testing.T) {
	w, m := booted(t)
	rec := find(t, m)
	mine := w.volumes["mine"]
	for _, boot := range []string{"boot", "boot before"} {
		mine.Attachments[0].Host, mine.Attachments[0].HostID, mine.Attachments[0].BootID = "here", "here", boot
		if _, err := m.Release(t.Context(), "mine", "here", nil); !errors.Is(err, state.ErrState) || !strings.Contains(err.Error(), `"web1"`) {
			t.Errorf("of this host, %s: %v", boot, err)
		}
	}
	m.Host = host.Host{ID: "there", Name: "n2", BootID: "boot"}
	claim, err := os.Create(m.Store.ClaimPath(rec.ID))
	if err != nil || unix.Flock(int(claim.Fd()), unix.LOCK_EX) != nil {
		t.Fatal(err)
	}
	if _, err := m.Release(t.Context(), "mine", "here", nil); !errors.Is(err, state.ErrState) || !strings.Contains(err.Error(), "runs on the host here") {
		t.Errorf("it runs there: %v", err)
	}
	claim.Close()
	no := errors.New("no")
	if _, err := m.Release(t.Context(), "mine", "here", func(Holding) error { return no }); !errors.Is(err, no) || len(mine.Attachments) != 1 {
		t.Errorf("the answer was no: %v", err)
	}
	clear(w.devices) // of a host that is gone
	if _, err := m.Release(t.Context(), "mine", "here", nil); err != nil || len(mine.Attachments) != 0 {
		t.Errorf("%v, left are %+v", err, mine.Attachments)
	}
	for range 2 { // the agent of a cluster may do it again
		if _, err := m.Release(t.Context(), "mine", "here", nil); err != nil {
			t.Error(err)
		}
	}
}

// TestReleaseChanged: who came while the answer was awaited is not what was asked about.
func TestReleaseChanged(t *testing.T) {
	for name, change := range map[string]func(*volume.Volume){
		"it came back":    func(v *volume.Volume) { v.Attachments[0].BootID = "boot after" },
		"it took it anew": func(v *volume.Volume) { v.Attachments[0].ID = "b" },
	} {
		t.Run(name, func(t *testing.T) {
			w, m := booted(t)
			more := w.volumes["more"]
			more.Status = volume.StatusInUse
			more.Attachments = []volume.Attachment{{ID: "a", VolumeID: "more", InstanceID: "i", Host: "n1", HostID: "id-of-n1", BootID: "boot before"}}
			_, err := m.Release(t.Context(), "more", "n1", func(Holding) error { change(more); return nil })
			if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "meanwhile") || len(more.Attachments) != 1 {
				t.Errorf("%v; left are %+v", err, more.Attachments)
			}
		})
	}
}

// reaching is a store that says how volumes are reached.
type reaching struct{ volumesFake }

func (reaching) ConnectionOf(context.Context, string) (volume.Connection, error) {
	return volume.Connection{Driver: "rbd"}, nil
}

// TestReleaseFences has the storage keep a host out before its attachment is deleted. Where
// it cannot, that is told, and no more.
func TestReleaseFences(t *testing.T) {
	for name, fails := range map[string]bool{"it can": false, "it cannot": true} {
		t.Run(name, func(t *testing.T) {
			w, m := booted(t)
			m.Volumes = reaching{volumesFake{w}}
			w.volumes["more"].Status = volume.StatusInUse
			w.volumes["more"].Attachments = []volume.Attachment{{ID: "a", VolumeID: "more", InstanceID: "i", Host: "n1", HostID: "id-of-n1"}}
			fenced, warned := false, ""
			m.Warn = func(format string, args ...any) { warned += fmt.Sprintf(format, args...) }
			w.fault = func(_ int, op string, _ bool) error {
				fenced = fenced || op == "fence"
				if op == "fence" && fails {
					return errInjected
				}
				return nil
			}
			if _, err := m.Release(t.Context(), "more", "n1", nil); err != nil || !fenced || len(w.volumes["more"].Attachments) != 0 {
				t.Errorf("%v; fenced %v, left %+v", err, fenced, w.volumes["more"].Attachments)
			}
			if strings.Contains(warned, "must be off") != fails {
				t.Errorf("warned %q", warned)
			}
		})
	}
}

// TestPlanTellsOfRelease: who is refused a volume that another host has, or this one had before
// it was started anew, is told how it is taken from there; and nobody else is.
func TestPlanTellsOfRelease(t *testing.T) {
	for name, c := range map[string]struct {
		has  volume.Attachment
		says string // empty: nothing of it
	}{
		"another host's":     {volume.Attachment{ID: "a", InstanceID: "i", Host: "n1", HostID: "id-of-n1"}, "If that host is gone for good, 'lxcboot volume release more --host n1'"},
		"an earlier start's": {volume.Attachment{ID: "a", InstanceID: "i", Host: "here", HostID: "here", BootID: "before"}, "before this host was last started: 'lxcboot volume release more --host here'"},
		"a copy's":           {volume.Attachment{ID: "a", InstanceID: "i", Host: "n1", HostID: "here", BootID: "before"}, "If that host is gone for good, 'lxcboot volume release more --host n1'"},
		"a name in words":    {volume.Attachment{ID: "a", InstanceID: "i", Host: "n1 on x", HostID: "id-of-n1"}, "'lxcboot volume release more --host id-of-n1'"},
		"in use here":        {volume.Attachment{ID: "a", InstanceID: "i", Host: "here", HostID: "here", BootID: "boot"}, ""},
		"another program's":  {volume.Attachment{ID: "a"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w, m := booted(t)
			more := w.volumes["more"]
			more.Status, more.Bootable, more.Attachments = volume.StatusInUse, true, []volume.Attachment{c.has}
			_, err := m.Plan(t.Context(), BootRequest{Name: "web2", Blocks: bdm.Request{BootVolume: "more"}, Spec: testPlan().Spec})
			if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), c.says) || c.says == "" && strings.Contains(err.Error(), "release") {
				t.Errorf("%v; want %q", err, c.says)
			}
		})
	}
}
