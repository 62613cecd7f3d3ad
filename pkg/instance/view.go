package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

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
	StatusUnknown = "UNKNOWN" // it is another host's
)

// Statuses are all status words.
var Statuses = []string{StatusBuild, StatusActive, StatusPaused, StatusShutoff, StatusError, StatusReboot, StatusDeleted, StatusUnknown}

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
		if errors.Is(err, ErrNotFound) {
			continue // it was deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, damaged
}

func (m *Manager) view(ctx context.Context, rec Record) (View, error) {
	rec, busy, err := m.Store.watch(rec)
	if err != nil {
		return View{}, err
	}
	if !m.mine(&rec) {
		v := newView(rec, lxc.Info{}, busy)
		v.Status, v.Note = StatusUnknown, fmt.Sprintf("it is of the host %s", rec.Host.Name)
		return v, nil
	}
	info, err := m.Domains.State(ctx, rec.ID)
	if err = ignore(err, lxc.ErrNotFound); err != nil {
		return View{}, err
	}
	v := newView(rec, info, busy)
	if info.Active() && !busy && rec.Phase == Built && !m.hasConsole(&rec) {
		v.Note = join(v.Note, "the process that keeps its console has ended: lxcboot repair gives it a new one")
	}
	return v, nil
}

// watch gives a record as it is now, and whether a process works on the instance. What
// shows an operation, and is held by nobody both before and after it was read, was
// interrupted: a read of the record alone does not tell, as an operation may have ended
// between that and the look at its lock.
func (s *Store) watch(rec Record) (now Record, busy bool, err error) {
	for {
		if s.Held(rec.ID) {
			return rec, true, nil
		}
		if rec.Op == nil && rec.Phase == Built {
			return rec, false, nil
		}
		now, err = s.read(rec.ID)
		if errors.Is(err, fs.ErrNotExist) {
			return now, false, notFound(rec.Name)
		}
		if err != nil || now.UpdatedAt.Equal(rec.UpdatedAt) {
			return now, false, err
		}
		rec = now
	}
}

func newView(rec Record, info lxc.Info, busy bool) View {
	v := View{Record: rec, Domain: info}
	v.Status, v.Note = status(rec, info, busy)
	return v
}

// status is the instance's status: what a process is doing with it, else what
// libvirt says. The record alone never makes it ACTIVE.
func status(rec Record, info lxc.Info, busy bool) (status, note string) {
	switch {
	case busy && rec.Phase == Building:
		return StatusBuild, ""
	case busy && rec.Phase == Deleting:
		return StatusDeleted, ""
	case busy && rec.pending() == OpReboot:
		return StatusReboot, ""
	case busy && rec.Op != nil:
		note = "busy: " + rec.Op.Name
	case rec.Op != nil && rec.Op.Error != "":
		note = rec.Op.Error
	case rec.Op != nil && rec.Op.Name != OpLibvirt:
		note = fmt.Sprintf("its %s was interrupted", rec.Op.Name)
	}
	switch {
	case rec.Phase != Built:
		return StatusError, join(note, "delete it")
	case info.State == lxc.Running:
		return StatusActive, note
	case info.State == lxc.Paused:
		return StatusPaused, note
	case info.State == "" && rec.pending() == OpRename:
		return StatusShutoff, note
	case info.State == "":
		return StatusError, join(note, "libvirt does not know its domain: start defines it again, delete removes it")
	case info.Reason == lxc.Unnoticed:
		note = join(note, "libvirt has not noticed yet that it ended: the next start or delete sees to that")
	}
	return StatusShutoff, note
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}
