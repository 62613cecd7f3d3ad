package instance

import (
	"context"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/connector"
)

func (m *Manager) createVolumes(ctx context.Context, h *Handle) error {
	for i := range h.Volumes {
		v := &h.Volumes[i]
		if v.VolumeID != "" {
			continue
		}
		made, err := m.makeVolume(ctx, h, v)
		if err != nil {
			return err
		}
		fault.Point("volume created")
		v.VolumeID = made.ID
		if v.Manage != "" {
			v.Mapping.ID = made.ID
		}
		if err := h.Save(); err != nil {
			return err
		}
	}
	// All are made side by side before the first is waited for.
	for i := range h.Volumes {
		v := &h.Volumes[i]
		if !v.Made() {
			continue
		}
		if _, err := m.Volumes.WaitVolume(ctx, v.VolumeID); err != nil {
			return err
		}
	}
	return nil
}

// makeVolume creates the volume of a mapping, or makes one of a device of this host.
func (m *Manager) makeVolume(ctx context.Context, h *Handle, v *state.Volume) (volume.Volume, error) {
	if store, ok := m.Volumes.(Managing); ok && v.Manage != "" {
		return store.ManageVolume(ctx, volume.ManageVolume{
			Device: v.Manage, Name: h.Name + "-" + path.Base(v.Manage), Bootable: v.Mapping.Root(),
			Metadata: map[string]string{volume.MetaInstance: h.ID},
		})
	}
	return m.Volumes.CreateVolume(ctx, createRequest(v.Mapping, h.ID, h.Name))
}

// createRequest is the volume that a mapping asks for. It carries the instance's
// id from the start, so that it is found again when its own id is lost.
func createRequest(mp bdm.Mapping, instanceID, name string) volume.CreateVolume {
	req := volume.CreateVolume{
		Name:        name + "-" + string(mp.Source),
		Description: "made by lxcboot for instance " + name,
		Size:        mp.Size,
		Type:        mp.VolumeType,
		Metadata:    map[string]string{volume.MetaInstance: instanceID},
	}
	for name, value := range map[string]string{bdm.PartitionProperty: mp.Partition, bdm.SubvolumeProperty: mp.Subvolume} {
		if value != "" {
			req.Metadata[name] = value // it outlives its image, and has no record without the instance
		}
	}
	switch mp.Source {
	case bdm.SourceImage:
		req.ImageID = mp.ID
	case bdm.SourceSnapshot:
		req.SnapshotID = mp.ID
	}
	return req
}

// deleteVolumes deletes what the boot made and what is marked to go with the
// instance. A volume that the user brought outlives an instance that never ran.
func (m *Manager) deleteVolumes(ctx context.Context, h *Handle) error {
	// Only a boot that was cut short can have lost an id.
	if slices.ContainsFunc(h.Volumes, func(v state.Volume) bool { return v.VolumeID == "" }) {
		lost, err := m.Volumes.VolumesOf(ctx, h.ID)
		if err != nil {
			return err
		}
		for _, vol := range lost {
			if slices.ContainsFunc(h.Volumes, func(v state.Volume) bool { return v.VolumeID == vol.ID }) {
				continue
			}
			if err := m.deleteVolume(ctx, vol.ID); err != nil {
				return err
			}
			fault.Point("lost volume deleted")
		}
	}
	for i := len(h.Volumes) - 1; i >= 0; i-- {
		v := &h.Volumes[i]
		if v.VolumeID == "" || !deletes(&h.Record, v) {
			continue
		}
		if err := m.deleteVolume(ctx, v.VolumeID); err != nil {
			return fmt.Errorf("volume %s is left: %w", v.VolumeID, err)
		}
		fault.Point("volume deleted")
	}
	return nil
}

// deleteVolume deletes a volume that may be gone. Of one that is a device of this host it only
// lets go: nothing on that is ever deleted.
func (m *Manager) deleteVolume(ctx context.Context, id string) error {
	err := m.Volumes.DeleteVolume(ctx, id)
	if store, ok := m.Volumes.(Managing); ok && errors.Is(err, volume.ErrManaged) {
		err = store.UnmanageVolume(ctx, id)
	}
	return ignore(err, volume.ErrNotFound)
}

// deletes says whether undoing the instance deletes the volume: once it has run,
// delete-on-termination says so; before, what the boot made goes again.
func deletes(r *state.Record, v *state.Volume) bool {
	if r.Ran {
		return v.Mapping.DeleteOnTermination
	}
	return v.Made() || v.Manage != ""
}

// attached says whether a volume is still attached to the instance by its own attachment,
// which this host made.
func (m *Manager) attached(ctx context.Context, h *Handle, v *state.Volume) (bool, error) {
	all, err := m.Volumes.AttachmentsOf(ctx, v.VolumeID, h.ID)
	return slices.ContainsFunc(all, func(a volume.Attachment) bool {
		return a.ID == v.AttachmentID && !a.Elsewhere(m.Host)
	}), ignore(err, volume.ErrNotFound)
}

