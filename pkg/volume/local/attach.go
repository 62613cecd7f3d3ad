package local

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// The status words of attachments, as Cinder spells them.
const (
	attachReserved  = "reserved"
	attachAttaching = "attaching"
	attachAttached  = "attached"
)

// Driver is the Connection.Driver of the store's volumes. Their Data holds device_path, the
// absolute path of a regular file or block device, and format, which is raw; of a part of a
// file offset and limit; and hold, where who uses the block device has to see to it that
// nobody else of this host does.
const Driver = "local"

// heldStatus gives the status of a volume that works, from its attachments: that
// of the one that has come furthest.
func heldStatus(all []volume.Attachment) string {
	status := volume.StatusAvailable
	for _, a := range all {
		switch {
		case a.Status == attachAttached:
			return volume.StatusInUse
		case a.Status == attachAttaching:
			status = volume.StatusAttaching
		case status == volume.StatusAvailable:
			status = volume.StatusReserved
		}
	}
	return status
}

// Reserve takes an available volume for an instance, in one atomic step. Who comes
// second gets volume.InUse. A multiattach volume can be held by several instances, but
// by each only once. A read-only volume is always held read-only.
func (s *Store) Reserve(ctx context.Context, volumeID string, by volume.Instance, readOnly bool) (string, error) {
	instanceID := by.ID
	if err := checkName("instance id", instanceID); err != nil {
		return "", err
	}
	if instanceID == "" {
		return "", failure.Invalid("volume %s can not be reserved for nobody", volumeID)
	}
	if err := checkName("instance name", by.Name); err != nil {
		return "", err
	}
	made := by.Reserved(volumeID, s.o.Host)
	made.ID, made.Status = uuid.NewString(), attachReserved
	_, err := s.volumes.change(ctx, volumeID, func(rec *record[volume.Volume]) error {
		v := &rec.Object
		mine := slices.ContainsFunc(v.Attachments, func(a volume.Attachment) bool { return a.InstanceID == instanceID })
		switch {
		case len(v.Attachments) != 0 && (mine || !v.Multiattach):
			return volume.InUse(*v)
		case len(v.Attachments) == 0 && v.Status != volume.StatusAvailable:
			return failure.Of(volume.ErrConflict, "volume %s must be available to be reserved, and it is %q", volumeID, v.Status)
		}
		// Somebody who copies the volume must not have it changed meanwhile.
		f, err := s.volumes.content(ctx, volumeID, unix.LOCK_EX)
		if errors.Is(err, lock.ErrHeld) {
			return failure.Of(volume.ErrInUse, "volume %s is in use by %s: it is being copied; try again when that has ended", volumeID, s.volumes.dataHolder(volumeID))
		}
		if err != nil {
			return err
		}
		defer f.Close()
		if len(v.Attachments) == 0 {
			if err := s.backend(v).reserve(ctx, v); err != nil {
				return err
			}
		}
		made.ReadOnly = readOnly || v.ReadOnly
		v.Attachments = append(v.Attachments, made)
		v.Status = heldStatus(v.Attachments)
		return nil
	})
	if err != nil {
		return "", err
	}
	fault.Point("local/reserve/after-save")
	return made.ID, nil
}

// AttachmentsOf lists the attachments that bind a volume to an instance, or to any
// instance when instanceID is empty: none, when the volume is not there.
func (s *Store) AttachmentsOf(ctx context.Context, volumeID, instanceID string) ([]volume.Attachment, error) {
	rec, err := s.volumes.get(ctx, volumeID)
	if errors.Is(err, volume.ErrNotFound) {
		return nil, nil
	}
	return slices.DeleteFunc(rec.Object.Attachments, func(a volume.Attachment) bool {
		return instanceID != "" && a.InstanceID != instanceID
	}), err
}

