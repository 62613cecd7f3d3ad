package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// Handle is an instance that this process alone may change, as the door gave it.
type Handle struct {
	*state.Held
	live    lxc.Live        // what the door saw of the container, and what this process did to it
	cut     state.Operation // the one that the door found cut short, and ended
	did     []string        // what the door did, in words
	lost    []string        // volumes that are not attached to it any more, and were warned of
	at      Step            // the step that this process has come to
	domain  lxc.Info        // what libvirt said when the container was started
	console Console         // held, and not kept by a process yet
	gate    Gate            // holds the container's init
	claimed []*os.File      // devices of this host that its volumes are
}

// letGo gives the container's terminal and init free, as far as this process has them.
func (h *Handle) letGo() {
	if h.gate != nil {
		h.gate.Release()
		h.gate = nil
	}
	if h.console != nil {
		h.console.Close()
		h.console = nil
	}
	closeAll(h.claimed)
	h.claimed = nil
}

// opRepair is what repair tells the door; no record has it.
const opRepair = "repair"

// A lock's holder is asked nothing by libvirt, and may ask libvirt: libvirt calls its
// hook with the domain locked, and what asks for the domain's state waits for that. So
// whether a container lives is read from the kernel, and the hook waits for the lock no
// longer than hookWait, which is less than any call of libvirt may take.
const hookWait = 5 * time.Second

// glance is how long a lock is waited for by who leaves an instance to its holder: that
// may be a reader, which only looks whether it is held.
const glance = 50 * time.Millisecond

// open is the door to an instance: it waits for the lock, reads the record, looks
// whether the container lives, and ends what was cut short. op is what the caller is
// about to do. The Handle must be closed with Manager.close.
func (m *Manager) open(ctx context.Context, ref, op string) (*Handle, error) {
	return m.openWithin(ctx, m.Store.Wait, ref, op)
}

// openWithin is open that waits so long for the lock.
func (m *Manager) openWithin(ctx context.Context, wait time.Duration, ref, op string) (*Handle, error) {
	var asked *state.Operation // an operation of which libvirt says that it is none
	for {
		held, err := m.Store.Hold(ctx, wait, ref)
		if err != nil {
			return nil, err
		}
		h := &Handle{Held: held}
		if err := m.ours(h); err != nil {
			h.Close()
			return nil, err
		}
		cut, err := m.forget(h)
		if err := errors.Join(m.look(h), err); err != nil {
			h.Close()
			return nil, err
		}
		if cut {
			h.did = append(h.did, "finished its boot, which had been interrupted")
		}
		// libvirt starts it: prepared by its hook, and not yet running.
		if h.Pending() == state.OpLibvirt && !h.lives() && m.Domains != nil && (asked == nil || !asked.At.Equal(h.Op.At)) {
			asked = h.Op
			h.Close()
			if _, err := m.Domains.State(ctx, h.ID); ignore(err, lxc.ErrNotFound) != nil {
				return nil, err
			}
			continue
		}
		if err := m.enter(ctx, h, op); err != nil {
			return nil, errors.Join(err, m.close(ctx, h))
		}
		return h, nil
	}
}

// enter ends what was cut short, as far as op does not end it anyway, and refuses op
// where it does not go.
func (m *Manager) enter(ctx context.Context, h *Handle, op string) error {
	m.endCopy(h)
	switch {
	case op == opRepair:
		return nil
	case op == state.OpDelete:
		return m.sameStore(h)
	case h.Phase != state.Built:
		return h.whole()
	case op == state.OpStop && h.Pending() == state.OpStop:
		return nil // it is what the caller is about to do
	}
	if err := m.recover(ctx, h); err != nil && op != state.OpStop {
		return err
	}
	switch op {
	case state.OpStart, state.OpAttach, state.OpDetach:
		if err := m.sameStore(h); err != nil {
			return err
		}
		return m.recoverVolume(ctx, h)
	case state.OpRename, state.OpCopy:
		return m.recoverVolume(ctx, h)
	case state.OpReboot:
		return m.sameStore(h)
	}
	return nil
}

// ours refuses the record of another host: what it holds is there, and its container
// may run there.
func (m *Manager) ours(h *Handle) error {
	if m.mine(&h.Record) {
		return nil
	}
	return failure.Of(state.ErrState, "instance %q is of the host %s (%s), and this is %s: use it there, or take it over with 'lxcboot adopt %s' when that host will never run it again",
		h.Name, h.Host.Name, h.Host.ID, m.Host.Name, h.Name)
}

