package instance

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// The moments at which libvirt calls its hook.
const (
	HookPrepare = "prepare" // before the container is made
	HookStarted = "started" // it runs
	HookRelease = "release" // it is gone
)

// Hook does what libvirt's own start and stop of a container need of us: after
// virsh start, after libvirt's autostart and after a reboot from inside, where
// no command of ours takes part. It never calls libvirt, which waits for it with the
// domain locked; so it does not wait long for whoever works on the instance. volumes
// opens the store of the volumes, which is only needed where no command of ours is at work.
func (m *Manager) Hook(ctx context.Context, moment string, dom lxc.Domain, volumes func() (Volumes, error)) error {
	rec, err := m.Store.Find(dom.ID)
	if err != nil {
		return ignore(err, state.ErrNotFound) // not ours
	}
	if moment == HookPrepare {
		return m.hookPrepare(ctx, &rec, dom, volumes)
	}
	wait := hookWait
	// A command of ours that starts it does what is left itself; and whoever holds it
	// looks once more before it lets go.
	if moment == HookRelease || m.Store.Held(rec.ID) && starts(&rec) {
		wait = glance
	}
	h, err := m.openWithin(ctx, wait, dom.ID, "")
	switch {
	case errors.Is(err, state.ErrBusy), errors.Is(err, state.ErrState), errors.Is(err, state.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return m.close(ctx, h) // the door did it
}

// starts says whether a command of ours may be having libvirt start the container.
func starts(r *state.Record) bool {
	return slices.Contains([]string{state.OpBoot, state.OpStart, state.OpReboot}, r.Pending())
}

// hookPrepare readies what libvirt is about to start, or refuses it.
func (m *Manager) hookPrepare(ctx context.Context, rec *state.Record, dom lxc.Domain, volumes func() (Volumes, error)) (err error) {
	for until := time.Now().Add(hookWait); ; {
		// A command of ours that starts it has readied it: nothing but that is looked at.
		if m.Store.Held(rec.ID) && starts(rec) {
			return m.ready(rec, dom)
		}
		if m.Volumes == nil {
			if m.Volumes, err = volumes(); err != nil {
				return err
			}
		}
		h, err := m.openWithin(ctx, 50*time.Millisecond, dom.ID, state.OpStart)
		if errors.Is(err, state.ErrBusy) && time.Now().Before(until) {
			if now, err := m.Store.Find(dom.ID); err == nil {
				*rec = now
			}
			continue
		}
		if err != nil {
			return err
		}
		return errors.Join(m.prepare(ctx, h, dom), m.close(ctx, h))
	}
}

// prepare does the steps of a start that come before the container's.
func (m *Manager) prepare(ctx context.Context, h *Handle, dom lxc.Domain) error {
	if err := m.defined(&h.Record, dom); err != nil {
		return err
	}
	if err := m.Store.HoldRange(ctx, h.Held, nil); err != nil {
		return err
	}
	if err := h.begin(state.OpLibvirt); err != nil {
		return err
	}
	for _, s := range steps[stepIndex(StepAttach):stepIndex(StepStart)] {
		h.at = s.name
		if err := s.do(m, ctx, h); err != nil {
			return m.unstart(ctx, h, err)
		}
	}
	former, err := m.former(h, dom)
	if err == nil {
		err = m.checkMountpoints(h, former...)
	}
	if err != nil {
		return m.unstart(ctx, h, err)
	}
	return h.Save()
}

// ready verifies that what a command of ours has readied is there.
func (m *Manager) ready(r *state.Record, dom lxc.Domain) error {
	if err := m.defined(r, dom); err != nil {
		return err
	}
	for i := range r.Volumes {
		v := &r.Volumes[i]
		switch target := m.target(r, v); {
		case target != "" && !m.Roots.Mounted(target):
			return failure.Of(state.ErrState, "nothing is mounted at %s", target)
		case target == "":
			if err := m.Store.CheckLink(r.ID, v.Mapping.DeviceName, v.Source()); err != nil {
				return err
			}
		}
	}
	if dir := m.Store.LaunchDir(r.ID); !m.Roots.Mounted(dir) {
		return failure.Of(state.ErrState, "nothing is mounted at %s", dir)
	}
	return nil
}

// defined refuses a definition that leads anywhere but to what is the instance's own: an
// older lxcboot named devices by numbers, which may be another's by now. It may be one of
// before volumes that are mounted came and went: see former.
func (m *Manager) defined(r *state.Record, dom lxc.Domain) error {
	want := m.config(r)
	if dom.Name != want.Name { // its rename was cut short
		return failure.Of(state.ErrState, "libvirt has instance %q as %q; 'lxcboot start %s' defines it anew", r.Name, dom.Name, r.Name)
	}
	ours := append(sources(want.Filesystems, want.Disks), want.Root, want.Launch)
	for _, source := range sources(dom.Filesystems, dom.Disks) {
		if !slices.Contains(ours, source) && !m.Store.IsMountDir(r.ID, source) {
			return failure.Of(state.ErrState, "libvirt's definition of instance %q names %q, which is not its own; 'lxcboot start %s' defines it anew", r.Name, source, r.Name)
		}
	}
	if !reflect.DeepEqual(want.IDMap, dom.IDMap) {
		return failure.Of(state.ErrState, "libvirt's definition of instance %q has not its host ids; 'lxcboot start %s' defines it anew", r.Name, r.Name)
	}
	return nil
}

func sources(filesystems []lxc.Filesystem, disks []lxc.Disk) (paths []string) {
	for _, f := range filesystems {
		paths = append(paths, f.Source)
	}
	for _, d := range disks {
		paths = append(paths, d.Source)
	}
	return paths
}
