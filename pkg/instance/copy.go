package instance

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// CopyVolume runs what copies a volume, and tells it who writes to that meanwhile. The
// instances that have the volume are held by their locks until the copy is made: nobody
// writes to it as long as none of them runs, or none can write to it.
func (m *Manager) CopyVolume(ctx context.Context, id string, do func(volume.Copying) error) error {
	vol, err := m.Volumes.Volume(ctx, id)
	if err != nil {
		return err
	}
	if len(vol.Attachments) == 0 {
		return do(volume.Copying{})
	}
	held := map[string]bool{} // instances that do not write, and cannot begin to
	for _, at := range slices.Sorted(maps.Keys(holders(vol))) {
		h, err := m.open(ctx, at, "")
		if errors.Is(err, state.ErrNotFound) {
			continue // not of this host, or not of lxcboot
		}
		if err != nil {
			return err
		}
		defer m.close(ctx, h)
		i := h.Volume(vol.ID)
		held[at] = i >= 0 && (!h.lives() || h.Volumes[i].ReadOnly())
	}
	// Somebody may have got it before the locks were had.
	if vol, err = m.Volumes.Volume(ctx, id); err != nil {
		return err
	}
	still := true
	for at := range holders(vol) {
		still = still && held[at]
	}
	return do(volume.Copying{Still: still})
}

// holders are the instances that have a volume.
func holders(v volume.Volume) map[string]bool {
	all := map[string]bool{}
	for _, a := range v.Attachments {
		all[a.InstanceID] = true
	}
	return all
}
