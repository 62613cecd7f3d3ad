package openstack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// Metadata keys of ours, beside volume.MetaInstance.
const (
	// metaRequest marks what one request creates, so that it is found again when
	// the answer was lost.
	metaRequest = "lxcboot_request"
	// metaReadOnly asks for Cinder's read-only flag, which can only be set once the
	// volume is available.
	metaReadOnly = "lxcboot_readonly"
)

// Volumes lists the project's volumes.
func (s *Store) Volumes(ctx context.Context) ([]volume.Volume, error) {
	return s.listVolumes(ctx, volumes.ListOpts{})
}

func (s *Store) listVolumes(ctx context.Context, o volumes.ListOpts) ([]volume.Volume, error) {
	return retry(ctx, s, "cinder", "listing volumes", func(error) ([]volume.Volume, error) {
		pages, err := volumes.List(s.cinder, o).AllPages(ctx)
		if err != nil {
			return nil, err
		}
		all, err := volumes.ExtractVolumes(pages)
		out := make([]volume.Volume, len(all))
		for i := range all {
			out[i] = volumeOf(&all[i])
		}
		return out, err
	})
}

// VolumesOf lists the volumes that a boot made for an instance.
func (s *Store) VolumesOf(ctx context.Context, instanceID string) ([]volume.Volume, error) {
	return s.marked(ctx, volume.MetaInstance, instanceID)
}

// marked lists the volumes with a metadata entry. Cinder may be set up to leave
// the filter out, so what comes is looked at again.
func (s *Store) marked(ctx context.Context, key, value string) ([]volume.Volume, error) {
	all, err := s.listVolumes(ctx, volumes.ListOpts{Metadata: map[string]string{key: value}})
	return slices.DeleteFunc(all, func(v volume.Volume) bool { return v.Metadata[key] != value }), err
}

// Volume finds a volume by its id or name.
func (s *Store) Volume(ctx context.Context, ref string) (volume.Volume, error) {
	return find(ctx, "volume", ref, s.volume, func(ctx context.Context, name string) ([]volume.Volume, error) {
		return s.listVolumes(ctx, volumes.ListOpts{Name: name})
	}, func(v volume.Volume) (string, string) { return v.ID, v.Name })
}

func (s *Store) volume(ctx context.Context, id string) (volume.Volume, error) {
	if err := checkID("volume", id); err != nil {
		return volume.Volume{}, err
	}
	v, err := retry(ctx, s, "cinder", "reading volume "+id, func(error) (volume.Volume, error) {
		v, err := volumes.Get(ctx, s.cinder, id).Extract()
		if err != nil {
			return volume.Volume{}, err
		}
		return volumeOf(v), nil
	})
	return v, notThere("volume", id, err)
}

// volumeOf makes Cinder's volume one of ours.
func volumeOf(c *volumes.Volume) volume.Volume {
	v := volume.Volume{
		ID: c.ID, Name: c.Name, Description: c.Description, Status: c.Status, Size: c.Size,
		Bootable: c.Bootable == "true", Multiattach: c.Multiattach, Encrypted: c.Encrypted, Type: c.VolumeType,
		ReadOnly:   strings.EqualFold(c.Metadata["readonly"], "true"),
		ImageProps: c.VolumeImageMetadata,
		SnapshotID: c.SnapshotID, SourceID: c.SourceVolID, ImageID: c.VolumeImageMetadata["image_id"],
		Metadata: c.Metadata, Attachments: []volume.Attachment{}, CreatedAt: c.CreatedAt,
	}
	v.MinDisk, _ = strconv.Atoi(c.VolumeImageMetadata["min_disk"])
	v.MinRAM, _ = strconv.Atoi(c.VolumeImageMetadata["min_ram"])
	for _, a := range c.Attachments {
		who := claimOf(c.Metadata, a.AttachmentID)
		if a.ServerID != "" {
			who.instance = a.ServerID
		}
		if a.HostName != "" {
			who.host.Name = a.HostName
		}
		v.Attachments = append(v.Attachments, who.of(volume.Attachment{
			ID: a.AttachmentID, VolumeID: c.ID, Status: "attached", ReadOnly: c.Metadata["attached_mode"] == "ro",
		}))
	}
	// Cinder lists only those that are complete; a claim tells of the others.
	if v.Status == volume.StatusReserved || v.Status == volume.StatusAttaching {
		for _, claim := range claims(c.Metadata) {
			if claim.attachment != "" && !slices.ContainsFunc(v.Attachments, func(a volume.Attachment) bool { return a.ID == claim.attachment }) {
				v.Attachments = append(v.Attachments, claim.of(volume.Attachment{ID: claim.attachment, VolumeID: c.ID, Status: v.Status}))
			}
		}
	}
	return v
}