// mine says whether a record is of this host. One of version 1 has no host id.
func (m *Manager) mine(r *state.Record) bool {
	return r.Host.ID == m.Host.ID || r.Host.ID == "" && r.Host.Name == m.Host.Name
}

// sameStore refuses an instance whose volumes are in another store: they would be taken
// for gone, and be left behind.
func (m *Manager) sameStore(h *Handle) error {
	used := m.Volumes.StoreID()
	for _, v := range h.Volumes {
		if v.Store != used {
			return failure.Of(state.ErrState, "the volumes of instance %q are in the store %q, and this command uses %q; set the backend and the cloud as they were at its boot", h.Name, v.Store, used)
		}
	}
	return nil
}

// whole refuses an instance whose boot or delete was cut short.
func (h *Handle) whole() error {
	switch h.Phase {
	case state.Building:
		return failure.Of(state.ErrState, "the boot of instance %q did not finish: delete it and boot again", h.Name)
	case state.Deleting:
		return failure.Of(state.ErrState, "the delete of instance %q did not finish: delete it again", h.Name)
	}
	return nil
}

// look reads from the kernel whether the container lives.
func (m *Manager) look(h *Handle) (err error) {
	h.live, err = m.Kernel.Look(h.Name)
	return err
}

// lives says whether the container has an init.
func (h *Handle) lives() bool { return h.live.Init != 0 }

// recover ends what was cut short of an instance that was built, and releases what the
// host holds for nothing. What is left to do for a volume is recoverVolume's.
func (m *Manager) recover(ctx context.Context, h *Handle) error {
	undo, cancel := m.undoContext(ctx)
	defer cancel()
	op := h.Pending()
	if h.lives() {
		switch op {
		case state.OpStop:
			if m.Domains == nil {
				return nil
			}
			if err := m.Domains.Destroy(undo, h.ID); err != nil {
				return err
			}
			h.live = lxc.Live{}
			return m.recover(ctx, h)
		case state.OpStart, state.OpReboot, state.OpLibvirt:
			if err := m.complete(undo, h); err != nil {
				return err
			}
			return m.finished(h)
		case state.OpAutostop:
			return m.over(h, "gave up")
		case state.OpResize:
			return m.relimit(undo, h)
		}
		if m.hasMounts(h) {
			h.did = append(h.did, "unmounted on the host what its container has")
			return m.releaseMounts(undo, h)
		}
		return nil
	}
	if op == state.OpRename {
		if m.Domains == nil {
			return nil
		}
		if err := m.redefine(undo, h); err != nil {
			return err
		}
		return m.finished(h)
	}
	if err := m.settle(undo, h); err != nil {
		return err
	}
	switch op {
	case state.OpResize:
		return m.relimit(undo, h)
	case state.OpStop, state.OpAutostop:
		h.endedBy(op)
		fallthrough
	case state.OpStart, state.OpReboot, state.OpLibvirt:
		return m.finished(h)
	}
	return nil
}

// finished saves that the operation that was cut short is over.
func (m *Manager) finished(h *Handle) error { return m.over(h, "finished") }

func (m *Manager) over(h *Handle, how string) error {
	fault.Point("door/ended " + h.Op.Name)
	h.did = append(h.did, how+" its "+h.Op.Name+", which had been interrupted")
	h.Op, h.cut = nil, *h.Op
	return h.SaveUndone()
}

// recoverVolume ends an attach or detach that was cut short: the volume goes again. One
// that the running container uses by now stays, as if its attach had not been cut short, or
// its detach not begun.
func (m *Manager) recoverVolume(ctx context.Context, h *Handle) error {
	op := h.Pending()
	if op != state.OpAttach && op != state.OpDetach {
		return nil
	}
	if m.Volumes == nil {
		return failure.Of(state.ErrState, "the %s of a volume of instance %q was interrupted; 'lxcboot repair' ends it", op, h.Name)
	}
	if err := m.sameStore(h); err != nil {
		return err
	}
	undo, cancel := m.undoContext(ctx)
	defer cancel()
	how := "finished"
	if i := h.Volume(h.Op.Volume); i >= 0 {
		err := m.takeVolume(undo, h, i)
		switch {
		case err != nil && h.lives() && (op == state.OpAttach || used(err)):
			err = m.giveVolume(undo, h, &h.Volumes[i], true)
			if op == state.OpDetach {
				how = "undid"
			}
		case op == state.OpAttach:
			how = "undid"
		}
		if err != nil {
			return fmt.Errorf("its %s, which had been interrupted, cannot be undone: %w", op, err)
		}
	}
	return m.over(h, how)
}

