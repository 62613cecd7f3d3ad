package instance

import (
	"context"
	"errors"
	"fmt"

	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
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
	state.Record
	Status string
	Domain lxc.Info        // zero when libvirt does not know it
	NICs   []lxc.Interface // as they are while it runs, else as they were asked for
	Note   string          // what is amiss, in words; empty when nothing is
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
		if errors.Is(err, state.ErrNotFound) {
			continue // it was deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, damaged
}

func (m *Manager) view(ctx context.Context, rec state.Record) (View, error) {
	rec, busy, err := m.Store.Watch(rec)
	if err != nil {
		return View{}, err
	}
	if !m.mine(&rec) {
		return View{Record: rec, NICs: rec.Spec.NICs, Status: StatusUnknown, Note: "it is of the host " + rec.Host.Name}, nil
	}
	info, err := m.Domains.State(ctx, rec.ID)
	if err = ignore(err, lxc.ErrNotFound); err != nil {
		return View{}, err
	}
	v := viewed(rec, info, busy)
	if info.Active() {
		if v.NICs, err = m.Kernel.Interfaces(rec.ID, info.InitPID, rec.Spec.NICs); err != nil {
			v.Note = join(v.Note, err.Error())
		}
	}
	if info.Active() && !busy && rec.Phase == state.Built && !m.hasConsole(&rec) {
		v.Note = join(v.Note, "the process that keeps its console has ended: lxcboot repair gives it a new one")
	}
	return v, nil
}

func viewed(rec state.Record, info lxc.Info, busy bool) View {
	v := View{Record: rec, Domain: info, NICs: rec.Spec.NICs}
	v.Status, v.Note = status(rec, info, busy)
	return v
}

// status is the instance's status: what a process is doing with it, else what
// libvirt says. The record alone never makes it ACTIVE.
func status(rec state.Record, info lxc.Info, busy bool) (status, note string) {
	switch {
	case busy && rec.Phase == state.Building:
		return StatusBuild, ""
	case busy && rec.Phase == state.Deleting:
		return StatusDeleted, ""
	case busy && rec.Pending() == state.OpReboot:
		return StatusReboot, ""
	case busy && rec.Op != nil:
		note = "busy: " + rec.Op.Name
	case rec.Op != nil && rec.Op.Error != "":
		note = rec.Op.Error
	case rec.Op != nil && rec.Op.Name != state.OpLibvirt:
		note = fmt.Sprintf("its %s was interrupted", rec.Op.Name)
	}
	switch {
	case rec.Phase != state.Built:
		return StatusError, join(note, "delete it")
	case info.State == lxc.Running:
		return StatusActive, note
	case info.State == lxc.Paused:
		return StatusPaused, note
	case info.State == "" && rec.Pending() == state.OpRename:
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