// CreateVolume asks Cinder for a volume and returns what it says at once, mostly
// with the status "creating". When its context ends on the way, a volume that
// was made nevertheless is deleted.
func (s *Store) CreateVolume(ctx context.Context, req volume.CreateVolume) (volume.Volume, error) {
	if err := checkRequest(req); err != nil {
		return volume.Volume{}, err
	}
	mark := uuid.NewString()
	meta := map[string]string{}
	maps.Copy(meta, req.Metadata)
	meta[metaRequest] = mark
	if req.ReadOnly {
		meta[metaReadOnly] = "true"
	}
	unsure := false
	v, err := create(ctx, s, "cinder", "creating "+called(req), func() ([]volume.Volume, error) {
		return s.marked(ctx, metaRequest, mark)
	}, func() (volume.Volume, error) {
		v, err := volumes.Create(ctx, s.cinder, volumes.CreateOpts{
			Name: req.Name, Description: req.Description, Size: req.Size, Metadata: meta, VolumeType: req.Type,
			ImageID: req.ImageID, SnapshotID: req.SnapshotID, SourceVolID: req.SourceID,
		}, nil).Extract()
		if err != nil {
			unsure = unsure || mayBeTaken(err)
			return volume.Volume{}, err
		}
		return volumeOf(v), nil
	})
	fault.Point("openstack/create-volume/after-request")
	// An answer that was lost may belong to a request that Cinder was still working
	// on when it was looked for; and one that we did not wait for may have succeeded.
	if unsure {
		err = errors.Join(err, s.deleteOthers(ctx, mark, v.ID))
	}
	return v, err
}

// deleteOthers deletes the volumes that a request made beside the one to keep,
// which may be none.
func (s *Store) deleteOthers(ctx context.Context, mark, keep string) error {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	made, err := s.marked(ctx, metaRequest, mark)
	if err != nil {
		return fmt.Errorf("whether a volume was made all the same can not be told; it would have the metadata %s=%s: %w", metaRequest, mark, err)
	}
	for _, v := range made {
		if v.ID == keep {
			continue
		}
		if err := s.DeleteVolume(ctx, v.ID); err != nil && !errors.Is(err, volume.ErrNotFound) {
			return fmt.Errorf("volume %s was made all the same and is left behind: %w", v.ID, err)
		}
	}
	return nil
}

// busy are the states in which Cinder is at work and that end by themselves.
var busy = []string{
	volume.StatusCreating, volume.StatusDownloading, volume.StatusDetaching, volume.StatusExtending,
	"uploading", "retyping", "backing-up", "restoring-backup", "reverting",
}

