package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lxc"
)

// Manager boots instances and does all that comes after. It is the only place
// that knows the order of things.
type Manager struct {
	Store    *Store
	Volumes  Volumes
	Devices  Devices
	Roots    Roots
	Loops    Loops
	Domains  Domains
	Consoles Consoles

	Host string // this host's name
	// Stopping says whether the host is going down; nil: it never is.
	Stopping    func(context.Context) bool
	MaxLocal    int           // local devices that an instance may have; bdm.DefaultMaxLocal
	IDBase      uint32        // the first host id that containers get; 0: DefaultIDBase
	UndoTimeout time.Duration // how long a rollback may take
	Wait        time.Duration // for another process that works on an instance
	StopTimeout time.Duration // how long a container has to stop by itself
}

// The ids that containers have on the host: each instance has a range of its
// own, so that one container's root is nobody to another.
const (
	DefaultIDBase = 1_000_000
	idsPerSlot    = 65_536
	maxSlots      = 60_000
)

// idMap is the range of host ids of an instance; nil when it is privileged.
func (h *Handle) idMap() *lxc.IDMap {
	if h.Spec.Privileged {
		return nil
	}
	return &lxc.IDMap{HostID: h.IDBase + uint32(h.Slot)*idsPerSlot, Count: idsPerSlot}
}

// RollbackError says that an operation failed and that undoing it failed too:
// what remains is in the instance's record, and delete finishes it.
type RollbackError struct {
	Instance string // name
	Cause    error  // why the operation failed
	Undo     error  // why undoing it failed
}

func (e *RollbackError) Error() string {
	return fmt.Sprintf("%v; and undoing it failed: %v", e.Cause, e.Undo)
}

// Unwrap gives both failures to errors.Is and errors.As.
func (e *RollbackError) Unwrap() []error { return []error{e.Cause, e.Undo} }

// Boot does what the plan says. When a step fails, or ctx is cancelled, all that
// was done is undone before it returns; when that fails too the error is a
// *RollbackError.
func (m *Manager) Boot(ctx context.Context, plan Plan) (View, error) {
	rec := plan.record()
	rec.Host = m.Host
	rec.StoreID = m.Volumes.StoreID()
	rec.IDBase = m.IDBase
	rec.Operation = operation(OpBoot)
	rec.Reached = lastStep
	h, err := m.Store.Create(ctx, rec)
	if err != nil {
		return View{}, err
	}
	defer h.Close()
	fault.Point("record created")
	err = m.walk(ctx, h, StepCreate, lastStep)
	if err == nil {
		// The last moment at which an interrupt undoes it all.
		err = context.Cause(ctx)
	}
	if err == nil {
		h.Booted, h.Up = true, true
		err = m.conclude(ctx, h)
	}
	if err != nil {
		return View{}, m.rollback(ctx, h, err)
	}
	fault.Point("boot recorded")
	return newView(h.Record, h.domain, false), nil
}

func operation(name string) Operation {
	return Operation{Name: name, PID: os.Getpid(), At: time.Now().UTC().Truncate(time.Second)}
}

// begin saves that an operation is under way.
func (h *Handle) begin(name string) error {
	h.Operation = operation(name)
	return h.Save()
}

// finish saves that the operation is over, and that nothing is amiss.
func (h *Handle) finish() error {
	h.Operation, h.Fault = Operation{}, ""
	return h.Save()
}

// rollback undoes a boot that failed. It has a time limit of its own: a
// cancelled ctx is why it runs.
func (m *Manager) rollback(ctx context.Context, h *Handle, cause error) error {
	ctx, cancel := m.undoContext(ctx)
	defer cancel()
	h.RolledBack, h.Booted = true, false
	err := m.unwalk(ctx, h, StepCreate)
	if err == nil {
		err = h.Remove()
	}
	if err != nil {
		return m.left(h, cause, err)
	}
	return cause
}

// left saves what remains after an undo that failed.
func (m *Manager) left(h *Handle, cause, undo error) error {
	h.Operation = Operation{}
	h.Fault = fmt.Sprintf("%v; %v", cause, undo)
	return &RollbackError{Instance: h.Name, Cause: cause, Undo: errors.Join(undo, h.Save())}
}

func (m *Manager) undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), m.UndoTimeout,
		fmt.Errorf("undoing took longer than %v", m.UndoTimeout))
}

// Delete undoes an instance from its last step to its first, in whatever state
// it is, and removes its record. It can be called again when it failed or was
// killed.
func (m *Manager) Delete(ctx context.Context, ref string) (Record, error) {
	h, err := m.hold(ctx, ref)
	if err != nil {
		return Record{}, err
	}
	defer h.Close()
	return h.Record, m.delete(ctx, h)
}

