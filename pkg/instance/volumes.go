package instance

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/inuse"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// AttachVolume gives an instance one more volume, as a block device or mounted: at once when
// it runs, else from its next start on. When a step fails, what was done is undone.
func (m *Manager) AttachVolume(ctx context.Context, ref string, mp bdm.Mapping) (state.Record, error) {
	h, err := m.open(ctx, ref, state.OpAttach)
	if err != nil {
		return state.Record{}, err
	}
	defer m.close(ctx, h)
	vol, err := m.Volumes.Volume(ctx, mp.ID)
	if errors.Is(err, volume.ErrNotFound) && path.IsAbs(mp.ID) {
		err = fmt.Errorf("%w: 'lxcboot volume manage %s' makes a volume of a device of this host", err, mp.ID)
	}
	if err != nil {
		return h.Record, err
	}
	mp.ID, mp.ReadOnly, mp.Grow = vol.ID, mp.ReadOnly || vol.ReadOnly, vol.Metadata[volume.MetaGrow] == "yes"
	if err := inherit(&mp, vol); err != nil {
		return h.Record, err
	}
	var have []bdm.Mapping
	for _, v := range h.Volumes {
		if v.VolumeID == vol.ID {
			return h.Record, failure.Of(state.ErrState, "instance %q has volume %s already", h.Name, vol.ID)
		}
		have = append(have, v.Mapping)
	}
	mp, _, err = bdm.CheckAttach(have, mp, vol)
	if err != nil {
		return h.Record, err
	}
	if err := h.hides(mp.MountPath); err != nil {
		return h.Record, err
	}
	h.Volumes = append(h.Volumes, state.Volume{Mapping: mp, Store: m.Volumes.StoreID(), VolumeID: vol.ID, Grow: mp.Grow})
	if err := h.beginVolume(state.OpAttach, vol.ID); err != nil {
		return h.Record, err
	}
	fault.Point("attach begun")
	if err = m.giveVolume(ctx, h, &h.Volumes[len(h.Volumes)-1], false); err == nil {
		return h.Record, h.finish()
	}
	undo, cancel := m.undoContext(ctx)
	defer cancel()
	if failed := m.takeVolume(undo, h, len(h.Volumes)-1); failed != nil {
		return h.Record, m.left(h, err, failed)
	}
	h.Op = nil
	return h.Record, errors.Join(err, h.SaveUndone())
}

// hides refuses a mount in a running container over that of another volume, which would be
// hidden until the next start, and then be there.
func (h *Handle) hides(path string) error {
	for _, v := range h.Volumes {
		if h.lives() && path != "" && strings.HasPrefix(v.Mapping.MountPath, path+"/") {
			return failure.Of(state.ErrState, "volume %s is mounted at %s, below %s: detach that first, or stop instance %q", v.VolumeID, v.Mapping.MountPath, path, h.Name)
		}
	}
	return nil
}

// DetachVolume takes a volume from an instance, which keeps its content. The root cannot be
// taken, nor what anything uses: then the instance has it as before.
func (m *Manager) DetachVolume(ctx context.Context, ref, volumeRef string) (state.Record, error) {
	h, err := m.open(ctx, ref, state.OpDetach)
	if err != nil {
		return state.Record{}, err
	}
	defer m.close(ctx, h)
	id := volumeRef
	if vol, err := m.Volumes.Volume(ctx, volumeRef); err == nil {
		id = vol.ID
	}
	i := h.Volume(id)
	switch {
	case i < 0 && h.cut.Volume == id:
		return h.Record, nil // the door has taken it, as its attach or detach was cut short
	case i < 0:
		return h.Record, failure.Of(volume.ErrNotFound, "instance %q has no volume %q; it has %s", h.Name, volumeRef, h.VolumesText())
	case h.Volumes[i].Mapping.Upper:
		return h.Record, failure.Of(state.ErrState, "volume %s holds what instance %q writes to its root", id, h.Name)
	case h.Volumes[i].Mapping.Root():
		return h.Record, failure.Of(state.ErrState, "volume %s is the root of instance %q", id, h.Name)
	}
	if v := &h.Volumes[i]; h.lives() && v.Device != nil {
		if err := m.checkIdle(ctx, h, v); err != nil {
			return h.Record, err
		}
	}
	if err := h.beginVolume(state.OpDetach, id); err != nil {
		return h.Record, err
	}
	fault.Point("detach begun")
	err = m.takeVolume(ctx, h, i)
	switch {
	case err == nil:
		return h.Record, h.finish()
	case !h.lives() || !used(err):
		return h.Record, err
	}
	// It was taken into use since it was looked at, and stays.
	undo, cancel := m.undoContext(ctx)
	defer cancel()
	if failed := m.giveVolume(undo, h, &h.Volumes[i], true); failed != nil {
		return h.Record, m.left(h, err, failed)
	}
	h.Op = nil
	return h.Record, errors.Join(err, h.SaveUndone())
}

