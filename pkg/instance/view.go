package instance

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

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
	return m.view(ctx, rec, nil)
}

// lookWidth is how many instances are looked at at once.
const lookWidth = 8

// List looks at every instance, sorted by name. Damaged records are in the
// error, and the others are still returned.
func (m *Manager) List(ctx context.Context) ([]View, error) {
	records, damaged := m.Store.List()
	if len(records) == 0 {
		return nil, damaged
	}
	running, err := m.Domains.Running(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]View, len(records))
	var all errgroup.Group
	all.SetLimit(lookWidth)
	for i, rec := range records {
		all.Go(func() (err error) {
			views[i], err = m.view(ctx, rec, running)
			return ignore(err, state.ErrNotFound) // it was deleted meanwhile
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(views, func(v View) bool { return v.ID == "" }), damaged
}

// view looks at one. running are those that ran after the record was read: of these nothing
// more is asked.
func (m *Manager) view(ctx context.Context, rec state.Record, running map[string]lxc.Info) (View, error) {
	rec, busy, err := m.Store.Watch(rec)
	if err != nil {
		return View{}, err
	}
	if !m.mine(&rec) {
		return View{Record: rec, NICs: rec.Spec.NICs, Status: StatusUnknown, Note: "it is of the host " + rec.Host.Name}, nil
	}
	info, known := running[rec.ID]
	if !known {
		if info, err = m.Domains.State(ctx, rec.ID); ignore(err, lxc.ErrNotFound) != nil {
			return View{}, err
		}
	}
	v := viewed(rec, info, busy)
	if info.Active() {
		if v.NICs, err = m.Kernel.Interfaces(rec.ID, info.InitPID, rec.Spec.NICs); err != nil {
			v.Note = join(v.Note, err.Error())
		}
	}
	if v.Status == StatusShutoff && m.restarting(&rec) {
		v.Note = join(v.Note, fmt.Sprintf("it ended, and is started again (%s)", rec.Spec.Restart))
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