// Undo takes a boot back that went well, as if it had failed: all that it made goes.
func (m *Manager) Undo(ctx context.Context, ref string) error {
	h, err := m.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer h.Close()
	h.RolledBack = true
	return m.delete(ctx, h)
}

func (m *Manager) delete(ctx context.Context, h *Handle) error {
	if h.Booted {
		h.Reached = lastStep
	}
	if err := h.begin(OpDelete); err != nil {
		return err
	}
	fault.Point("delete begun")
	if err := m.unwalk(ctx, h, StepCreate); err != nil {
		h.Operation, h.Fault = Operation{}, err.Error()
		return errors.Join(err, h.Save())
	}
	return h.Remove()
}

// Stop asks the container to end, and ends it when it has not after the time
// that the Manager allows; then it releases what the host held for it. The
// volumes stay attached. force ends it at once.
func (m *Manager) Stop(ctx context.Context, ref string, force bool) (Record, error) {
	h, err := m.Store.Hold(ctx, ref)
	if err != nil {
		return Record{}, err
	}
	defer h.Close()
	if err := h.whole(); err != nil {
		return h.Record, err
	}
	interrupted := h.Operation.Name != ""
	info, err := m.Domains.State(ctx, h.ID)
	if err = ignore(err, lxc.ErrNotFound); err != nil {
		return h.Record, err
	}
	if !info.Active() && !interrupted && !h.Up {
		return h.Record, fmt.Errorf("%w: instance %q is not running", ErrState, h.Name)
	}
	if err := h.begin(OpStop); err != nil {
		return h.Record, err
	}
	fault.Point("stop begun")
	if err := m.stop(ctx, h, force); err != nil {
		return h.Record, err
	}
	h.Up = false
	return h.Record, h.finish()
}

// stop ends the container and releases all that start made.
func (m *Manager) stop(ctx context.Context, h *Handle, force bool) error {
	if !force {
		asked, cancel := context.WithTimeout(ctx, m.StopTimeout)
		err := m.Domains.Shutdown(asked, h.ID)
		cancel()
		if ctx.Err() != nil {
			return fmt.Errorf("%w: the container was asked to end and may yet do so; stop it again, or start it", context.Cause(ctx))
		}
		// Whatever kept it from ending by itself, destroying it is the answer.
		_ = err
		fault.Point("shutdown asked")
	}
	if err := m.Domains.Destroy(ctx, h.ID); err != nil {
		return err
	}
	fault.Point("domain destroyed")
	return m.settle(ctx, h)
}

// settle releases what the host holds for a container that no longer runs.
func (m *Manager) settle(ctx context.Context, h *Handle) error {
	if err := m.stopConsole(ctx, h); err != nil {
		return err
	}
	fault.Point("console stopped")
	return m.releaseRoot(ctx, h)
}

// Start starts a stopped instance from its volumes. When a step fails, what
// start did is undone and the instance is stopped as before.
func (m *Manager) Start(ctx context.Context, ref string) (Record, error) {
	h, err := m.hold(ctx, ref)
	if err != nil {
		return Record{}, err
	}
	defer h.Close()
	if err := h.whole(); err != nil {
		return h.Record, err
	}
	interrupted := h.Operation.Name != ""
	info, err := m.Domains.State(ctx, h.ID)
	if err = ignore(err, lxc.ErrNotFound); err != nil {
		return h.Record, err
	}
	if info.Active() && !interrupted {
		return h.Record, fmt.Errorf("%w: instance %q is running already", ErrState, h.Name)
	}
	if err := h.begin(OpStart); err != nil {
		return h.Record, err
	}
	fault.Point("start begun")
	err = m.start(ctx, h, info.Active())
	return h.Record, err
}

// start brings the container up. One that an interrupted operation left running
// is stopped first: what the host holds for it is not known to be whole.
func (m *Manager) start(ctx context.Context, h *Handle, running bool) error {
	if running {
		if err := m.Domains.Destroy(ctx, h.ID); err != nil {
			return err
		}
	}
	err := m.settle(ctx, h)
	if err == nil {
		err = m.walk(ctx, h, StepAttach, lastStep)
	}
	if err != nil {
		return m.unstart(ctx, h, err)
	}
	was := h.Up
	h.Up = true
	if err := m.conclude(ctx, h); err != nil {
		h.Up = was
		return m.unstart(ctx, h, err)
	}
	return nil
}

