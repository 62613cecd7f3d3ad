package instance

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Trimmed is what came of discarding what the filesystem of a volume does not use.
type Trimmed struct {
	VolumeID  string
	Instance  string // its name; empty: no instance has the volume
	Discarded int64  // bytes that the filesystem said it does not use
	Freed     *int64 // bytes that the volume's file takes less on this host; nil: it is no file
	Skipped   string // why nothing was done; empty: it was
}

// A holder is a store whose volumes are files of this host. Hold keeps a volume that nobody
// has from being given to anybody while the function runs, which gets the path of its file.
type holder interface {
	Hold(ctx context.Context, id string, do func(path string) error) error
}

// untrimmable is why a volume is not trimmed, which does not depend on how it goes now.
func untrimmable(v *state.Volume) string {
	switch {
	case v.ReadOnly():
		return "it is read-only"
	case !v.Mapping.Root() && v.Mapping.MountPath == "" && !v.Mapping.Upper:
		return "the instance has it as a block device, and what is on it is the instance's alone"
	}
	return ""
}

// TrimAll trims each volume that a running instance of this host has mounted, as fstrim
// --all does what is mounted. What is not done has a reason; an error of one does not keep
// the others from being trimmed.
func (m *Manager) TrimAll(ctx context.Context) (all []Trimmed, err error) {
	records, err := m.Store.List()
	errs := []error{err}
	for _, rec := range records {
		if !m.mine(&rec) {
			for _, v := range rec.Volumes {
				all = append(all, Trimmed{VolumeID: v.VolumeID, Instance: rec.Name, Skipped: "its instance is of the host " + rec.Host.Name})
			}
			continue
		}
		if live, err := m.Kernel.Look(rec.Name); err != nil || live.Init == 0 {
			errs = append(errs, err)
			continue
		}
		some, err := m.trimRunning(ctx, rec.ID)
		all = append(all, some...)
		if !errors.Is(err, state.ErrNotFound) { // it was deleted meanwhile
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}

// trimRunning trims what a running instance has mounted.
func (m *Manager) trimRunning(ctx context.Context, id string) (all []Trimmed, err error) {
	h, err := m.open(ctx, id, "")
	if err != nil {
		return nil, err
	}
	defer m.close(ctx, h)
	if !h.lives() {
		return nil, nil
	}
	var errs []error
	for i := range h.Volumes {
		v := &h.Volumes[i]
		t := Trimmed{VolumeID: v.VolumeID, Instance: h.Name, Skipped: untrimmable(v)}
		if t.Skipped == "" {
			err := m.trimMounted(ctx, v, &t)
			if errors.Is(err, rootfs.ErrNoDiscard) {
				t.Skipped, err = rootfs.ErrNoDiscard.Error(), nil
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("volume %s of instance %q: %w", v.VolumeID, h.Name, err))
				continue
			}
		}
		all = append(all, t)
	}
	return all, errors.Join(errs...)
}

// trimMounted trims a volume that the container has mounted.
func (m *Manager) trimMounted(ctx context.Context, v *state.Volume, t *Trimmed) error {
	if v.Device == nil || v.Filesystem == nil {
		t.Skipped = "it is not mounted"
		return nil
	}
	carrier, err := m.Kernel.Carrier(v.Device.Path)
	if err != nil {
		return err
	}
	if carrier == "" {
		t.Skipped = "it is not mounted any more"
		return nil
	}
	return m.trim(ctx, v.Device.Path, *v.Filesystem, carrier, t)
}

// trim trims a filesystem, and looks what the file that it is in has become.
func (m *Manager) trim(ctx context.Context, device string, fsys rootfs.Filesystem, carrier string, t *Trimmed) (err error) {
	before, isFile := allocated(device)
	if t.Discarded, err = m.Roots.Trim(ctx, device, fsys, carrier); err != nil {
		return err
	}
	if after, _ := allocated(device); isFile {
		freed := max(0, before-after) // a container may have written meanwhile
		t.Freed = &freed
	}
	return nil
}

// allocated is how many bytes a file takes.
func allocated(path string) (bytes int64, isFile bool) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, false
	}
	return st.Blocks * 512, true
}

// TrimVolume trims a volume, whoever of this host has it: mounted in a running container,
// of an instance that is stopped, or nobody's. What cannot be is an error.
func (m *Manager) TrimVolume(ctx context.Context, id string) (t Trimmed, err error) {
	vol, err := m.Volumes.Volume(ctx, id)
	if err != nil {
		return t, err
	}
	t.VolumeID = vol.ID
	if len(vol.Attachments) == 0 {
		return t, m.trimFree(ctx, vol, &t)
	}
	h, err := m.open(ctx, vol.Attachments[0].InstanceID, "")
	if errors.Is(err, state.ErrNotFound) {
		return t, volume.InUse(vol)
	}
	if err != nil {
		return t, err
	}
	defer m.close(ctx, h)
	i := h.Volume(vol.ID)
	if i < 0 {
		return t, volume.InUse(vol)
	}
	v := &h.Volumes[i]
	t.Instance, t.Skipped = h.Name, untrimmable(v)
	if t.Skipped == "" && h.lives() {
		err = m.trimMounted(ctx, v, &t)
	} else if t.Skipped == "" {
		err = m.trimStopped(ctx, h, v, &t)
	}
	if err == nil && t.Skipped != "" {
		err = errors.New(t.Skipped)
		return t, failure.Of(volume.ErrConflict, "volume %s is not trimmed: %w", vol.ID, err)
	}
	return t, untrimmed(vol.ID, err)
}

// trimStopped trims a volume of an instance that does not run, which it is found for as for
// a start.
func (m *Manager) trimStopped(ctx context.Context, h *Handle, v *state.Volume, t *Trimmed) error {
	if err := m.sameStore(h); err != nil {
		return err
	}
	if err := m.attachVolume(ctx, h, v); err != nil {
		return err
	}
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
	return m.trim(ctx, v.Device.Path, found, "", t)
}

// trimFree trims a volume that nobody has.
func (m *Manager) trimFree(ctx context.Context, vol volume.Volume, t *Trimmed) error {
	store, ok := m.Volumes.(holder)
	switch {
	case !ok:
		return failure.Of(volume.ErrConflict, "volume %s is not trimmed: no instance here has it, and it reaches this host with one alone", vol.ID)
	case vol.ReadOnly:
		return failure.Of(volume.ErrConflict, "volume %s is not trimmed: it is read-only", vol.ID)
	}
	var mp bdm.Mapping
	if err := inherit(&mp, vol); err != nil {
		return err
	}
	return store.Hold(ctx, vol.ID, func(path string) error {
		err := m.Kernel.WaitAlone(ctx, path)
		var found rootfs.Filesystem
		if err == nil {
			found, err = m.Roots.Select(ctx, path, rootfs.Selection{Partition: mp.Partition, Subvolume: mp.Subvolume})
		}
		if err == nil {
			err = m.trim(ctx, path, found, "", t)
		}
		return untrimmed(vol.ID, err)
	})
}

// untrimmed is an error of trimming, by its kind.
func untrimmed(id string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rootfs.ErrBlank):
		return failure.Of(volume.ErrConflict, "volume %s is not trimmed: it is blank", id)
	case errors.Is(err, rootfs.ErrNoDiscard):
		return failure.Of(volume.ErrUnsupported, "volume %s: %w", id, err)
	}
	return fmt.Errorf("volume %s: %w", id, err)
}