// Connect tells how a reserved volume is reached on this host, and puts on record
// that it is being attached here. It may be called again at any later stage. An
// attachment that another host made is volume.InUse, one that is gone is volume.Gone.
func (s *Store) Connect(ctx context.Context, attachmentID string) (volume.Connection, error) {
	var conn volume.Connection
	err := s.useAttachment(ctx, attachmentID, func(v *volume.Volume, a *volume.Attachment) error {
		data, err := s.backend(v).connect(ctx, v)
		if err != nil {
			return err
		}
		if a.Status == attachReserved {
			a.Status = attachAttaching
		}
		a.Host, a.HostID, a.BootID = s.o.Host.Name, s.o.Host.ID, s.o.Host.BootID
		conn = volume.Connection{Driver: Driver, Data: data, ReadOnly: a.ReadOnly}
		return nil
	})
	if err != nil {
		return volume.Connection{}, err
	}
	fault.Point("local/connect/after-save")
	return conn, nil
}

// Complete puts on record that an attachment that was connected is in use now. It
// refuses what Connect refuses.
func (s *Store) Complete(ctx context.Context, attachmentID string) error {
	err := s.useAttachment(ctx, attachmentID, func(v *volume.Volume, a *volume.Attachment) error {
		if a.Status == attachReserved {
			return failure.Of(volume.ErrConflict, "attachment %s of volume %s is %q: connect it first", a.ID, v.ID, a.Status)
		}
		a.Status = attachAttached
		return nil
	})
	if err == nil {
		fault.Point("local/complete/after-save")
	}
	return err
}

// Detach lets go of a volume, at any stage. The last one who does makes it
// available. An attachment that is not there wraps volume.ErrNotFound.
func (s *Store) Detach(ctx context.Context, attachmentID string) error {
	err := s.changeAttachment(ctx, attachmentID, func(v *volume.Volume, a *volume.Attachment) error {
		a.ID = "" // dropped below
		return nil
	})
	if err == nil {
		fault.Point("local/detach/after-save")
	}
	return err
}

// useAttachment is changeAttachment for the host that made it.
func (s *Store) useAttachment(ctx context.Context, id string, change func(*volume.Volume, *volume.Attachment) error) error {
	err := s.changeAttachment(ctx, id, func(v *volume.Volume, a *volume.Attachment) error {
		if a.Elsewhere(s.o.Host) {
			return volume.InUse(*v)
		}
		return change(v, a)
	})
	if missing, ok := errors.AsType[*volume.NotFoundError](err); !ok || missing.Kind != "attachment" {
		return err
	}
	all, _ := s.volumes.list(ctx) // without what cannot be read
	for _, rec := range all {
		if slices.Contains(rec.Former, id) {
			return volume.Gone(id, rec.Object)
		}
	}
	return volume.Gone(id, volume.Volume{})
}

// changeAttachment changes an attachment, or drops it when its id is taken away.
func (s *Store) changeAttachment(ctx context.Context, id string, change func(*volume.Volume, *volume.Attachment) error) error {
	has := func(a volume.Attachment) bool { return a.ID == id }
	gone := &volume.NotFoundError{Kind: "attachment", Ref: id}
	if !isID(id) {
		return gone
	}
	all, err := s.Volumes(ctx)
	at := slices.IndexFunc(all, func(v volume.Volume) bool { return slices.ContainsFunc(v.Attachments, has) })
	if at < 0 {
		if err != nil { // it may be on a record that can not be read
			return fmt.Errorf("attachment %s: %w", id, err)
		}
		return gone
	}
	_, err = s.volumes.change(ctx, all[at].ID, func(rec *record[volume.Volume]) error {
		v := &rec.Object
		i := slices.IndexFunc(v.Attachments, has)
		if i < 0 {
			return gone
		}
		if err := change(v, &v.Attachments[i]); err != nil {
			return err
		}
		if v.Attachments[i].ID == "" {
			v.Attachments = slices.Delete(v.Attachments, i, i+1)
			if len(v.Attachments) == 0 {
				s.backend(v).release(ctx, v)
			}
			rec.Former = append([]string{id}, rec.Former[:min(len(rec.Former), maxFormer-1)]...)
		}
		v.Status = heldStatus(v.Attachments)
		return nil
	})
	return err
}
