package instance

import (
	"context"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Change changes a record in what its user may change, and saves it.
func (m *Manager) Change(ctx context.Context, ref string, do func(*state.Record) error) error {
	h, err := m.open(ctx, ref, "")
	if err != nil {
		return err
	}
	defer m.close(ctx, h)
	if err := do(&h.Record); err != nil {
		return err
	}
	if err := checkDomain(&h.Record); err != nil {
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
	h, err := m.open(ctx, ref, state.OpRename)
	if err != nil {
		return err
	}
	defer m.close(ctx, h)
	if h.lives() {
		return failure.Of(state.ErrState, "instance %q is running: stop it to rename it", h.Name)
	}
	if other, err := m.Domains.ByName(ctx, name); err == nil && other.ID != h.ID {
		return failure.Of(state.ErrExists, "the name %q is taken by a libvirt domain (%s)", name, other.ID)
	}
	h.Op = state.NewOperation(state.OpRename)
	if err := m.Store.Rename(ctx, h.Held, name); err != nil {
		return err
	}
	fault.Point("record renamed")
	// An interrupt is too late here.
	undo, cancel := m.undoContext(ctx)
	defer cancel()
	if err := m.redefine(undo, h); err != nil {
		return err
	}
	return h.finish()
}

// redefine gives libvirt the definition of an instance that does not run, under its
// present name alone.
func (m *Manager) redefine(ctx context.Context, h *Handle) error {
	// libvirt may take it for running still (lxc.Unnoticed).
	if err := m.Domains.Destroy(ctx, h.ID); err != nil {
		return err
	}
	if err := m.Domains.Undefine(ctx, h.ID); err != nil {
		return err
	}
	fault.Point("old name undefined")
	return m.Domains.Define(ctx, m.config(&h.Record))
}

// Adopt makes another host's instance this host's: after a reinstallation, or when that
// host will never run it again. One whose container runs there, as far as the state
// directory or the store of its volumes shows, is refused.
func (m *Manager) Adopt(ctx context.Context, ref string) error {
	held, err := m.Store.Hold(ctx, m.Store.Wait, ref)
	if err != nil {
		return err
	}
	h := &Handle{Held: held}
	defer h.Close()
	if m.mine(&h.Record) {
		return failure.Of(state.ErrState, "instance %q is this host's already", h.Name)
	}
	if err := m.sameStore(h); err != nil {
		return err
	}
	if m.Store.Claimed(h.ID) {
		return failure.Of(state.ErrState, "instance %q runs on the host %s", h.Name, h.Host.Name)
	}
	for i := range h.Volumes {
		v := &h.Volumes[i]
		all, err := m.Volumes.AttachmentsOf(ctx, v.VolumeID, "")
		if err != nil {
			return err
		}
		for _, a := range all {
			if a.InstanceID != h.ID {
				return failure.Of(state.ErrState, "volume %s of instance %q is held by instance %s on the host %s", v.VolumeID, h.Name, a.InstanceID, a.Host)
			}
			if a.Elsewhere(m.Host) && m.Volumes.Remote() {
				return failure.Of(state.ErrState, "volume %s of instance %q is attached to the host %s: take it from there first", v.VolumeID, h.Name, a.Host)
			}
		}
	}
	// What it held was of that host: the next start attaches the volumes anew.
	for i := range h.Volumes {
		v := &h.Volumes[i]
		if v.AttachmentID != "" {
			if err := ignore(m.Volumes.Detach(ctx, v.AttachmentID), volume.ErrNotFound); err != nil {
				return err
			}
		}
		v.AttachmentID, v.Loop, v.Device = "", nil, nil
	}
	h.Host, h.BootID, h.Console = m.Host, "", proc.Process{}
	return h.Save()
}

// AdoptAll adopts every instance of another host, and gives their names. Each that is
// refused is in the error.
func (m *Manager) AdoptAll(ctx context.Context) (adopted []string, err error) {
	return m.each(func(r state.Record) (string, error) {
		if m.mine(&r) {
			return "", nil
		}
		return r.Name, m.Adopt(ctx, r.ID)
	})
}
