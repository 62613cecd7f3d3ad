package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// Manager boots instances and does all that comes after. It is the only place
// that knows the order of things.
type Manager struct {
	Store    *state.Store
	Volumes  Volumes // nil for what asks nothing of the volumes' store
	Devices  Devices
	Roots    Roots
	Loops    Loops
	Domains  Domains // nil in libvirt's hook
	Kernel   Kernel
	Consoles Consoles

	Host host.Host
	// Stopping says whether the host is going down; nil: it never is.
	Stopping func(context.Context) bool
	// Warn tells the user what does not make an operation fail; nil: nobody is told.
	Warn        func(format string, args ...any)
	MaxLocal    int                         // local devices that an instance may have; bdm.DefaultMaxLocal
	IDs         func() (host.IDPool, error) // where containers' host ids come from
	UndoTimeout time.Duration               // how long a rollback may take
	Machine     string                      // what this host is, as uname -m has it; empty: what images are for is not looked at
	StopTimeout time.Duration               // how long a container has to stop by itself
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
	h, err := m.boot(ctx, plan)
	switch {
	case err != nil:
		return View{}, err
	case h.lives():
		return viewed(h.Record, h.domain, false), nil
	}
	rec, told := m.endedAtOnce(ctx, h)
	v := viewed(rec, lxc.Info{ID: rec.ID, Name: rec.Name, State: lxc.Shutoff}, false)
	v.Note = join(v.Note, told)
	return v, nil
}

// boot is Boot. What it gives was let go of, and says whether the container lived then.
func (m *Manager) boot(ctx context.Context, plan Plan) (*Handle, error) {
	rec := plan.record()
	rec.Host = m.Host
	rec.Phase, rec.Want, rec.Op = state.Building, state.Up, state.NewOperation(state.OpBoot)
	for i := range rec.Volumes {
		rec.Volumes[i].Store = m.Volumes.StoreID()
	}
	var seed []byte
	var err error
	if !plan.Spec.Seed.Empty() {
		if seed, err = json.Marshal(plan.Spec.Seed); err != nil {
			return nil, err
		}
	}
	var ids host.IDPool
	if !rec.Spec.Privileged {
		if ids, err = m.IDs(); err != nil {
			return nil, err
		}
	}
	held, err := m.Store.Create(ctx, rec, ids, seed)
	if err != nil {
		return nil, err
	}
	h := &Handle{Held: held}
	defer m.close(ctx, h)
	fault.Point("record created")
	err = m.walk(ctx, h, StepCreate)
	if err == nil {
		// The last moment at which an interrupt undoes it all.
		err = context.Cause(ctx)
	}
	if err == nil {
		h.Phase = state.Built
		err = m.conclude(ctx, h)
	}
	if err != nil {
		return nil, m.rollback(ctx, h, err)
	}
	fault.Point("boot recorded")
	_, _ = m.forget(h) // else the door does
	return h, nil
}

// handIn is how long the process that kept a console may take to hand in how the init
// ended.
const handIn = 10 * time.Second

// endedAtOnce is the record of an instance whose container had ended when what brought it up
// had, and which was let go of: with what exit code, in words, is told by the process that
// kept the console.
func (m *Manager) endedAtOnce(ctx context.Context, h *Handle) (rec state.Record, told string) {
	rec = h.Record
	ctx, cancel := context.WithTimeout(ctx, handIn)
	defer cancel()
	_ = wait.Until(ctx, time.Millisecond, 20*time.Millisecond, func() (bool, error) {
		alive := m.Consoles.Alive(h.Former) // looked at first: what it hands in is on disk when it has ended
		if now, err := m.Store.Find(h.ID); err == nil {
			rec = now
		}
		return rec.Exit != nil || !alive, nil
	})
	told = "with what exit code could not be learnt"
	if rec.Exit != nil {
		told = fmt.Sprintf("with exit code %d", rec.Exit.Code())
	}
	return rec, "its init has run and ended, " + told
}

// begin saves that an operation is under way.
func (h *Handle) begin(name string) error {
	h.Op = state.NewOperation(name)
	return h.Save()
}

// finish saves that the operation is over, and that nothing is amiss.
func (h *Handle) finish() error {
	h.Op = nil
	return h.Save()
}

