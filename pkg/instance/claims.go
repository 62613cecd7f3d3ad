package instance

import (
	"context"
	"os"

	"github.com/lxcboot/lxcboot/pkg/state"
)

// alone waits until nobody has a volume mounted any more that this instance is to write to:
// what looked into the container that had it last may still have its mounts. A device of this
// host may be used by whoever, and must not be.
func (m *Manager) alone(ctx context.Context, v *state.Volume) error {
	if v.Device.Hold {
		f, err := m.Kernel.Take(ctx, v.Device.Path, false)
		if err != nil {
			return err
		}
		f.Close()
	}
	if v.ReadOnly() {
		return nil
	}
	return m.Kernel.WaitAlone(ctx, v.Device.Path)
}

// claim keeps all others of this host from a volume's device for as long as the container
// runs: this process does, until the one that keeps the console has it from it, or that one
// does at once.
func (m *Manager) claim(ctx context.Context, h *Handle, v *state.Volume) error {
	if h.lives() {
		return m.Consoles.Claim(ctx, h.ID, h.Console, v.Device.Path)
	}
	f, err := m.Kernel.Take(ctx, v.Device.Path, false)
	if err == nil {
		h.claimed = append(h.claimed, f)
	}
	return err
}

// unclaim lets go of the device of a volume that a running container is to lose, or that is to
// be looked at: who claimed it counts as a user.
func (m *Manager) unclaim(ctx context.Context, h *Handle, v *state.Volume) error {
	if !h.lives() || !v.Claims() {
		return nil
	}
	return m.Consoles.Unclaim(ctx, h.ID, h.Console, v.Device.Path)
}

// reclaim claims for a running container what the process that kept its console had. One that
// something else has taken since is told of, and no more: the container uses it.
func (m *Manager) reclaim(h *Handle) (claimed []*os.File) {
	ctx, cancel := context.WithTimeout(context.Background(), glance)
	defer cancel()
	for i := range h.Volumes {
		v := &h.Volumes[i]
		if !v.Claims() {
			continue
		}
		f, err := m.Kernel.Take(ctx, v.Device.Path, true)
		if err != nil {
			m.warn("volume %s is not kept from others of this host any more: %v", v.VolumeID, err)
			continue
		}
		claimed = append(claimed, f)
	}
	return claimed
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