// WaitVolume waits until a volume is available. An error state ends the wait at
// once, with what Cinder has to say about it.
func (s *Store) WaitVolume(ctx context.Context, id string) (volume.Volume, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	v, err := s.settled(ctx, id)
	if err != nil {
		return volume.Volume{}, err
	}
	if v.Status != volume.StatusAvailable {
		return v, s.badState(ctx, v, volume.StatusAvailable)
	}
	if v.Metadata[metaReadOnly] == "true" && !v.ReadOnly {
		err := call(ctx, s, "cinder", "making volume "+id+" read-only", func(error) error {
			return s.post(ctx, s.cinder.ServiceURL("volumes", id, "action"),
				map[string]any{"os-update_readonly_flag": map[string]any{"readonly": true}})
		})
		if err != nil {
			return v, err
		}
		return s.volume(ctx, id)
	}
	return v, nil
}

// settled waits until a volume is in no state that ends by itself.
func (s *Store) settled(ctx context.Context, id string) (v volume.Volume, err error) {
	err = poll(ctx, func() (bool, error) {
		v, err = s.volume(ctx, id)
		return err == nil && !slices.Contains(busy, v.Status), err
	})
	doing := "waiting for volume " + id
	if v.Status != "" {
		doing += fmt.Sprintf(", which is %q", v.Status)
	}
	return v, s.translate(ctx, "cinder", doing, err)
}

// badState makes an error of a state that a wait was not for.
func (s *Store) badState(ctx context.Context, v volume.Volume, want string) error {
	e := &volume.StateError{Kind: "volume", ID: v.ID, Status: v.Status, Want: want}
	if strings.HasPrefix(v.Status, "error") {
		if e.Detail = s.lastMessage(ctx, v.ID); e.Detail == "" {
			e.Detail = "Cinder left no message; its administrator finds the reason by the volume's id in the log of cinder-volume"
		}
	}
	return e
}

// lastMessage is what Cinder last told its users about a volume or snapshot. It
// is written about when the state changes, so a missing one is waited for a little.
func (s *Store) lastMessage(ctx context.Context, id string) string {
	for try := range 3 {
		if try > 0 && wait.For(ctx, 300*time.Millisecond) != nil {
			return ""
		}
		var got struct {
			Messages []struct {
				Text string `json:"user_message"`
			} `json:"messages"`
		}
		resp, err := s.cinder.Get(ctx, s.cinder.ServiceURL("messages")+"?resource_uuid="+id+"&sort=created_at:desc&limit=1", &got, nil)
		_, _, err = gophercloud.ParseResponse(resp, err)
		switch {
		case err != nil:
			return "" // an operator may have switched them off
		case len(got.Messages) > 0:
			return s.clean(strings.TrimRight(got.Messages[0].Text, "."))
		}
	}
	return ""
}

// post sends an action that has no answer worth reading.
func (s *Store) post(ctx context.Context, url string, body any) error {
	resp, err := s.cinder.Post(ctx, url, body, nil, &gophercloud.RequestOpts{OkCodes: []int{200, 202, 204}})
	_, _, err = gophercloud.ParseResponse(resp, err)
	return err
}

// DeleteVolume deletes a volume and waits until it is gone. One that Cinder is
// still working on is waited for first. One that is held wraps volume.ErrInUse.
func (s *Store) DeleteVolume(ctx context.Context, id string) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	v, err := s.settled(ctx, id)
	if err != nil {
		return err
	}
	if v.Held() {
		return s.inUse(ctx, v)
	}
	if v.Status != volume.StatusDeleting {
		err = call(ctx, s, "cinder", "deleting volume "+id, func(last error) error {
			err := volumes.Delete(ctx, s.cinder, id, volumes.DeleteOpts{}).ExtractErr()
			if last != nil && gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
				return nil
			}
			return err
		})
		if err != nil {
			return s.whyNot(ctx, id, err)
		}
	}
	fault.Point("openstack/delete-volume/after-request")
	err = poll(ctx, func() (bool, error) {
		v, err := s.volume(ctx, id)
		switch {
		case errors.Is(err, volume.ErrNotFound):
			return true, nil
		case err == nil && v.Status != volume.StatusDeleting:
			// It failed; or a driver gave it back, having found the volume busy.
			return false, &volume.StateError{Kind: "volume", ID: id, Status: v.Status, Want: "gone", Detail: s.lastMessage(ctx, id)}
		}
		return false, err
	})
	return s.translate(ctx, "cinder", "waiting until volume "+id+" is gone", err)
}

