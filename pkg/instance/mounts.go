package instance

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// checkMountpoints looks at the directories that libvirt mounts at, and at more, each in the
// filesystem that it is in.
func (m *Manager) checkMountpoints(h *Handle, more ...string) error {
	dirs := map[string]string{} // by the path in the container
	for i, v := range h.Volumes {
		if v.Mapping.MountPath != "" {
			dirs[path.Clean(v.Mapping.MountPath)] = m.target(&h.Record, &h.Volumes[i])
		}
	}
	targets := slices.Concat(slices.Sorted(maps.Keys(dirs)), more, []string{"/.oldroot", "/dev", "/proc", "/sys"})
	dirs["/"] = m.Store.RootDir(h.ID)
	for _, target := range targets {
		below := path.Dir(target)
		for dirs[below] == "" {
			below = path.Dir(below)
		}
		if err := m.Roots.CheckMountpoint(dirs[below], strings.TrimPrefix(target, below)); err != nil {
			return fmt.Errorf("cannot mount at %s in the container: %w", target, err)
		}
	}
	return nil
}

func (m *Manager) mount(ctx context.Context, h *Handle, v *state.Volume, target string) error {
	if err := m.alone(ctx, v); err != nil {
		return err
	}
	if err := m.mendGrown(ctx, v); err != nil {
		return err
	}
	found, err := m.Roots.Select(ctx, v.Device.Path, selection(v))
	if err != nil {
		return err
	}
	// Once it was mounted, its journal may have to be replayed before a check is right.
	if h.Spec.Fsck && v.Filesystem == nil {
		if err := m.Roots.Check(ctx, v.Device.Path, found); err != nil {
			return err
		}
		fault.Point("filesystem checked")
	}
	if v.Mapping.Root() {
		if found, err = m.Roots.Tree(ctx, v.Device.Path, found); err != nil {
			return err
		}
	}
	v.Filesystem = &found
	if v.Claims() {
		if err := m.claim(ctx, h, v); err != nil {
			return err
		}
	}
	ids := h.RootIDs()
	switch {
	case v.Overlay() != "":
		target = m.Store.LowerDir(h.ID)
		v.Filesystem.Mounts = nil // beside the overlay they would be written to
	case v.Mapping.Upper:
		ids = nil
	}
	more, err := m.grow(ctx, h, v)
	if err != nil {
		return err
	}
	if err := m.Store.MakeMountpoint(target); err != nil {
		return err
	}
	fault.Point("mountpoint made")
	if err := m.Roots.Mount(ctx, v.Device.Path, *v.Filesystem, target, rootfs.MountOptions{ReadOnly: v.ReadOnly(), IDMap: ids, Alone: v.Device.Hold}); err != nil {
		return err
	}
	if more {
		return m.growMounted(ctx, h, v, target)
	}
	return nil
}

// selection is which filesystem of a volume is meant.
func selection(v *state.Volume) rootfs.Selection {
	return rootfs.Selection{Partition: v.Mapping.Partition, Subvolume: v.Mapping.Subvolume}
}

// attachLoop makes a block device of a volume, and the link by which the container's
// definition has it. A file gets a loop device that stays until it is detached: nothing
// but the container's device node refers to it, so with autoclear it would vanish under
// the container. So does a device of this host, which is claimed: who opens that for itself
// alone in the container, as mkfs does, does so with the loop device. It is attached with autoclear all the same, which is taken off once the
// record knows the device: a process killed in between leaves nothing.
func (m *Manager) attachLoop(ctx context.Context, h *Handle, v *state.Volume) error {
	info, err := os.Stat(v.Device.Path)
	if err != nil {
		return err
	}
	if (info.Mode().IsRegular() || v.Device.Hold) && v.Loop == nil {
		if err := m.alone(ctx, v); err != nil {
			return fmt.Errorf("volume %s: %w", v.VolumeID, err)
		}
		if v.Device.Hold {
			if err := m.claim(ctx, h, v); err != nil {
				return fmt.Errorf("volume %s: %w", v.VolumeID, err)
			}
		}
		dev, held, err := m.Loops.Attach(ctx, v.Device.Path, loop.Options{ReadOnly: v.ReadOnly(), Autoclear: true, SameSectors: v.Device.Hold})
		if err != nil {
			return err
		}
		defer held.Close()
		fault.Point("loop device made")
		v.Loop = &dev
		if err := h.Save(); err != nil {
			return err
		}
		fault.Point("loop device attached")
		if err := m.Loops.Keep(held); err != nil {
			return err
		}
	}
	return m.Store.Link(h.ID, v.Mapping.DeviceName, v.Source())
}

// detachLoop undoes attachLoop.
func (m *Manager) detachLoop(h *Handle, v *state.Volume) error {
	if err := m.Store.RemovePath(h.ID, m.Store.DeviceLink(h.ID, v.Mapping.DeviceName)); err != nil {
		return err
	}
	if v.Loop == nil {
		return nil
	}
	dev := *v.Loop
	dev.Autoclear = false // it was attached so, and is not since the record knows it
	if err := m.Loops.Detach(dev); err != nil {
		return fmt.Errorf("loop device %s of volume %s is left: %w", v.Loop.Path, v.VolumeID, err)
	}
	fault.Point("loop device detached")
	v.Loop = nil
	return nil
}

// releaseMounts unmounts on the host. A running container keeps its own copy of
// each mount, and the kernel frees the loop devices when that ends.
func (m *Manager) releaseMounts(_ context.Context, h *Handle) error {
	for _, target := range m.mounts(h) {
		unmount := m.Roots.Unmount
		if target == m.Store.LaunchDir(h.ID) {
			unmount = m.Kernel.Unlaunch
		}
		if err := unmount(target); err != nil {
			return err
		}
		fault.Point("filesystem unmounted")
		if err := m.Store.RemovePath(h.ID, target); err != nil {
			return err
		}
	}
	return nil
}

// mounts are the mountpoints that a start makes.
func (m *Manager) mounts(h *Handle) []string {
	all := []string{m.Store.LaunchDir(h.ID)}
	// What becomes of a root is known for sure once it was mounted.
	for _, target := range []string{m.Store.RootDir(h.ID), m.Store.LowerDir(h.ID), m.Store.UpperDir(h.ID)} {
		if _, err := os.Lstat(target); err == nil {
			all = append(all, target)
		}
	}
	for i := range h.Volumes {
		if target := m.target(&h.Record, &h.Volumes[i]); target != "" && !slices.Contains(all, target) {
			all = append(all, target)
		}
	}
	for _, target := range m.Store.MountDirs(h.ID) { // of volumes that it has no more
		if !slices.Contains(all, target) {
			all = append(all, target)
		}
	}
	return all
}

func (m *Manager) hasMounts(h *Handle) bool {
	return slices.ContainsFunc(m.mounts(h), func(target string) bool {
		_, err := os.Lstat(target)
		return err == nil
	})
}