// rollback undoes a boot that failed. It has a time limit of its own: a
// cancelled ctx is why it runs. What the boot made goes, even if the container ran for a
// moment.
func (m *Manager) rollback(ctx context.Context, h *Handle, cause error) error {
	ctx, cancel := m.undoContext(ctx)
	defer cancel()
	h.Phase, h.Ran = state.Deleting, false
	err := h.MakeRoom()
	if err == nil {
		err = m.unwalk(ctx, h, StepCreate)
	}
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
	h.Op.Error = fmt.Sprintf("%v; %v", cause, undo)
	return &RollbackError{Instance: h.Name, Cause: cause, Undo: errors.Join(undo, h.SaveUndone())}
}

func (m *Manager) undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), m.UndoTimeout,
		fmt.Errorf("undoing took longer than %v", m.UndoTimeout))
}

// Delete undoes an instance from its last step to its first, in whatever state
// it is, and removes its record. It can be called again when it failed or was
// killed.
func (m *Manager) Delete(ctx context.Context, ref string) (state.Record, error) {
	h, err := m.open(ctx, ref, state.OpDelete)
	if err != nil {
		return state.Record{}, err
	}
	defer m.close(ctx, h)
	return h.Record, m.delete(ctx, h)
}

// DeleteKeeping is Delete that keeps the volumes which were marked to go with the instance,
// so that it can be booted from them elsewhere. Local disks go.
func (m *Manager) DeleteKeeping(ctx context.Context, ref string) (state.Record, error) {
	h, err := m.open(ctx, ref, state.OpDelete)
	if err != nil {
		return state.Record{}, err
	}
	defer m.close(ctx, h)
	for i := range h.Volumes {
		if mp := &h.Volumes[i].Mapping; mp.Dest == bdm.DestVolume {
			mp.DeleteOnTermination = false
		}
	}
	return h.Record, m.delete(ctx, h)
}

// Undo takes a boot back that went well, as if it had failed: all that it made goes.
func (m *Manager) Undo(ctx context.Context, ref string) error {
	h, err := m.open(ctx, ref, state.OpDelete)
	if err != nil {
		return err
	}
	defer m.close(ctx, h)
	h.Phase, h.Ran = state.Deleting, false
	return m.delete(ctx, h)
}

// delete needs no space on the disk but the spare: what was undone is "not there" the
// next time.
func (m *Manager) delete(ctx context.Context, h *Handle) error {
	if h.Phase != state.Deleting {
		// A container that ran without its start having been recorded has run all
		// the same: what its volumes are worth is not for us to guess.
		h.Ran = h.Ran || h.lives()
		if err := m.keepOthers(ctx, h); err != nil {
			return err
		}
		h.Phase = state.Deleting
	}
	if err := h.MakeRoom(); err != nil {
		return err
	}
	h.Op = state.NewOperation(state.OpDelete)
	if err := h.SaveUndone(); err != nil {
		return err
	}
	fault.Point("delete begun")
	if err := m.unwalk(ctx, h, StepCreate); err != nil {
		h.Op.Error = err.Error()
		return errors.Join(err, h.SaveUndone())
	}
	return h.Remove()
}

// keepOthers sees to it that no volume is deleted with the instance that is not
// attached to it any more: another host or instance has taken it over.
func (m *Manager) keepOthers(ctx context.Context, h *Handle) error {
	for i := range h.Volumes {
		v := &h.Volumes[i]
		if v.AttachmentID == "" || !deletes(&h.Record, v) {
			continue
		}
		own, err := m.attached(ctx, h, v)
		if err != nil {
			return err
		}
		if !own {
			v.Mapping.DeleteOnTermination = false
			h.lost = append(h.lost, v.VolumeID)
			m.warn("volume %s is kept: it is not attached to instance %q any more", v.VolumeID, h.Name)
		}
	}
	return nil
}

// Stop asks the container to end, and ends it when it has not after the time
// that the Manager allows; then it releases what the host held for it. The
// volumes stay attached. force ends it at once.
func (m *Manager) Stop(ctx context.Context, ref string, force bool) (state.Record, error) {
	h, err := m.open(ctx, ref, state.OpStop)
	if err != nil {
		return state.Record{}, err
	}
	defer m.close(ctx, h)
	interrupted := h.Pending() == state.OpStop || h.cut.Name != ""
	if !h.lives() && !interrupted && h.Want != state.Up {
		return h.Record, failure.Of(state.ErrState, "instance %q is not running", h.Name)
	}
	return h.Record, m.end(ctx, h, state.OpStop, force)
}

