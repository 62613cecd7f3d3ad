package openstack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/attachments"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// reservation is the request for an attachment without a connector. Unlike
// gophercloud's, it leaves instance_uuid out when there is none: Cinder refuses
// an empty one.
type reservation struct {
	VolumeID string `json:"volume_uuid"`
	Instance string `json:"instance_uuid,omitempty"`
	Mode     string `json:"mode"` // ro, rw
}

// ToAttachmentCreateMap makes it a body.
func (r reservation) ToAttachmentCreateMap() (map[string]any, error) {
	return map[string]any{"attachment": r}, nil
}

// Reserve takes an available volume for an instance, in one atomic step of
// Cinder's. Who comes second gets volume.InUse. A multiattach volume can be held by
// several instances, but by each only once. A read-only volume is always held
// read-only.
func (s *Store) Reserve(ctx context.Context, volumeID string, by volume.Instance, readOnly bool) (string, error) {
	instanceID := by.ID
	if instanceID == "" {
		return "", failure.Invalid("volume %s can not be reserved for nobody", volumeID)
	}
	if err := checkText("instance id", claimPrefix+instanceID); err != nil {
		return "", err
	}
	mine := reserving(by, s.o.Host)
	if err := checkTexts("what is noted of instance "+by.Name, mine.entries()); err != nil {
		return "", err
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	v, err := s.volume(ctx, volumeID)
	if err == nil {
		err = reservable(v, instanceID)
	}
	if err == nil && v.Status == volume.StatusAvailable {
		err = s.dropStale(ctx, v)
	}
	if err == nil {
		err = s.setClaim(ctx, volumeID, mine)
	}
	if errors.Is(err, volume.ErrInUse) {
		err = s.inUse(ctx, v)
	}
	if err != nil {
		return "", err
	}
	fault.Point("openstack/reserve/after-claim")
	id, err := s.reserve(ctx, volumeID, instanceID, readOnly || v.ReadOnly)
	fault.Point("openstack/reserve/after-create")
	if err == nil {
		mine.attachment = id
		err = s.setClaim(ctx, volumeID, mine)
	}
	if err == nil {
		return id, nil
	}
	refusal := s.whyNot(ctx, volumeID, err)
	undo, done := afterwards(ctx)
	defer done()
	if left := s.unreserve(undo, volumeID, instanceID); left != nil {
		return "", fmt.Errorf("%w; and what was reserved could not be let go: %w", refusal, left)
	}
	return "", refusal
}

// reservable says whether a volume can be reserved as it is.
func reservable(v volume.Volume, instanceID string) error {
	mine := slices.ContainsFunc(v.Attachments, func(a volume.Attachment) bool { return a.InstanceID == instanceID })
	switch {
	case v.Encrypted:
		return failure.Of(volume.ErrUnsupported, "volume %s is encrypted by Cinder, which this host can not undo: use a volume type without encryption", v.ID)
	case v.Status == volume.StatusAvailable:
		return nil
	case v.Status == volume.StatusInUse && v.Multiattach && !mine:
		return nil
	case v.Held():
		return volume.InUse(v)
	}
	return failure.Of(volume.ErrConflict, "volume %s must be available to be reserved, and it is %q", v.ID, v.Status)
}

// reserve asks for the attachment; before it asks again, it looks whether there is
// one already.
func (s *Store) reserve(ctx context.Context, volumeID, instanceID string, readOnly bool) (string, error) {
	ask := reservation{VolumeID: volumeID, Mode: "rw"}
	if readOnly {
		ask.Mode = "ro"
	}
	if s.service != nil {
		ask.Instance = instanceID
	}
	a, err := create(ctx, s, "cinder", "reserving volume "+volumeID, func() ([]volume.Attachment, error) {
		return s.AttachmentsOf(ctx, volumeID, instanceID)
	}, func() (volume.Attachment, error) {
		a, err := attachments.Create(ctx, s.cinder, ask).Extract()
		if err != nil {
			return volume.Attachment{}, err
		}
		return attachmentOf(a, nil), nil
	})
	return a.ID, err
}

// unreserve lets go of whatever a reservation that failed has made.
func (s *Store) unreserve(ctx context.Context, volumeID, instanceID string) error {
	mine, err := s.AttachmentsOf(ctx, volumeID, instanceID)
	if err != nil {
		return err
	}
	for _, a := range mine {
		if err := s.Detach(ctx, a.ID); err != nil && !errors.Is(err, volume.ErrNotFound) {
			return err
		}
	}
	if err := s.dropClaim(ctx, volumeID, instanceID); err != nil && !errors.Is(err, volume.ErrNotFound) {
		return err
	}
	return nil
}

// AttachmentsOf lists the attachments that bind a volume to an instance, or to any
// instance when instanceID is empty: none, when the volume is not there. It finds
// also one whose id was lost between its creation and the note of it.
func (s *Store) AttachmentsOf(ctx context.Context, volumeID, instanceID string) ([]volume.Attachment, error) {
	// Several may be reserving at this moment, and an attachment may have no name on
	// it yet: they write it in no time.
	for deadline := time.Now().Add(5 * time.Second); ; {
		all, unclear, err := s.attachmentsOf(ctx, volumeID, instanceID)
		if err != nil || !unclear || time.Now().After(deadline) {
			return all, err
		}
		if err := wait.For(ctx, 200*time.Millisecond); err != nil {
			return nil, s.translate(ctx, "cinder", "listing the attachments of volume "+volumeID, err)
		}
	}
}

// attachmentsOf is AttachmentsOf at one moment; unclear says that there is an
// attachment which may be the instance's or another's.
func (s *Store) attachmentsOf(ctx context.Context, volumeID, instanceID string) (out []volume.Attachment, unclear bool, err error) {
	v, err := s.volume(ctx, volumeID)
	if errors.Is(err, volume.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	all, err := retry(ctx, s, "cinder", "listing the attachments of volume "+volumeID, func(error) ([]attachments.Attachment, error) {
		pages, err := attachments.List(s.cinder, attachments.ListOpts{VolumeID: volumeID}).AllPages(ctx)
		if err != nil {
			return nil, err
		}
		return attachments.ExtractAttachments(pages)
	})
	if err != nil {
		return nil, false, err
	}
	noted := claims(v.Metadata)
	for _, c := range all {
		if c.VolumeID != volumeID {
			continue
		}
		a := attachmentOf(&c, v.Metadata)
		if a.InstanceID == "" {
			who, several := beginner(a.Status, instanceID, noted)
			if who.instance != "" {
				a = who.of(a)
			}
			unclear = unclear || several
		}
		if instanceID == "" || a.InstanceID == instanceID {
			out = append(out, a)
		}
	}
	return out, unclear, nil
}

// attachmentOf makes Cinder's attachment one of ours.
func attachmentOf(c *attachments.Attachment, meta map[string]string) volume.Attachment {
	who := claimOf(meta, c.ID)
	if c.Instance != "" {
		who.instance = c.Instance
	}
	return who.of(volume.Attachment{ID: c.ID, VolumeID: c.VolumeID, Status: c.Status, ReadOnly: c.AttachMode == "ro"})
}

// inUse is volume.InUse, with all who hold the volume: Cinder's volume lists only those
// that are complete, and what is noted on it may be old.
func (s *Store) inUse(ctx context.Context, v volume.Volume) error {
	if all, err := s.AttachmentsOf(ctx, v.ID, ""); err == nil && len(all) > 0 {
		v.Attachments = all
	}
	return volume.InUse(v)
}

// gone makes volume.Gone of an error that says that an attachment is not there.
func (s *Store) gone(ctx context.Context, id string, err error) error {
	if missing, ok := errors.AsType[*volume.NotFoundError](err); !ok || missing.Kind != "attachment" {
		return err
	}
	v := s.leftBy(ctx, id)
	if v.Held() {
		return s.inUse(ctx, v)
	}
	return volume.Gone(id, v)
}

// leftBy is the volume that an attachment was of which is gone; a zero one when that is
// not known. Its claim on the volume goes, but for a note by which this finds it again.
func (s *Store) leftBy(ctx context.Context, id string) volume.Volume {
	all, err := s.Volumes(ctx)
	at := slices.IndexFunc(all, func(v volume.Volume) bool {
		return claimOf(v.Metadata, id).attachment != "" || slices.Contains(formerOf(v), id)
	})
	if err != nil || at < 0 {
		return volume.Volume{}
	}
	v := all[at]
	if c := claimOf(v.Metadata, id); c.attachment != "" {
		if err = s.noteFormer(ctx, v, id); err == nil {
			err = s.dropClaim(ctx, v.ID, c.instance)
		}
		if err != nil {
			s.o.Warn(err.Error())
		}
	}
	return v
}

// attachment reads one attachment.
func (s *Store) attachment(ctx context.Context, id string) (*attachments.Attachment, error) {
	if err := checkID("attachment", id); err != nil {
		return nil, err
	}
	a, err := retry(ctx, s, "cinder", "reading attachment "+id, func(error) (*attachments.Attachment, error) {
		return attachments.Get(ctx, s.cinder, id).Extract()
	})
	return a, notThere("attachment", id, err)
}

// Connect tells Cinder which host will use a reserved volume, and gets from it how
// the volume is reached. Done again, on the same host, it gives the same. An attachment
// that another host made is volume.InUse, one that is gone is volume.Gone.
func (s *Store) Connect(ctx context.Context, attachmentID string) (volume.Connection, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	conn, err := s.connect(ctx, attachmentID)
	return conn, s.gone(ctx, attachmentID, err)
}

func (s *Store) connect(ctx context.Context, attachmentID string) (volume.Connection, error) {
	a, err := s.attachment(ctx, attachmentID)
	if err != nil {
		return volume.Connection{}, err
	}
	if s.o.Connector == nil {
		return volume.Connection{}, failure.Of(volume.ErrUnsupported, "attachment %s: this host's properties are not known", attachmentID)
	}
	properties, err := s.o.Connector(ctx)
	if err != nil {
		return volume.Connection{}, fmt.Errorf("this host's properties: %w", err)
	}
	v, err := s.volume(ctx, a.VolumeID)
	if err != nil {
		return volume.Connection{}, err
	}
	mine := attachmentOf(a, v.Metadata)
	if mine.Elsewhere(s.o.Host) {
		v.Attachments = []volume.Attachment{mine}
		return volume.Connection{}, volume.InUse(v)
	}
	properties = maps.Clone(properties)
	properties["host"] = s.o.Host.Name // as Nova does with its own setting
	properties["mode"] = a.AttachMode
	properties["instance"] = mine.InstanceID
	if mine.InstanceID != "" {
		c := claimOf(v.Metadata, attachmentID)
		c.instance, c.attachment, c.host = mine.InstanceID, attachmentID, s.o.Host
		if err := s.setClaim(ctx, a.VolumeID, c); err != nil {
			return volume.Connection{}, err
		}
	}
	fault.Point("openstack/connect/before-update")
	a, err = retry(ctx, s, "cinder", "connecting volume "+a.VolumeID, func(last error) (*attachments.Attachment, error) {
		if last != nil {
			if a, err := attachments.Get(ctx, s.cinder, attachmentID).Extract(); err != nil || a.ConnectionInfo["driver_volume_type"] != nil {
				return a, err
			}
		}
		return attachments.Update(ctx, s.cinder, attachmentID, attachments.UpdateOpts{Connector: properties}).Extract()
	})
	if err != nil {
		return volume.Connection{}, s.withMessage(ctx, v.ID, notThere("attachment", attachmentID, err))
	}
	fault.Point("openstack/connect/after-update")
	// The answer to the update may lack what reading the attachment adds, such as the
	// format that a file is known to have.
	if a, err = s.attachment(ctx, a.ID); err != nil {
		return volume.Connection{}, err
	}
	return connectionOf(a)
}

// ConnectionOf says how the host that made an attachment reaches the volume. It has no
// driver where Cinder has not told that host yet.
func (s *Store) ConnectionOf(ctx context.Context, attachmentID string) (volume.Connection, error) {
	a, err := s.attachment(ctx, attachmentID)
	if err != nil || a.ConnectionInfo["driver_volume_type"] == nil {
		return volume.Connection{}, err
	}
	return connectionOf(a)
}

// withMessage adds what Cinder told its users, which says more than "Unable to
// update the attachment".
func (s *Store) withMessage(ctx context.Context, volumeID string, err error) error {
	var e *Error
	if errors.As(err, &e) && e.Status >= 500 {
		if said := s.lastMessage(ctx, volumeID); said != "" {
			e.Message += ": " + said
		}
	}
	return err
}

// connectionOf takes the connection from an attachment. The attachments API gives
// the driver's facts and their description in one map.
func connectionOf(a *attachments.Attachment) (volume.Connection, error) {
	data, _ := plain(a.ConnectionInfo).(map[string]any)
	driver, _ := data["driver_volume_type"].(string)
	if driver == "" {
		return volume.Connection{}, failure.Of(volume.ErrUnsupported, "cinder does not say how volume %s is reached (attachment %s has no driver_volume_type)", a.VolumeID, a.ID)
	}
	delete(data, "driver_volume_type")
	if nested, ok := data["data"].(map[string]any); ok {
		delete(data, "data")
		maps.Copy(data, nested)
	}
	readOnly := a.AttachMode == "ro"
	if a.AttachMode != "ro" && a.AttachMode != "rw" {
		readOnly = data["access_mode"] == "ro"
	}
	return volume.Connection{Driver: driver, Data: data, ReadOnly: readOnly}, nil
}

// plain copies what came as JSON, with whole numbers as int.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = plain(e)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = plain(e)
		}
		return l
	case float64:
		if n := int(v); float64(n) == v {
			return n
		}
	}
	return v
}