// whyNot sharpens a refusal by the state the volume is in: Cinder answers 400 to
// whatever the state forbids.
func (s *Store) whyNot(ctx context.Context, id string, err error) error {
	if !errors.Is(err, failure.ErrInvalid) && !errors.Is(err, volume.ErrConflict) {
		return notThere("volume", id, err)
	}
	v, readErr := s.volume(ctx, id)
	if readErr != nil {
		return err
	}
	if v.Held() {
		return s.inUse(ctx, v)
	}
	var e *Error
	if errors.As(err, &e) && (v.Status != volume.StatusAvailable || strings.Contains(strings.ToLower(e.Message), "status must be")) {
		e.Kind = volume.ErrConflict
	}
	return err
}

// UpdateVolume changes a volume's name, whether it can be booted from, and its
// metadata.
func (s *Store) UpdateVolume(ctx context.Context, id string, req volume.UpdateVolume) (volume.Volume, error) {
	if err := checkTexts("volume metadata", req.Metadata); err != nil {
		return volume.Volume{}, err
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	change := func(path string, body map[string]any) error {
		err := call(ctx, s, "cinder", "changing volume "+id, func(error) error {
			return s.post(ctx, s.cinder.ServiceURL("volumes", id, path), body)
		})
		return notThere("volume", id, err)
	}
	var err error
	if req.Name != nil {
		if err := checkText("volume name", *req.Name); err != nil {
			return volume.Volume{}, err
		}
		err = notThere("volume", id, call(ctx, s, "cinder", "renaming volume "+id, func(error) error {
			return volumes.Update(ctx, s.cinder, id, volumes.UpdateOpts{Name: req.Name}).Err
		}))
	}
	if err == nil && len(req.Metadata) > 0 {
		err = change("metadata", map[string]any{"metadata": req.Metadata})
	}
	if err == nil && req.Bootable != nil {
		err = change("action", map[string]any{"os-set_bootable": map[string]any{"bootable": *req.Bootable}})
	}
	if err != nil {
		return volume.Volume{}, err
	}
	return s.volume(ctx, id)
}

// ExtendVolume makes a volume larger and waits until it is. The volume must be
// available, whoever holds it: what runs from it would not see the new size.
func (s *Store) ExtendVolume(ctx context.Context, id string, sizeGiB int, _ string) (volume.Volume, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	v, err := s.volume(ctx, id)
	switch {
	case err != nil:
		return v, err
	case v.Held():
		return v, s.inUse(ctx, v)
	case sizeGiB <= v.Size:
		return v, failure.Invalid("volume %s has %d GiB already and can only become larger, not %d GiB", id, v.Size, sizeGiB)
	}
	err = call(ctx, s, "cinder", "extending volume "+id, func(last error) error {
		if last != nil {
			if v, err := s.volume(ctx, id); err != nil || v.Status == volume.StatusExtending || v.Size == sizeGiB {
				return err
			}
		}
		return volumes.ExtendSize(ctx, s.cinder, id, volumes.ExtendSizeOpts{NewSize: sizeGiB}).ExtractErr()
	})
	if err != nil {
		return v, s.whyNot(ctx, id, err)
	}
	if v, err = s.settled(ctx, id); err != nil {
		return v, err
	}
	if v.Status != volume.StatusAvailable || v.Size < sizeGiB {
		e := &volume.StateError{Kind: "volume", ID: id, Status: v.Status, Want: volume.StatusAvailable, Detail: s.lastMessage(ctx, id)}
		if v.Status == volume.StatusAvailable {
			e.Want = fmt.Sprintf("%s with %d GiB", e.Want, sizeGiB)
		}
		return v, e
	}
	return v, nil
}
