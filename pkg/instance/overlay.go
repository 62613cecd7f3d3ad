package instance

import (
	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/fault"
)

// overlay makes a root writable that itself stays as it is: of its filesystem, and of a
// side that takes what is written. Both are unmounted with it.
func (m *Manager) overlay(h *Handle) error {
	how := h.Root().Overlay()
	if how == "" {
		return nil
	}
	root, lower, upper := m.Store.RootDir(h.ID), m.Store.LowerDir(h.ID), m.Store.UpperDir(h.ID)
	if how == bdm.OverlayMemory {
		if err := m.Store.MakeMountpoint(upper); err != nil {
			return err
		}
		// Half of the memory, as is usual; what is in it counts as the container's.
		if err := m.Roots.MountMemory(upper, int64(h.Spec.Flavor.MemoryMiB)<<20/2); err != nil {
			return err
		}
	}
	if err := m.Store.MakeMountpoint(root); err != nil {
		return err
	}
	if err := m.Roots.Overlay(lower, upper, root); err != nil {
		return err
	}
	fault.Point("overlay mounted")
	return nil
}
