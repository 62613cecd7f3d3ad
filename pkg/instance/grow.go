package instance

import (
	"context"
	"errors"
	"fmt"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// grows says whether the filesystem of a volume is to be made as large as that.
func (h *Handle) grows(v *state.Volume) bool {
	return (v.Grow || h.Spec.Grow == state.GrowAll) && h.Spec.Grow != state.GrowNone && !v.ReadOnly() && v.Filesystem.Growable()
}

// grow makes the filesystem of a volume as large as that, as far as that is done before it
// is mounted. It says whether growMounted is to do the rest.
func (m *Manager) grow(ctx context.Context, h *Handle, v *state.Volume) (more bool, err error) {
	if !h.grows(v) {
		v.Grow = false
		return false, nil
	}
	found, err := m.Roots.Grow(ctx, v.Device.Path, *v.Filesystem, func() error {
		v.Growing = true
		if v.Made() && h.Phase == state.Building {
			return nil // it goes with the boot
		}
		return h.Save()
	})
	*v.Filesystem, v.Growing = found, false
	return err == nil, m.grown(ctx, h, v, err)
}

// growMounted does the rest, once it is mounted.
func (m *Manager) growMounted(ctx context.Context, h *Handle, v *state.Volume, target string) error {
	err := m.Roots.GrowMounted(target, *v.Filesystem)
	if err == nil {
		v.Grow = false
	}
	return m.grown(ctx, h, v, err)
}

// grown is what becomes of an error in growing: with a filesystem that is too small for its
// volume a container runs all the same, unless it was asked for.
func (m *Manager) grown(ctx context.Context, h *Handle, v *state.Volume, err error) error {
	if err == nil || ctx.Err() != nil || h.Spec.Grow == state.GrowAll {
		return err
	}
	m.warn("volume %s: %v", v.VolumeID, err)
	return nil
}

// mendEach is mendGrown for all volumes before they are let go. One that is not to be had
// any more keeps nothing from ending.
func (m *Manager) mendEach(ctx context.Context, h *Handle) {
	for i := range h.Volumes {
		v := &h.Volumes[i]
		err := m.refind(ctx, h, v)
		if err == nil {
			err = m.mendGrown(ctx, v)
		}
		if err != nil {
			m.warn("volume %s: %v", v.VolumeID, err)
		}
	}
}

// refind finds the device of a volume that is to be mended: since its growing was begun the
// host may have restarted, and the path that is on record be another's.
func (m *Manager) refind(ctx context.Context, h *Handle, v *state.Volume) error {
	if !v.Growing || v.Device == nil || !v.Device.Moves() || v.AttachmentID == "" || h.at != StepNone {
		return nil
	}
	if m.Volumes == nil {
		return errors.New("its filesystem was being made larger, and is mended at the next start")
	}
	return m.connectVolume(ctx, h, v)
}

// mendGrown mends a filesystem of which the growing was cut short.
func (m *Manager) mendGrown(ctx context.Context, v *state.Volume) error {
	if !v.Growing || v.Device == nil || v.Filesystem == nil {
		return nil
	}
	if err := m.Roots.MendGrown(ctx, v.Device.Path, *v.Filesystem); err != nil {
		return err
	}
	v.Growing = false
	return nil
}

// ExtendVolume makes a volume larger, and, unless that is not wanted, its filesystem: of
// one that a running container has mounted at once, where the kernel can, and else when it
// is mounted next. The error wraps volume.ErrInUse where somebody else has it.
func (m *Manager) ExtendVolume(ctx context.Context, id string, sizeGiB int, grow bool) (volume.Volume, error) {
	vol, err := m.Volumes.Volume(ctx, id)
	if err != nil {
		return vol, err
	}
	if vol.Managed == nil && sizeGiB <= vol.Size {
		return vol, failure.Invalid("volume %s has %d GiB and can only be made larger, not %d GiB", vol.ID, vol.Size, sizeGiB)
	}
	if len(vol.Attachments) == 0 {
		return m.extendFree(ctx, vol, sizeGiB, grow)
	}
	h, err := m.open(ctx, vol.Attachments[0].InstanceID, "")
	if errors.Is(err, state.ErrNotFound) {
		return vol, volume.InUse(vol)
	}
	if err != nil {
		return vol, err
	}
	defer m.close(ctx, h)
	i := h.Volume(vol.ID)
	if i < 0 {
		return vol, volume.InUse(vol)
	}
	v := &h.Volumes[i]
	v.Grow = v.Grow || grow && h.Spec.Grow != state.GrowNone && m.target(&h.Record, v) != ""
	if err := h.Save(); err != nil {
		return vol, err
	}
	if vol, err = m.Volumes.ExtendVolume(ctx, vol.ID, sizeGiB, v.AttachmentID); err != nil {
		return vol, err
	}
	if !h.lives() {
		return vol, nil
	}
	return vol, m.extendRunning(h, v)
}

// extendFree extends a volume that nobody has. That its filesystem is to grow is known
// before it has become larger.
func (m *Manager) extendFree(ctx context.Context, vol volume.Volume, sizeGiB int, grow bool) (volume.Volume, error) {
	mark := func(value string) error {
		_, err := m.Volumes.UpdateVolume(ctx, vol.ID, volume.UpdateVolume{Metadata: map[string]string{volume.MetaGrow: value}})
		return err
	}
	marks := grow && vol.Metadata[volume.MetaGrow] != "yes"
	if marks {
		if err := mark("yes"); err != nil {
			return vol, err
		}
	}
	extended, err := m.Volumes.ExtendVolume(ctx, vol.ID, sizeGiB, "")
	if err != nil && marks {
		err = errors.Join(err, mark("no"))
	}
	return extended, err
}

// extendRunning tells a running container that a volume has become larger.
func (m *Manager) extendRunning(h *Handle, v *state.Volume) error {
	path := v.Mapping.MountPath
	if v.Mapping.Root() {
		path = "/"
	}
	if path == "" {
		return m.Loops.Resize(v.Device.Path)
	}
	if !v.Grow || v.ReadOnly() {
		return nil
	}
	if err := m.Roots.GrowRunning(v.Device.Path, *v.Filesystem, h.live.Init, path); err != nil {
		m.warn("volume %s is larger, and its filesystem will be when it is mounted next: %v", v.VolumeID, err)
		return nil
	}
	v.Grow = false
	if err := h.Save(); err != nil {
		return fmt.Errorf("volume %s is extended, and its filesystem too: %w", v.VolumeID, err)
	}
	return nil
}
