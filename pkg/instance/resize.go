package instance

import (
	"context"
	"errors"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/flavor"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// Resize gives an instance another flavor, whose memory and CPUs it has from then on, also
// while it runs, and returns the one that it had. Its disks and its swap stay as they are. A
// running one that uses more memory than that, with its page cache, is refused
// (state.ErrState): its programs would be ended.
func (m *Manager) Resize(ctx context.Context, ref string, to flavor.Flavor) (from flavor.Flavor, err error) {
	h, err := m.open(ctx, ref, state.OpResize)
	if err != nil {
		return from, err
	}
	defer m.close(ctx, h)
	from = h.Spec.Flavor
	if h.Spec.SwapMiB > to.SwapMiB {
		return from, failure.Invalid("instance %q has %d MiB of swap, and the flavor %q has %d", h.Name, h.Spec.SwapMiB, to.Name, to.SwapMiB)
	}
	h.Spec.Flavor = to
	if err := checkDomain(&h.Record); err != nil {
		return from, err
	}
	if h.lives() {
		u, err := m.Domains.Usage(ctx, h.ID)
		if ignore(err, lxc.ErrNotRunning) != nil {
			return from, err
		}
		if mib := u.MemoryBytes >> 20; mib > int64(to.MemoryMiB) {
			return from, failure.Of(state.ErrState, "instance %q uses %d MiB of memory, with its page cache, and the flavor %q has %d: stop it first, or, where that is page cache, try again later", h.Name, mib, to.Name, to.MemoryMiB)
		}
	}
	h.Op = state.NewOperation(state.OpResize)
	if err := h.Save(); err != nil {
		return from, err
	}
	fault.Point("record resized")
	// An interrupt is too late here.
	undo, cancel := m.undoContext(ctx)
	defer cancel()
	if err := m.limit(undo, h); err != nil {
		h.Spec.Flavor = from
		if undone := m.limit(undo, h); undone != nil { // the next one at the door does it
			return from, errors.Join(err, undone, h.Save())
		}
		return from, errors.Join(err, h.finish())
	}
	return from, h.finish()
}

// limit makes what the record says of memory and CPUs true: for the container, where it runs,
// and for the next start.
func (m *Manager) limit(ctx context.Context, h *Handle) error {
	if h.lives() {
		// In v1's hierarchies no group has more CPU time than the one that it is in: what becomes
		// less has to become so inside first, and what becomes more, outside.
		fl := h.Spec.Flavor
		inside := m.Domains.Limit(ctx, h.ID, fl.MemoryMiB, fl.VCPUs)
		fault.Point("container limited")
		if _, err := m.Kernel.MakeGroups(ctx, h.ID, h.IDMap(), h.Limits()); err != nil {
			return errors.Join(inside, err)
		}
		fault.Point("groups limited")
		if inside != nil {
			if err := m.Domains.Limit(ctx, h.ID, fl.MemoryMiB, fl.VCPUs); err != nil {
				return err
			}
		}
	}
	return m.Domains.Define(ctx, m.config(&h.Record))
}

// relimit ends a resize that was cut short: what the record says holds. Who does not ask libvirt
// leaves it to who does.
func (m *Manager) relimit(ctx context.Context, h *Handle) error {
	if m.Domains == nil {
		return nil
	}
	if err := m.limit(ctx, h); err != nil {
		return err
	}
	return m.finished(h)
}
