package instance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// Autostart starts every instance of this host that was up when it went down, but for
// those that are the business of whoever booted them: of `run`, and of an engine. Each that fails is in the error, and
// the others are started all the same.
func (m *Manager) Autostart(ctx context.Context) (started []string, err error) {
	return m.each(func(r state.Record) (string, error) {
		if !m.mine(&r) || r.Phase != state.Built || r.Want != state.Up || r.Caller.Name != "" {
			return "", nil
		}
		h, err := m.open(ctx, r.ID, state.OpStart)
		if err != nil {
			return "", err
		}
		defer m.close(ctx, h)
		if h.lives() {
			return "", m.tend(h)
		}
		if h.Want != state.Up {
			return "", nil
		}
		return h.Name, m.start(ctx, h, state.OpStart)
	})
}

// Autostop ends the containers of this host, all side by side, before it goes down. They
// stay wanted: the next Autostart starts them.
func (m *Manager) Autostop(ctx context.Context) (stopped []string, err error) {
	var all sync.WaitGroup
	var mu sync.Mutex
	_, err = m.each(func(r state.Record) (string, error) {
		if m.mine(&r) && r.Phase == state.Built {
			all.Go(func() {
				ended, failed := m.autostop(ctx, r.ID)
				mu.Lock()
				defer mu.Unlock()
				if ended {
					stopped = append(stopped, r.Name)
				}
				if failed != nil {
					err = errors.Join(err, fmt.Errorf("instance %q: %w", r.Name, failed))
				}
			})
		}
		return "", nil
	})
	all.Wait()
	return stopped, err
}

func (m *Manager) autostop(ctx context.Context, id string) (ended bool, err error) {
	h, err := m.open(ctx, id, state.OpStop)
	if err != nil {
		return false, ignore(err, state.ErrNotFound)
	}
	defer m.close(ctx, h)
	if !h.lives() {
		return false, nil
	}
	err = m.end(ctx, h, state.OpAutostop, false)
	return err == nil, err
}

// Repair finishes what was interrupted: a boot or a delete that was cut short is
// undone, a start, stop or reboot is ended, and what the host holds for an ended
// container, or mounts of a running one, is released. What another process works on is
// left to it. It says what it did.
func (m *Manager) Repair(ctx context.Context) (did []string, err error) {
	did, err = m.Store.Sweep(ctx)
	more, failed := m.each(func(r state.Record) (string, error) {
		if !m.mine(&r) {
			return "", nil
		}
		h, err := m.openWithin(ctx, glance, r.ID, opRepair)
		if err != nil {
			return "", err
		}
		defer m.close(ctx, h)
		what, err := m.repair(ctx, h)
		if what == "" {
			return "", err
		}
		return fmt.Sprintf("instance %s: %s", h.Name, what), err
	})
	return append(did, more...), errors.Join(err, failed)
}

// each goes through the instances. One that is gone or busy meanwhile is passed over.
func (m *Manager) each(do func(state.Record) (string, error)) (done []string, err error) {
	records, damaged := m.Store.List()
	if damaged != nil && !errors.Is(damaged, state.ErrDamaged) {
		return nil, damaged
	}
	all := []error{damaged}
	for _, r := range records {
		what, err := do(r)
		if what != "" && err == nil {
			done = append(done, what)
		}
		if err != nil && !errors.Is(err, state.ErrBusy) && !errors.Is(err, state.ErrNotFound) {
			all = append(all, fmt.Errorf("instance %q: %w", r.Name, err))
		}
	}
	return done, errors.Join(all...)
}

func (m *Manager) repair(ctx context.Context, h *Handle) (did string, err error) {
	abandoned := h.Caller.Remove && !m.calls(&h.Record)
	if h.Phase != state.Built || h.Op != nil || abandoned {
		if err := m.sameStore(h); err != nil {
			return "", err
		}
	}
	switch {
	case h.Phase == state.Building && h.lives():
		return "", failure.Of(state.ErrState, "its boot was cut short and its container runs: delete it, or keep what is in it first")
	case h.Phase == state.Building:
		return "undid its boot, which had been interrupted", m.delete(ctx, h)
	case h.Phase == state.Deleting:
		return "finished its delete, which had been interrupted", m.delete(ctx, h)
	case abandoned:
		return "deleted it, as the run --rm that it belonged to has been killed", m.delete(ctx, h)
	}
	if err := m.recover(ctx, h); err != nil {
		return strings.Join(h.did, "; "), err
	}
	if err := m.recoverVolume(ctx, h); err != nil {
		return strings.Join(h.did, "; "), err
	}
	if h.lives() {
		err = errors.Join(m.tend(h), m.show(h))
	} else if h.Want == state.Up && (h.cut.Name == state.OpStart || h.cut.Name == state.OpReboot) {
		err = m.start(ctx, h, state.OpStart)
	}
	return strings.Join(h.did, "; "), err
}

// calls says whether the process that an instance belongs to is still there.
func (m *Manager) calls(r *state.Record) bool {
	return r.Caller.BootID == m.Host.BootID && r.Caller.Proc.Alive()
}

// show gives a running container what lxcfs, which may have been restarted, says of it.
func (m *Manager) show(h *Handle) error {
	changed, err := m.Kernel.ShowViews(h.live.Init)
	if changed {
		h.did = append(h.did, "mounted what lxcfs says of it anew, or took that of one away that has ended")
	}
	return ignore(err, lxc.ErrNotRunning)
}

// ShowViews gives every running container of this host what the lxcfs that runs now says of
// it. It needs neither libvirt nor the volumes, and waits for nobody.
func (m *Manager) ShowViews() error {
	_, err := m.each(func(r state.Record) (string, error) {
		if !m.mine(&r) || r.Phase != state.Built {
			return "", nil
		}
		live, err := m.Kernel.Look(r.Name)
		if err != nil || live.Init == 0 {
			return "", err
		}
		_, err = m.Kernel.ShowViews(live.Init)
		return "", ignore(err, lxc.ErrNotRunning)
	})
	return err
}

// tend gives a running container a process that keeps its console, if it has none.
func (m *Manager) tend(h *Handle) error {
	if m.hasConsole(&h.Record) {
		return nil
	}
	if err := m.keepConsole(h); err != nil {
		return err
	}
	h.did = append(h.did, "gave its console a new process, as the one that kept it had ended")
	return h.Save()
}
