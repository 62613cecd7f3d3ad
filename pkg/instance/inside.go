package instance

import (
	"context"
	"path"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// mountInside mounts a volume in a container that runs: on the host first, as a start does
// it, and then from there in the container, which the host needs for no longer. again is
// giveVolume's.
func (m *Manager) mountInside(ctx context.Context, h *Handle, v *state.Volume, again bool) error {
	if there, err := m.Kernel.Mounted(h.live.Init, v.Device.Path, v.Mapping.MountPath); there || err != nil {
		return err
	}
	if err := m.makeRunDir(h); err != nil {
		return err
	}
	target := m.target(&h.Record, v)
	carrier := ""
	if again {
		var err error
		if carrier, err = m.Kernel.Carrier(v.Device.Path); err != nil {
			return err
		}
	}
	if err := m.mountFrom(ctx, h, v, carrier, target); err != nil {
		return err
	}
	fault.Point("volume mounted on the host")
	if err := m.Kernel.Mount(h.live.Init, target, v.Mapping.MountPath, h.RootIDs()); err != nil {
		return err
	}
	fault.Point("volume mounted in the container")
	return m.release(h, target)
}

// mountFrom is mount, but of a volume whose filesystem something still has mounted: that is
// on a block device which is not to be made a second time.
func (m *Manager) mountFrom(ctx context.Context, h *Handle, v *state.Volume, carrier, target string) error {
	if carrier == "" || v.Filesystem == nil {
		return m.mount(ctx, h, v, target)
	}
	if err := m.Store.MakeMountpoint(target); err != nil {
		return err
	}
	whole := rootfs.Filesystem{Type: v.Filesystem.Type, UUID: v.Filesystem.UUID, Subvolume: v.Filesystem.Subvolume, ReadOnly: v.Filesystem.ReadOnly}
	return m.Roots.Mount(ctx, carrier, whole, target, rootfs.MountOptions{ReadOnly: v.ReadOnly(), IDMap: h.RootIDs()})
}

// unmountInside undoes mountInside, unless something uses what is mounted. The container may
// have ended.
func (m *Manager) unmountInside(ctx context.Context, h *Handle, v *state.Volume) error {
	if err := ignore(m.Kernel.Unmount(ctx, h.live.Init, v.Device.Path, v.Mapping.MountPath), lxc.ErrNotRunning); err != nil {
		return err
	}
	fault.Point("volume unmounted in the container")
	return nil
}

// arrange sees that a container has its volumes where they belong before its init begins:
// after a reboot from inside libvirt mounts what the life before began with, and volumes may
// have come and gone since.
func (m *Manager) arrange(h *Handle) error {
	dirs := map[string]string{}
	for _, dir := range m.Store.MountDirs(h.ID) {
		dirs[dir] = ""
	}
	for i := range h.Volumes {
		v := &h.Volumes[i]
		if target := m.target(&h.Record, v); v.Mapping.MountPath != "" && m.Roots.Mounted(target) {
			dirs[target] = path.Clean(v.Mapping.MountPath)
		}
	}
	if len(dirs) == 0 {
		return nil
	}
	return m.Kernel.Arrange(h.live.Init, dirs, h.RootIDs())
}

// former are the mounts in a definition, by the directory in the container, of volumes that
// the instance has no more, or has elsewhere. Their directories on the host are empty ones
// then, which libvirt wants to find.
func (m *Manager) former(h *Handle, dom lxc.Domain) (dirs []string, err error) {
	want := m.config(&h.Record)
	for _, f := range dom.Filesystems {
		if !m.Store.IsMountDir(h.ID, f.Source) || contains(want.Filesystems, f) {
			continue
		}
		if err := m.Store.MakeMountpoint(f.Source); err != nil {
			return nil, err
		}
		dirs = append(dirs, path.Clean(f.Target))
	}
	return dirs, nil
}

func contains(all []lxc.Filesystem, f lxc.Filesystem) bool {
	for _, a := range all {
		if a.Source == f.Source && path.Clean(a.Target) == path.Clean(f.Target) {
			return true
		}
	}
	return false
}

// release unmounts what is at a mountpoint of the host, and removes that.
func (m *Manager) release(h *Handle, target string) error {
	if err := m.Roots.Unmount(target); err != nil {
		return err
	}
	return m.Store.RemovePath(h.ID, target)
}
