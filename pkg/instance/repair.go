package instance

import (
	"context"
	"errors"
	"fmt"
)

// Autostart starts every instance that was up when this host went down. Each that
// fails is in the error, and the others are started all the same.
func (m *Manager) Autostart(ctx context.Context) (started []string, err error) {
	views, err := m.List(ctx)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	all := []error{err}
	for _, v := range views {
		if !v.Booted || !v.Up || v.Domain.Active() {
			continue
		}
		if _, err := m.Start(ctx, v.Name); err != nil {
			all = append(all, fmt.Errorf("instance %q: %w", v.Name, err))
			continue
		}
		started = append(started, v.Name)
	}
	return started, errors.Join(all...)
}

// Repair finishes what was interrupted: a boot or a delete that was cut short is
// undone, an instance whose start or stop was cut short is stopped, and what the host
// holds for an ended container, or mounts of a running one, is released. It says what
// it did.
func (m *Manager) Repair(ctx context.Context) (did []string, err error) {
	swept, err := m.Store.Sweep(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range swept {
		did = append(did, fmt.Sprintf("instance %s has no record: removed the rest of it", id))
	}
	views, err := m.List(ctx)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return did, err
	}
	all := []error{err}
	for _, v := range views {
		if m.Store.Held(v.ID) {
			continue
		}
		what, err := m.repair(ctx, v)
		if what != "" {
			did = append(did, fmt.Sprintf("instance %s: %s", v.Name, what))
		}
		if err != nil {
			all = append(all, fmt.Errorf("instance %q: %w", v.Name, err))
		}
	}
	return did, errors.Join(all...)
}

func (m *Manager) repair(ctx context.Context, v View) (did string, err error) {
	switch {
	case !v.Booted && !v.RolledBack && v.Domain.Active():
		return "", fmt.Errorf("%w: its boot was cut short and its container runs: delete it, or keep what is in it first", ErrState)
	case !v.Booted, v.Operation.Name == OpDelete:
		_, err = m.Delete(ctx, v.ID)
		return fmt.Sprintf("undid its %s, which had been interrupted", orUnknown(v.Operation.Name)), err
	case v.Operation.Name == OpStop:
		_, err = m.Stop(ctx, v.ID, true)
		return "finished its stop, which had been interrupted", err
	case v.Operation.Name == OpAttach, v.Operation.Name == OpDetach:
		for _, x := range v.Volumes {
			if x.Moving {
				_, err = m.DetachVolume(ctx, v.ID, x.VolumeID)
			}
		}
		return fmt.Sprintf("detached the volume whose %s had been interrupted", v.Operation.Name), err
	case v.Operation.Name != "":
		_, err = m.Start(ctx, v.ID)
		return fmt.Sprintf("finished its %s, which had been interrupted", v.Operation.Name), err
	case !v.Domain.Active():
		return "", m.Ended(ctx, v.ID)
	case m.Store.hasMountpoints(v.ID):
		h, err := m.Store.Hold(ctx, v.ID)
		if err != nil {
			return "", err
		}
		defer h.Close()
		return "unmounted on the host what its container has", m.releaseMounts(ctx, h)
	}
	return "", nil
}
