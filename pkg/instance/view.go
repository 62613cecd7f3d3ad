package instance

import (
	"context"
	"fmt"

	"github.com/lxcboot/lxcboot/pkg/lxc"
)

// Status words of an instance, as Nova spells them.
const (
	StatusBuild   = "BUILD"
	StatusActive  = "ACTIVE"
	StatusPaused  = "PAUSED"
	StatusShutoff = "SHUTOFF"
	StatusError   = "ERROR"
	StatusReboot  = "REBOOT"
	StatusDeleted = "DELETING"
)

// Statuses are all status words.
var Statuses = []string{StatusBuild, StatusActive, StatusPaused, StatusShutoff, StatusError, StatusReboot, StatusDeleted}

// View is an instance as it is now: its record, and what libvirt says of it.
type View struct {
	Record
	Status string
	Domain lxc.Info // zero when libvirt does not know it
	Note   string   // what is amiss, in words; empty when nothing is
}

// Show looks at one instance, by id or by name.
func (m *Manager) Show(ctx context.Context, ref string) (View, error) {
	rec, err := m.Store.Find(ref)
	if err != nil {
		return View{}, err
	}
	return m.view(ctx, rec)
}

// List looks at every instance, sorted by name. Damaged records are in the
// error, and the others are still returned.
func (m *Manager) List(ctx context.Context) ([]View, error) {
	records, damaged := m.Store.List()
	var views []View
	for _, rec := range records {
		v, err := m.view(ctx, rec)
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, damaged
}

func (m *Manager) view(ctx context.Context, rec Record) (View, error) {
	// Whether some process works on it comes first: the other way round, an
	// operation that ends in between would look cut short.
	busy := m.Store.Held(rec.ID)
	info, err := m.Domains.State(ctx, rec.ID)
	if err = ignore(err, lxc.ErrNotFound); err != nil {
		return View{}, err
	}
	return newView(rec, info, busy), nil
}

func newView(rec Record, info lxc.Info, busy bool) View {
	v := View{Record: rec, Domain: info}
	v.Status, v.Note = status(rec, info, busy)
	return v
}

// status is the instance's status: what a process is doing with it, else what
// libvirt says. The record alone never makes it ACTIVE.
func status(rec Record, info lxc.Info, busy bool) (status, note string) {
	if busy {
		switch rec.Operation.Name {
		case OpBoot:
			return StatusBuild, ""
		case OpDelete:
			return StatusDeleted, ""
		case OpReboot:
			return StatusReboot, ""
		}
	}
	switch {
	case rec.Fault != "":
		note = rec.Fault
	case rec.Operation.Name != "" && !busy:
		note = fmt.Sprintf("its %s was interrupted", rec.Operation.Name)
	}
	known := info.State != ""
	switch {
	case !rec.Booted && !busy:
		if note == "" {
			note = "its boot was interrupted"
		}
		return StatusError, note + "; delete it"
	case info.State == lxc.Running:
		return StatusActive, note
	case info.State == lxc.Paused:
		return StatusPaused, note
	case !known && rec.Undefined:
		return StatusShutoff, note
	case !known:
		return StatusError, join(note, "libvirt does not know its domain: start defines it again, delete removes it")
	case rec.Operation.Name == OpDelete:
		return StatusError, note + "; delete it"
	case info.Reason == lxc.Unnoticed:
		return StatusShutoff, join(note, "libvirt has not noticed yet that it ended: the next start or delete sees to that")
	}
	return StatusShutoff, note
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}
