package instance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// CopyVolume runs what copies a volume, and tells it who writes to that meanwhile. The
// instances that have the volume are held by their locks until the copy is made: nobody
// writes to it as long as none of them runs, or none can write to it. The filesystem of one
// that a running container has mounted is frozen for the moment at which it is taken.
func (m *Manager) CopyVolume(ctx context.Context, id string, do func(volume.Copying) error) error {
	vol, err := m.Volumes.Volume(ctx, id)
	if err != nil {
		return err
	}
	if len(vol.Attachments) == 0 {
		return do(volume.Copying{})
	}
	held := map[string]bool{} // instances that do not write, and cannot begin to
	var writers []*Handle
	for _, at := range slices.Sorted(maps.Keys(holders(vol))) {
		h, err := m.open(ctx, at, state.OpCopy)
		if errors.Is(err, state.ErrNotFound) {
			continue // not of this host, or not of lxcboot
		}
		if err != nil {
			return err
		}
		defer m.close(ctx, h)
		if h.Op != nil {
			return failure.Of(state.ErrState, "the %s of instance %q was interrupted: 'lxcboot repair' ends it", h.Op.Name, h.Name)
		}
		switch i := h.Volume(vol.ID); {
		case i < 0:
		case !h.lives() || h.Volumes[i].ReadOnly():
			held[at] = true
		default:
			writers = append(writers, h)
		}
	}
	// Somebody may have got it before the locks were had.
	if vol, err = m.Volumes.Volume(ctx, id); err != nil {
		return err
	}
	how := volume.Copying{Still: true}
	for at := range holders(vol) {
		how.Still = how.Still && held[at]
	}
	if len(writers) > 0 {
		how.Moment = func(take func() error) error { return m.frozen(ctx, writers, vol.ID, take) }
	}
	return do(how)
}

// holders are the instances that have a volume.
func holders(v volume.Volume) map[string]bool {
	all := map[string]bool{}
	for _, a := range v.Attachments {
		all[a.InstanceID] = true
	}
	return all
}

// frozen does something while the filesystem of a volume is frozen, in all containers that
// have it. Where that cannot be, or was not until the end, there is a warning: what was taken
// is as after a power cut then.
func (m *Manager) frozen(ctx context.Context, writers []*Handle, id string, do func() error) (err error) {
	tell := func(err error) {
		if err != nil {
			m.warn("volume %s was not held still, its copy is as after a power cut: %v", id, err)
		}
	}
	for _, h := range writers {
		thaw, failed := m.freeze(ctx, h, &h.Volumes[h.Volume(id)])
		tell(failed)
		if thaw != nil {
			defer func() {
				early, failed := thaw()
				if err == nil {
					tell(early)
				}
				err = errors.Join(err, failed)
			}()
		}
	}
	return do()
}

// errThawed says that a filesystem was not frozen as long as it was to be.
var errThawed = errors.New("it took too long, and its filesystem was thawed by then")

// freeze freezes the filesystem of a volume in a running container. thaw undoes that: early
// says that it was not frozen any more. That it is frozen is on record before, and the
// process that keeps the console thaws it when this one ends first.
func (m *Manager) freeze(ctx context.Context, h *Handle, v *state.Volume) (thaw func() (early, err error), err error) {
	if v.Device == nil || v.Filesystem == nil || m.target(&h.Record, v) == "" {
		return nil, errors.New("the container has it as a block device")
	}
	carrier, err := m.Kernel.Carrier(v.Device.Path)
	if err != nil || carrier == "" {
		return nil, err // not mounted any more
	}
	dir, err := m.Roots.OpenTop(carrier, *v.Filesystem)
	if err != nil {
		return nil, err
	}
	release, err := m.Consoles.Guard(ctx, h.ID, h.Console, dir)
	if err != nil {
		dir.Close()
		return nil, err
	}
	thaw = func() (early, err error) {
		frozen, err := m.Roots.Thaw(dir)
		fault.Point("copy thawed")
		release()
		dir.Close()
		if err == nil && !frozen {
			early = errThawed
		}
		if err == nil {
			h.Op = nil // else the door thaws it
		}
		return early, errors.Join(err, h.SaveUndone())
	}
	if err = h.beginVolume(state.OpCopy, v.VolumeID); err == nil {
		fault.Point("copy begun")
		err = m.Roots.Freeze(dir)
	}
	if err != nil {
		_, failed := thaw()
		return nil, errors.Join(err, failed)
	}
	fault.Point("copy frozen")
	return thaw, nil
}

// endCopy thaws what a copy that was cut short may have left frozen: who froze it was killed,
// and the process that keeps the console as well.
func (m *Manager) endCopy(h *Handle) {
	if h.Pending() != state.OpCopy {
		return
	}
	if i := h.Volume(h.Op.Volume); i >= 0 && h.lives() {
		if err := m.thawLeft(&h.Volumes[i]); err != nil {
			m.warn("the filesystem of volume %s may be frozen ('fsfreeze --unfreeze' thaws it): %v", h.Op.Volume, err)
		}
	}
	if err := m.over(h, "gave up"); err != nil {
		m.warn("%v", err)
	}
}

func (m *Manager) thawLeft(v *state.Volume) error {
	if v.Device == nil || v.Filesystem == nil {
		return nil
	}
	carrier, err := m.Kernel.Carrier(v.Device.Path)
	if err != nil || carrier == "" {
		return err
	}
	dir, err := m.Roots.OpenTop(carrier, *v.Filesystem)
	if err != nil {
		return fmt.Errorf("it cannot be opened: %w", err)
	}
	defer dir.Close()
	_, err = m.Roots.Thaw(dir)
	return err
}
