package instance

import (
	"context"
	"errors"
	"time"
)

// The moments at which libvirt calls its hook.
const (
	HookPrepare = "prepare" // before the container is made
	HookStarted = "started" // it runs
	HookRelease = "release" // it is gone
)

// Hook does what libvirt's own start and stop of a container need of us: after
// virsh start, after libvirt's autostart and after a reboot from inside, where
// no command of ours takes part. An instance that is not ours, and one that
// another process of ours works on, needs nothing. It never calls libvirt, which
// waits for it. controller is the container's, known once it has started.
func (m *Manager) Hook(ctx context.Context, id, moment string, controller int) error {
	now, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	h, err := m.Store.Hold(now, id)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	if h.whole() != nil {
		return nil
	}
	switch moment {
	case HookPrepare:
		if err := m.sameStore(h); err != nil {
			return err
		}
		err := m.releaseRoot(ctx, h)
		if err == nil {
			err = m.walk(ctx, h, StepAttach, StepRoot)
		}
		if err != nil {
			return m.unstart(ctx, h, err)
		}
		return nil
	case HookStarted:
		var err error
		if h.console, err = m.Consoles.Open(controller); err != nil {
			return err
		}
		if h.Console, err = h.console.Start(h.Record); err != nil {
			return err
		}
		if err := m.releaseMounts(ctx, h); err != nil {
			return err
		}
		h.Up = true
		return h.Save()
	case HookRelease:
		if err := m.releaseRoot(ctx, h); err != nil {
			return err
		}
		return h.Save()
	}
	return nil
}
