package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/seed"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// inject writes into the root what the instance is told, before the first start only, unless
// that is gone with each end: what the container makes of its files is its own. On a volume that the user brought,
// what stood there is kept until the boot went well.
func (m *Manager) inject(h *Handle) error {
	data, err := h.Seed()
	if err != nil || data == nil {
		return err
	}
	var s seed.Seed
	if err := json.Unmarshal(data, &s); err != nil {
		return failure.Of(state.ErrDamaged, "the seed of instance %q cannot be read: %w", h.Name, err)
	}
	v := h.Root()
	if v.ReadOnly() && v.Overlay() == "" {
		if s.Asked() {
			return errReadOnlyRoot
		}
		return nil
	}
	root := m.Store.RootDir(h.ID)
	found, err := m.Roots.Look(root)
	if err != nil {
		return err
	}
	files, err := s.Render(seed.Machine{Instance: h.ID, Volume: v.VolumeID, Made: v.Made(), Hostname: h.Spec.Hostname, Meta: h.Meta, NICs: h.SeedNICs()}, found)
	if err != nil || len(files) == 0 {
		return err
	}
	if keeps(v) {
		// How to get at the root again has to be on disk before there is anything to
		// put back.
		if err := h.Save(); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := m.write(h, root, f); err != nil {
			if !s.Asked() {
				err = fmt.Errorf("%w (--config-drive false leaves the root as it is)", err)
			}
			return err
		}
	}
	return nil
}

// keeps says whether what stands in a root is the user's, and written over: an overlay
// leaves it as it is.
func keeps(root *state.Volume) bool { return !root.Made() && root.Overlay() == "" }

// write writes a file of the seed into the root.
func (m *Manager) write(h *Handle, root string, f seed.File) error {
	if keeps(h.Root()) {
		if err := m.Roots.Keep(root, f.Path, m.Store.KeptDir(h.ID), h.RootIDs()); err != nil {
			return err
		}
	}
	if err := m.Roots.WriteFile(root, rootfs.File{Path: f.Path, Data: f.Data, Mode: f.Mode}, h.RootIDs()); err != nil {
		return err
	}
	fault.Point("file injected")
	return nil
}

// forget removes the seed of a built instance, and what its files replaced: what the
// container made of them is its own. It says whether the seed was still there.
func (m *Manager) forget(h *Handle) (bool, error) {
	if h.Phase != state.Built {
		return false, nil
	}
	if h.Root().Overlay() == bdm.OverlayMemory {
		return false, nil // each start begins with the root as it is
	}
	if err := m.Roots.Forget(m.Store.KeptDir(h.ID)); err != nil {
		return false, err
	}
	return h.ForgetSeed()
}

// restore puts back on the root what the seed's files replaced, after a boot that failed.
func (m *Manager) restore(ctx context.Context, h *Handle) error {
	if h.Phase == state.Built {
		return nil
	}
	kept := m.Store.KeptDir(h.ID)
	if _, err := os.Lstat(kept); errors.Is(err, fs.ErrNotExist) || h.Root().Device == nil {
		return nil
	}
	root := m.Store.RootDir(h.ID)
	if !m.Roots.Mounted(root) {
		if err := m.Store.MakeRunDir(h.ID, 0); err != nil {
			return err
		}
		if err := m.mount(ctx, h, h.Root(), root); err != nil {
			return err
		}
	}
	if err := m.Roots.Restore(root, kept); err != nil {
		return err
	}
	fault.Point("files put back")
	return nil
}