func (m *Manager) attachVolumes(ctx context.Context, h *Handle) error {
	for i := range h.Volumes {
		if err := m.attachVolume(ctx, h, &h.Volumes[i]); err != nil {
			return err
		}
	}
	return nil
}

// attachVolume reserves and connects a volume, or, where it is reserved already,
// only sees to it that its device is there. The attachment's id is saved with the
// device: one that was lost in between is found by the ids of volume and instance.
func (m *Manager) attachVolume(ctx context.Context, h *Handle, v *state.Volume) error {
	if v.AttachmentID == "" {
		id, err := m.Volumes.Reserve(ctx, v.VolumeID, volume.Instance{ID: h.ID, Name: h.Name}, v.Mapping.ReadOnly)
		if err != nil {
			return err
		}
		fault.Point("volume reserved")
		v.AttachmentID = id
	}
	if err := m.connectVolume(ctx, h, v); err != nil {
		return err
	}
	if err := m.Volumes.Complete(ctx, v.AttachmentID); err != nil {
		return err
	}
	fault.Point("attachment completed")
	return m.furnish(ctx, h, v)
}

// connectVolume connects a reserved volume to this host, or sees that it is connected.
func (m *Manager) connectVolume(ctx context.Context, h *Handle, v *state.Volume) error {
	conn, err := m.Volumes.Connect(ctx, v.AttachmentID)
	if err != nil {
		return err
	}
	fault.Point("volume connection made")
	req := connector.Request{AttachmentID: v.AttachmentID, VolumeID: v.VolumeID, Connection: conn}
	if v.Device == nil {
		dev, err := m.Devices.Prepare(ctx, req)
		if err != nil {
			return err
		}
		v.Device = &dev
		if dev.Acquires() {
			if err := h.Save(); err != nil {
				return err
			}
		}
	}
	dev, err := m.Devices.Connect(ctx, req, *v.Device)
	if err != nil {
		return err
	}
	fault.Point("device connected")
	if known := v.Device; !reflect.DeepEqual(*known, dev) {
		v.Device = &dev
		return h.Save()
	}
	return nil
}

// furnish sees that there is a filesystem on what is to be mounted, before anything of the
// container is changed for it. It makes that of a blank device, once; a blank volume is
// refused.
func (m *Manager) furnish(ctx context.Context, h *Handle, v *state.Volume) error {
	switch {
	case v.Filesystem != nil:
		return nil
	case v.Mapping.NeedsFilesystem():
		return m.format(ctx, h, v)
	case v.Mapping.MountPath == "":
		return nil
	}
	_, err := m.Roots.Select(ctx, v.Device.Path, selection(v))
	if errors.Is(err, rootfs.ErrBlank) {
		return failure.Of(rootfs.ErrBlank, "volume %s is blank: it has no filesystem to be mounted at %s. Attach it without a mount, make one on it in the container (mkfs), and attach it anew", v.VolumeID, v.Mapping.MountPath)
	}
	if err != nil {
		return fmt.Errorf("volume %s: %w", v.VolumeID, err)
	}
	return nil
}

func (m *Manager) format(ctx context.Context, h *Handle, v *state.Volume) error {
	fstype := v.Mapping.GuestFormat
	if fstype == "" {
		fstype = "ext4"
	}
	if err := m.Roots.Format(ctx, v.Device.Path, fstype); err != nil {
		return err
	}
	fault.Point("device formatted")
	v.Filesystem = &rootfs.Filesystem{Type: fstype}
	return h.Save()
}

func (m *Manager) detachVolumes(ctx context.Context, h *Handle) error {
	for i := len(h.Volumes) - 1; i >= 0; i-- {
		if err := m.detachVolume(ctx, h, &h.Volumes[i]); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) detachVolume(ctx context.Context, h *Handle, v *state.Volume) error {
	if v.Device != nil {
		if err := m.Devices.Disconnect(ctx, *v.Device); err != nil {
			return fmt.Errorf("volume %s is left connected: %w", v.VolumeID, err)
		}
		fault.Point("device disconnected")
		v.Device = nil
		if err := h.SaveUndone(); err != nil {
			return err
		}
	}
	ids := []string{v.AttachmentID}
	if v.AttachmentID == "" {
		lost, err := m.Volumes.AttachmentsOf(ctx, v.VolumeID, h.ID)
		if err = ignore(err, volume.ErrNotFound); err != nil {
			return err
		}
		ids = ids[:0]
		for _, a := range lost {
			ids = append(ids, a.ID)
		}
	}
	for _, id := range ids {
		err := m.Volumes.Detach(ctx, id)
		if errors.Is(err, volume.ErrNotFound) && h.Ran && !slices.Contains(h.lost, v.VolumeID) {
			m.warn("volume %s was not attached to instance %q any more: attachment %s is gone", v.VolumeID, h.Name, id)
		} else if err != nil && !errors.Is(err, volume.ErrNotFound) {
			return fmt.Errorf("volume %s is left attached (attachment %s): %w", v.VolumeID, id, err)
		}
		fault.Point("volume detached")
	}
	v.AttachmentID = ""
	return h.SaveUndone()
}