// Complete tells Cinder that the volume is in use now. One that is gone is volume.Gone.
func (s *Store) Complete(ctx context.Context, attachmentID string) error {
	if err := checkID("attachment", attachmentID); err != nil {
		return err
	}
	err := call(ctx, s, "cinder", "completing attachment "+attachmentID, func(error) error {
		return attachments.Complete(ctx, s.cinder, attachmentID).ExtractErr()
	})
	return s.gone(ctx, attachmentID, notThere("attachment", attachmentID, err))
}

// Detach deletes an attachment, whichever host made it, and waits until the volume
// shows it. What one that is gone has left on its volume goes.
func (s *Store) Detach(ctx context.Context, attachmentID string) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	a, err := s.attachment(ctx, attachmentID)
	if errors.Is(err, volume.ErrNotFound) {
		s.leftBy(ctx, attachmentID)
	}
	if err != nil {
		return err
	}
	err = call(ctx, s, "cinder", "detaching volume "+a.VolumeID, func(last error) error {
		err := attachments.Delete(ctx, s.cinder, attachmentID).ExtractErr()
		if last != nil && gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return hintNova(notThere("attachment", attachmentID, err), a, s.service != nil)
	}
	fault.Point("openstack/detach/after-delete")
	v := volume.Volume{}
	err = poll(ctx, func() (bool, error) {
		v, err = s.volume(ctx, a.VolumeID)
		gone := !slices.ContainsFunc(v.Attachments, func(has volume.Attachment) bool { return has.ID == attachmentID && has.Status == "attached" })
		return err == nil && gone && v.Status != volume.StatusDetaching, err
	})
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return s.translate(ctx, "cinder", "waiting until volume "+a.VolumeID+" is detached", err)
	}
	c := claimOf(v.Metadata, attachmentID)
	if c.instance == "" {
		return nil
	}
	if c.of(volume.Attachment{}).Elsewhere(s.o.Host) {
		if err := s.noteFormer(ctx, v, attachmentID); err != nil {
			return err
		}
	}
	return s.dropClaim(ctx, v.ID, c.instance)
}

// hintNova says what to do about an attachment that Cinder keeps for Nova.
func hintNova(err error, a *attachments.Attachment, service bool) error {
	var e *Error
	if errors.As(err, &e) && a.Instance != "" && len(a.ConnectionInfo) > 0 && !service && (e.Status == http.StatusConflict || e.Status >= 500) {
		e.Message += "; the attachment carries the instance's id in Cinder's own field, so only a service user may delete it: set os-service-cloud"
	}
	return err
}