// settle releases what the host holds for a container that has ended, and notes that.
func (m *Manager) settle(ctx context.Context, h *Handle) error {
	held := m.holds(h)
	if err := m.stopConsole(ctx, h); err != nil {
		return err
	}
	fault.Point("console stopped")
	if err := m.releaseRoot(ctx, h); err != nil {
		return err
	}
	if h.Want == state.Up && m.byItself(ctx, h) && !m.restarting(&h.Record) {
		h.Want, held = state.Down, true
	}
	if !held {
		return nil
	}
	h.did = append(h.did, "released what the host held for its container, which has ended")
	return h.SaveUndone()
}

// byItself says of a container that has ended that nothing else ended it: such a one stays
// down when the host comes up again; what ended with the host, or because that goes down,
// does not.
func (m *Manager) byItself(ctx context.Context, h *Handle) bool {
	return h.Op == nil && h.BootID == m.Host.BootID && (m.Stopping == nil || !m.Stopping(ctx))
}

// holds says whether the host may hold anything for the container.
func (m *Manager) holds(h *Handle) bool {
	held := h.Console != proc.Process{} || m.Store.HasRunDir(h.ID)
	for _, v := range h.Volumes {
		held = held || v.Loop != nil
	}
	return held
}

// complete does what is left of a start once the container lives: its console is kept,
// its init is let go, and the host's mounts are released.
func (m *Manager) complete(ctx context.Context, h *Handle) error {
	if err := m.keepConsole(h); err != nil {
		return err
	}
	if m.Roots.Mounted(m.Store.LaunchDir(h.ID)) {
		if err := m.arrange(h); err != nil {
			return err
		}
		if err := m.Kernel.Finish(h.ID, h.live.Init, h.Spec.NICs); err != nil {
			return err
		}
		if err := m.Kernel.Release(ctx, m.Store.LaunchDir(h.ID)); err != nil {
			return err
		}
	}
	h.Ran, h.Want, h.Exit = true, state.Up, nil
	return m.releaseMounts(ctx, h)
}

// keepConsole gives a running container a process that keeps its console, unless it has
// one.
func (m *Manager) keepConsole(h *Handle) (err error) {
	if m.hasConsole(&h.Record) {
		return nil
	}
	c, err := m.Consoles.Open(h.live)
	if err != nil {
		return err
	}
	defer c.Close()
	claimed := m.reclaim(h)
	defer closeAll(claimed)
	h.Console, err = c.Start(h.ID, claimed)
	h.BootID = m.Host.BootID
	return err
}

func (m *Manager) hasConsole(r *state.Record) bool {
	return (r.BootID == "" || r.BootID == m.Host.BootID) && m.Consoles.Alive(r.Console)
}

// close lets go of an instance. libvirt's hook does not wait for the lock when a
// container ends: who held it looks once more.
func (m *Manager) close(ctx context.Context, h *Handle) (err error) {
	if h.Phase == state.Built && m.Store.HasRecord(h.ID) {
		before := h.lives()
		if err = m.look(h); err == nil && before && !h.lives() {
			err = m.recover(ctx, h)
		}
	}
	if h.Unsaved != nil {
		m.warn("the record of instance %q could not be saved, and shows it as it was before: %v", h.Name, h.Unsaved)
	}
	h.letGo()
	return errors.Join(err, h.Close())
}

func (m *Manager) warn(format string, args ...any) {
	if m.Warn != nil {
		m.Warn(format, args...)
	}
}

// Ended does what follows the end of a container, in the process that kept its console:
// the host releases what it holds. status is the init's, as wait(2) has it; nil: nobody
// knows. It is of the container's present life only when this process kept that. The pause is
// that after which this process has to call Again; 0: it has not.
func (m *Manager) Ended(ctx context.Context, id string, status *uint32) (pause time.Duration, err error) {
	h, err := m.open(ctx, id, "")
	if errors.Is(err, state.ErrNotFound) || errors.Is(err, state.ErrState) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	self, err := proc.Of(os.Getpid())
	if err == nil && h.Former == self && !h.lives() {
		if status != nil && h.Exit == nil {
			h.Exit = &state.Exit{Status: *status, At: time.Now().UTC()}
		}
		if m.byItself(ctx, h) && h.Want == state.Up {
			if pause = h.restarts(self.Age()); pause == 0 {
				h.Want = state.Down
			}
		}
		err = h.SaveUndone()
	}
	return pause, errors.Join(err, m.close(ctx, h))
}