// checkIdle fails where anything but the container as such uses a volume of it.
func (m *Manager) checkIdle(ctx context.Context, h *Handle, v *state.Volume) error {
	if err := m.unclaim(ctx, h, v); err != nil {
		return err
	}
	err := m.Kernel.CheckIdle(ctx, h.live.Init, v.Source(), v.Mapping.MountPath)
	if err != nil && v.Claims() {
		err = errors.Join(err, m.claim(ctx, h, v))
	}
	return err
}

// used says whether an error is that something uses a volume.
func used(err error) bool {
	return errors.Is(err, inuse.ErrUsed) || errors.Is(err, loop.ErrInUse) || errors.Is(err, volume.ErrInUse)
}

// beginVolume is begin for what is done to one volume.
func (h *Handle) beginVolume(name, id string) error {
	h.Op = state.NewOperation(name)
	h.Op.Volume = id
	return h.Save()
}

// giveVolume attaches a volume to the host, and to the container: to a running one at
// once, and in libvirt's definition for its next start. again says that the container had it
// already, and may still have some of it.
func (m *Manager) giveVolume(ctx context.Context, h *Handle, v *state.Volume, again bool) error {
	if err := m.attachVolume(ctx, h, v); err != nil {
		return err
	}
	if again && h.lives() && v.Claims() { // it was let go of to be taken
		if err := m.claim(ctx, h, v); err != nil {
			return err
		}
	}
	switch {
	case !h.lives():
		return m.Domains.Define(ctx, m.config(&h.Record))
	case v.Mapping.MountPath != "":
		if err := m.mountInside(ctx, h, v, again); err != nil {
			return err
		}
		if err := m.Domains.Define(ctx, m.config(&h.Record)); err != nil {
			return err
		}
		fault.Point("mount defined")
		return nil
	}
	if err := m.attachLoop(ctx, h, v); err != nil {
		return err
	}
	if err := m.Domains.AttachDisk(ctx, h.ID, m.disk(&h.Record, v)); err != nil {
		return err
	}
	fault.Point("disk attached")
	return nil
}

// takeVolume undoes all that a volume has of the host and of the container, and
// forgets it.
func (m *Manager) takeVolume(ctx context.Context, h *Handle, i int) error {
	v := &h.Volumes[i]
	mounted := v.Mapping.MountPath != ""
	if mounted { // where its attach was cut short
		if err := m.release(h, m.target(&h.Record, v)); err != nil {
			return err
		}
	}
	if h.lives() && v.Device != nil {
		if err := m.unclaim(ctx, h, v); err != nil {
			return fmt.Errorf("volume %s is left in the container: %w", v.VolumeID, err)
		}
		take := m.takeDisk
		if mounted {
			take = m.unmountInside
		}
		if err := take(ctx, h, v); err != nil {
			return fmt.Errorf("volume %s is left in the container: %w", v.VolumeID, err)
		}
	}
	if err := m.detachLoop(h, v); err != nil {
		return err
	}
	if err := m.detachVolume(ctx, h, v); err != nil {
		return err
	}
	h.Volumes = slices.Delete(h.Volumes, i, i+1)
	if h.lives() && !mounted || m.Domains == nil {
		return nil
	}
	return m.Domains.Define(ctx, m.config(&h.Record))
}

func (m *Manager) takeDisk(ctx context.Context, h *Handle, v *state.Volume) error {
	if err := m.Domains.DetachDisk(ctx, h.ID, m.disk(&h.Record, v)); err != nil {
		return err
	}
	fault.Point("disk detached")
	return nil
}
