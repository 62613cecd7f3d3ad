package local

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// CheckManage gives the volume that ManageVolume would make, without an id, and refuses what
// that would refuse. It changes nothing.
func (s *Store) CheckManage(ctx context.Context, req volume.ManageVolume) (volume.Volume, error) {
	v, d, err := s.planManage(ctx, req)
	if err != nil {
		return v, err
	}
	letGo, err := d.take(ctx)
	if err != nil {
		return v, err
	}
	letGo()
	return v, d.knowable()
}

// ManageVolume makes a volume of a block device of this host, as that is: nothing is copied,
// and nothing on it is ever changed but by who has the volume. A loop device stands for the
// file behind it. What is in use, or a volume already, is refused.
func (s *Store) ManageVolume(ctx context.Context, req volume.ManageVolume) (volume.Volume, error) {
	// Two who do this at once may mean one device.
	lock, err := lockFile(ctx, s.dir, os.O_RDONLY, unix.LOCK_EX, s.o.Wait)
	if err != nil {
		return volume.Volume{}, s.volumes.waited("managing "+req.Device, s.dir, err)
	}
	defer lock.Close()
	v, d, err := s.planManage(ctx, req)
	if err != nil {
		return volume.Volume{}, err
	}
	letGo, err := d.take(ctx)
	if err != nil {
		return volume.Volume{}, err
	}
	defer letGo()
	if err := d.knowable(); err != nil {
		return volume.Volume{}, err
	}
	v.ID = uuid.NewString()
	data, err := s.volumes.create(ctx, record[volume.Volume]{Object: v}) // empty, and locked while it is used
	if err != nil {
		return volume.Volume{}, s.full(err, "volume "+req.Name)
	}
	defer data.Close()
	made, err := s.volumes.change(context.WithoutCancel(ctx), v.ID, func(rec *record[volume.Volume]) error {
		rec.PID, rec.Object.Status = 0, volume.StatusAvailable
		return nil
	})
	if err != nil {
		return made, errors.Join(err, s.volumes.remove(context.WithoutCancel(ctx), v.ID))
	}
	fault.Point("local/manage-volume/after-available")
	return made, nil
}

// planManage is the volume, and the device that it is.
func (s *Store) planManage(ctx context.Context, req volume.ManageVolume) (volume.Volume, device, error) {
	fail := func(err error) (volume.Volume, device, error) { return volume.Volume{}, device{}, err }
	if err := checkName("volume name", req.Name); err != nil {
		return fail(err)
	}
	if err := checkMap("volume metadata", req.Metadata); err != nil {
		return fail(err)
	}
	path, err := filepath.Abs(req.Device)
	if err != nil {
		return fail(err)
	}
	d, err := s.identify(path)
	if err != nil {
		return fail(err)
	}
	if !d.isFile() && s.o.Devices.UnderSystem(d.node.Number) {
		return fail(failure.Of(volume.ErrInUse, "%s is what this system runs from: its root is there", path))
	}
	other, err := s.managedAs(ctx, d)
	if err != nil {
		return fail(err)
	}
	if other != nil {
		return fail(failure.Of(volume.ErrConflict, "%s is managed already: volume %s is %s", path, titled(*other), other.Managed))
	}
	return volume.Volume{
		Name: req.Name, Status: volume.StatusCreating, Size: gib(d.Bytes), Bootable: req.Bootable,
		ReadOnly: req.ReadOnly || d.readOnly, Metadata: maps.Clone(req.Metadata),
		Attachments: []volume.Attachment{}, CreatedAt: time.Now().UTC(), Managed: &d.Managed,
	}, d, nil
}

// titled names a volume by its id, and by its name where it has one.
func titled(v volume.Volume) string {
	if v.Name == "" {
		return v.ID
	}
	return v.Name + " (" + v.ID + ")"
}

// managedAs is the volume that a device is already, in whole or in part, under whatever
// name; nil: it is none.
func (s *Store) managedAs(ctx context.Context, d device) (*volume.Volume, error) {
	all, err := s.Volumes(ctx)
	if err != nil { // it may be the one that cannot be read
		return nil, err
	}
	for _, v := range all {
		if v.Managed == nil {
			continue
		}
		if now, err := s.find(&v); err == nil && s.overlap(now, d) {
			return &v, nil
		}
	}
	return nil, nil
}

// overlap says whether two devices have content in common.
func (s *Store) overlap(a, b device) bool {
	if !a.isFile() || !b.isFile() {
		return !a.isFile() && !b.isFile() && s.o.Devices.Overlap(a.node.Number, b.node.Number)
	}
	x, err1 := os.Stat(a.Path)
	y, err2 := os.Stat(b.Path)
	return err1 == nil && err2 == nil && os.SameFile(x, y) && a.Offset < b.Offset+b.Bytes && b.Offset < a.Offset+a.Bytes
}

// byDevice is the volume that the device of a path is.
func (s *Store) byDevice(ctx context.Context, path string) (volume.Volume, error) {
	d, err := s.identify(path)
	if err != nil {
		return volume.Volume{}, err
	}
	all, err := s.Volumes(ctx)
	for _, v := range all {
		if v.Managed == nil {
			continue
		}
		now, err := s.find(&v)
		if err == nil && now.node.Number == d.node.Number && now.Inode == d.Inode && now.Offset == d.Offset && s.overlap(now, d) {
			return v, nil
		}
	}
	if err != nil {
		return volume.Volume{}, err
	}
	return volume.Volume{}, s.volumes.notFound(path)
}

// UnmanageVolume lets go of a managed volume that no instance holds: its device has on it
// what it had.
func (s *Store) UnmanageVolume(ctx context.Context, id string) error {
	return s.volumes.delete(ctx, id, func(rec *record[volume.Volume]) error {
		switch v := rec.Object; {
		case v.Managed == nil:
			return failure.Of(volume.ErrConflict, "volume %s is the store's own, and no device that is managed: 'lxcboot volume delete %s' deletes it, and what is on it", id, id)
		case len(v.Attachments) != 0:
			return volume.InUse(v)
		}
		return nil
	}, "it is being copied")
}