// end stops, and notes what that means for the next start of the host.
func (m *Manager) end(ctx context.Context, h *Handle, op string, force bool) error {
	// A volume's attach or detach that was cut short waits for who ends it.
	waiting := h.Op
	if waiting == nil || waiting.Name == op {
		waiting, h.Op = nil, state.NewOperation(op)
	}
	if err := h.SaveUndone(); err != nil {
		return err
	}
	fault.Point("stop begun")
	if err := m.stop(ctx, h, force); err != nil {
		return err
	}
	h.Op = waiting
	h.endedBy(op)
	return h.SaveUndone()
}

// endedBy notes that this operation ended the container. What ends because the host goes
// down is wanted as before, and counts as of an earlier start of the host: it did not end
// by itself.
func (h *Handle) endedBy(op string) {
	if op == state.OpAutostop {
		h.BootID = ""
	} else {
		h.Want = state.Down
	}
}

// stop ends the container and releases all that start made.
func (m *Manager) stop(ctx context.Context, h *Handle, force bool) error {
	if !force && h.lives() {
		asked, cancel := context.WithTimeout(ctx, m.StopTimeout)
		// Whatever keeps it from ending by itself, destroying it is the answer.
		_ = m.Domains.Shutdown(asked, h.ID)
		cancel()
		if ctx.Err() != nil {
			return fmt.Errorf("%w: the container was asked to end and may yet do so; stop it again, or start it", context.Cause(ctx))
		}
		fault.Point("shutdown asked")
		if err := m.look(h); err != nil {
			return err
		}
	}
	if err := m.Domains.Destroy(ctx, h.ID); err != nil {
		return err
	}
	if h.lives() { // for who hands in its status, a kill by us may look like a power-off
		h.Exit = &state.Exit{Status: uint32(unix.SIGKILL), At: time.Now().UTC()}
	}
	h.live = lxc.Live{}
	fault.Point("domain destroyed")
	return m.settle(ctx, h)
}

// Start starts a stopped instance from its volumes. When a step fails, what
// start did is undone and the instance is stopped as before.
func (m *Manager) Start(ctx context.Context, ref string) (state.Record, error) {
	return m.bringUp(ctx, ref, state.OpStart, func(h *Handle) error {
		if !h.lives() {
			h.Restarts = 0
			return m.start(ctx, h, state.OpStart)
		}
		if h.cut.Name == state.OpStart || h.cut.Name == state.OpReboot {
			return nil // the door has finished that one
		}
		return failure.Of(state.ErrState, "instance %q is running already", h.Name)
	})
}

// bringUp has the container of an instance started, and tells of an init that ends at once.
func (m *Manager) bringUp(ctx context.Context, ref, op string, start func(*Handle) error) (state.Record, error) {
	h, err := m.open(ctx, ref, op)
	if err != nil {
		return state.Record{}, err
	}
	err = func() error {
		defer m.close(ctx, h)
		return start(h)
	}()
	if err == nil && !h.lives() {
		_, told := m.endedAtOnce(ctx, h)
		m.warn("instance %q: %s", h.Name, told)
	}
	return h.Record, err
}

// start brings the container up. That it is wanted is on disk before: a host that goes
// down meanwhile starts it when it comes up again.
func (m *Manager) start(ctx context.Context, h *Handle, op string) error {
	was := h.Want
	h.Want = state.Up
	err := h.begin(op)
	if err == nil {
		err = m.Store.HoldRange(ctx, h.Held, m.IDs)
	}
	if err == nil {
		fault.Point(op + " begun")
		err = m.walk(ctx, h, StepAttach)
	}
	if err == nil {
		err = m.conclude(ctx, h)
	}
	if err != nil {
		h.Want = was
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
	h.Op = nil
	return errors.Join(cause, h.SaveUndone())
}

// Reboot stops the container and starts it again; hard ends it without asking.
func (m *Manager) Reboot(ctx context.Context, ref string, hard bool) (state.Record, error) {
	return m.bringUp(ctx, ref, state.OpReboot, func(h *Handle) error {
		if h.Op == nil { // else a volume's attach or detach that was cut short
			if err := h.begin(state.OpReboot); err != nil {
				return err
			}
		}
		fault.Point("reboot begun")
		if err := m.stop(ctx, h, hard); err != nil {
			return err
		}
		fault.Point("reboot stopped")
		if err := m.recoverVolume(ctx, h); err != nil {
			return err
		}
		return m.start(ctx, h, state.OpReboot)
	})
}