// unstart undoes a start that failed, down to the attached volumes.
func (m *Manager) unstart(ctx context.Context, h *Handle, cause error) error {
	ctx, cancel := m.undoContext(ctx)
	defer cancel()
	if err := m.unwalk(ctx, h, StepRoot); err != nil {
		return m.left(h, cause, err)
	}
	h.Operation = Operation{}
	return errors.Join(cause, h.Save())
}

// Reboot stops the container and starts it again; hard ends it without asking.
func (m *Manager) Reboot(ctx context.Context, ref string, hard bool) (Record, error) {
	h, err := m.hold(ctx, ref)
	if err != nil {
		return Record{}, err
	}
	defer h.Close()
	if err := h.whole(); err != nil {
		return h.Record, err
	}
	if err := h.begin(OpReboot); err != nil {
		return h.Record, err
	}
	fault.Point("reboot begun")
	if err := m.stop(ctx, h, hard); err != nil {
		return h.Record, err
	}
	fault.Point("reboot stopped")
	err = m.start(ctx, h, false)
	return h.Record, err
}

// hold is Store.Hold for what changes volumes.
func (m *Manager) hold(ctx context.Context, ref string) (*Handle, error) {
	h, err := m.Store.Hold(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := m.sameStore(h); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// sameStore refuses an instance whose volumes are in another store: they would be taken
// for gone, and be left behind.
func (m *Manager) sameStore(h *Handle) error {
	if used := m.Volumes.StoreID(); h.StoreID != used {
		return fmt.Errorf("%w: the volumes of instance %q are in the store %q, and this command uses %q; set the backend and the cloud as they were at its boot", ErrState, h.Name, h.StoreID, used)
	}
	return nil
}

// whole refuses an instance whose boot or delete was cut short.
func (h *Handle) whole() error {
	switch {
	case !h.Booted:
		return fmt.Errorf("%w: the boot of instance %q did not finish: delete it and boot again", ErrState, h.Name)
	case h.Operation.Name == OpDelete:
		return fmt.Errorf("%w: the delete of instance %q did not finish: delete it again", ErrState, h.Name)
	}
	return nil
}

// Ended releases what the host holds for an instance whose container has ended
// by itself. It does nothing while another process changes the instance, which
// then does the same.
func (m *Manager) Ended(ctx context.Context, id string) error {
	if rec, err := m.Store.Find(id); err == nil && rec.Operation.Name != "" && m.Store.Held(id) {
		return nil
	}
	now, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	h, err := m.Store.Hold(now, id)
	if errors.Is(err, ErrBusy) || errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	info, err := m.Domains.State(ctx, h.ID)
	if err = ignore(err, lxc.ErrNotFound); err != nil || info.Active() {
		return err
	}
	if err := m.releaseRoot(ctx, h); err != nil {
		return err
	}
	// What ended by itself stays down when the host comes up again; what ended
	// because the host goes down does not.
	if info.Reason == "shutdown" || info.Reason == "destroyed" || info.Reason == lxc.Unnoticed {
		h.Up = h.Up && m.Stopping != nil && m.Stopping(ctx)
	}
	return h.Save()
}

// Change changes a record in what its user may change, and saves it.
func (m *Manager) Change(ctx context.Context, ref string, do func(*Record) error) error {
	h, err := m.Store.Hold(ctx, ref)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := do(&h.Record); err != nil {
		return err
	}
	if err := h.check(); err != nil {
		return err
	}
	return h.Save()
}

// Rename gives an instance that does not run another name. Its domain is made anew,
// because libvirt cannot rename one of the LXC driver.
func (m *Manager) Rename(ctx context.Context, ref, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	h, err := m.Store.Hold(ctx, ref)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.whole(); err != nil {
		return err
	}
	info, err := m.Domains.State(ctx, h.ID)
	if err = ignore(err, lxc.ErrNotFound); err != nil {
		return err
	}
	if info.Active() {
		return fmt.Errorf("%w: instance %q is running: stop it to rename it", ErrState, h.Name)
	}
	if other, err := m.Domains.ByName(ctx, name); err == nil && other.ID != h.ID {
		return fmt.Errorf("%w: the name %q is taken by a libvirt domain (%s)", ErrExists, name, other.ID)
	}
	h.Undefined = true
	if err := m.Store.Rename(ctx, h, name); err != nil {
		return err
	}
	fault.Point("record renamed")
	// start defines it again, under its new name. An interrupt is too late here.
	undo, cancel := m.undoContext(ctx)
	defer cancel()
	// libvirt may take it for running still (lxc.Unnoticed).
	if err := m.Domains.Destroy(undo, h.ID); err != nil {
		return err
	}
	return m.Domains.Undefine(undo, h.ID)
}
