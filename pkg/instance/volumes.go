package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// AttachVolume gives an instance one more volume: as a block device at once when it
// runs, else from its next start on. When a step fails, what was done is undone.
func (m *Manager) AttachVolume(ctx context.Context, ref string, mp bdm.Mapping) (Record, error) {
	h, err := m.hold(ctx, ref)
	if err != nil {
		return Record{}, err
	}
	defer h.Close()
	running, err := m.runs(ctx, h)
	if err != nil {
		return h.Record, err
	}
	if running && mp.MountPath != "" {
		return h.Record, fmt.Errorf("%w: a volume is mounted when the container starts: stop instance %q, or leave the mount out", ErrState, h.Name)
	}
	vol, err := m.Volumes.Volume(ctx, mp.ID)
	if err != nil {
		return h.Record, err
	}
	mp.ID, mp.ReadOnly = vol.ID, mp.ReadOnly || vol.ReadOnly
	var have []bdm.Mapping
	for _, v := range h.Volumes {
		if v.VolumeID == vol.ID {
			return h.Record, fmt.Errorf("%w: instance %q has volume %s already", ErrState, h.Name, vol.ID)
		}
		have = append(have, v.Mapping)
	}
	mp, _, err = bdm.CheckAttach(have, mp, vol)
	if err != nil {
		return h.Record, err
	}
	h.Volumes = append(h.Volumes, VolumeRecord{Mapping: mp, VolumeID: vol.ID, Moving: true})
	v := &h.Volumes[len(h.Volumes)-1]
	if err := h.begin(OpAttach); err != nil {
		return h.Record, err
	}
	fault.Point("attach begun")
	err = m.attachVolume(ctx, h, v)
	if err == nil && running {
		if err = m.attachLoop(ctx, h, v); err == nil {
			err = m.Domains.AttachDisk(ctx, h.ID, v.disk())
			fault.Point("disk attached")
		}
	}
	if err == nil {
		v.Moving = false
		return h.Record, h.finish()
	}
	undo, cancel := m.undoContext(ctx)
	defer cancel()
	if failed := m.takeVolume(undo, h, len(h.Volumes)-1, running); failed != nil {
		return h.Record, m.left(h, err, failed)
	}
	return h.Record, errors.Join(err, h.finish())
}

// DetachVolume takes a volume from an instance, which keeps its content. The root
// and, while the container runs, a mounted volume cannot be taken.
func (m *Manager) DetachVolume(ctx context.Context, ref, volumeRef string) (Record, error) {
	h, err := m.hold(ctx, ref)
	if err != nil {
		return Record{}, err
	}
	defer h.Close()
	running, err := m.runs(ctx, h)
	if err != nil {
		return h.Record, err
	}
	id := volumeRef
	if vol, err := m.Volumes.Volume(ctx, volumeRef); err == nil {
		id = vol.ID
	}
	i := slices.IndexFunc(h.Volumes, func(v VolumeRecord) bool { return v.VolumeID == id })
	switch {
	case i < 0:
		return h.Record, fmt.Errorf("%w: instance %q has no volume %q; it has %s", volume.ErrNotFound, h.Name, volumeRef, h.volumes())
	case h.Volumes[i].Mapping.Root():
		return h.Record, fmt.Errorf("%w: volume %s is the root of instance %q", ErrState, id, h.Name)
	case running && h.Volumes[i].Mapping.MountPath != "":
		return h.Record, fmt.Errorf("%w: volume %s is mounted in instance %q: stop it first", ErrState, id, h.Name)
	}
	h.Volumes[i].Moving = true
	if err := h.begin(OpDetach); err != nil {
		return h.Record, err
	}
	fault.Point("detach begun")
	if err := m.takeVolume(ctx, h, i, running); err != nil {
		return h.Record, err
	}
	return h.Record, h.finish()
}

// volumes are an instance's volumes in words.
func (r *Record) volumes() string {
	var all []string
	for _, v := range r.Volumes {
		all = append(all, v.VolumeID+" ("+v.Mapping.DeviceName+")")
	}
	return cmp.Or(strings.Join(all, ", "), "none")
}

// runs says whether a whole instance's container runs.
func (m *Manager) runs(ctx context.Context, h *Handle) (bool, error) {
	if err := h.whole(); err != nil {
		return false, err
	}
	info, err := m.Domains.State(ctx, h.ID)
	return info.Active(), ignore(err, lxc.ErrNotFound)
}

// takeVolume undoes all that a volume has of the host and of the container, and
// forgets it.
func (m *Manager) takeVolume(ctx context.Context, h *Handle, i int, running bool) error {
	v := &h.Volumes[i]
	if running && v.Device != nil {
		if err := m.Domains.DetachDisk(ctx, h.ID, v.disk()); err != nil {
			return fmt.Errorf("volume %s is left in the container: %w", v.VolumeID, err)
		}
		fault.Point("disk detached")
	}
	if v.Loop != nil {
		if err := m.Loops.Detach(*v.Loop); err != nil {
			return fmt.Errorf("loop device %s of volume %s is left: %w", v.Loop.Path, v.VolumeID, err)
		}
		fault.Point("loop device detached")
		v.Loop = nil
	}
	if err := m.detachVolume(ctx, h, v); err != nil {
		return err
	}
	h.Volumes = slices.Delete(h.Volumes, i, i+1)
	return nil
}
