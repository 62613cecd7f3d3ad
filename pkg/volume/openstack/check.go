package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumetypes"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// called names a volume that has no id yet.
func called(req volume.CreateVolume) string {
	if req.Name == "" {
		return "a new volume"
	}
	return fmt.Sprintf("volume %q", req.Name)
}

// checkRequest checks what can be told from the request alone.
func checkRequest(req volume.CreateVolume) error {
	if err := errors.Join(checkText("volume name", req.Name), checkText("volume description", req.Description), checkTexts("volume metadata", req.Metadata)); err != nil {
		return err
	}
	sources := 0
	for kind, id := range map[string]string{"image": req.ImageID, "snapshot": req.SnapshotID, "volume": req.SourceID} {
		if id != "" {
			sources++
			if err := checkID(kind, id); err != nil {
				return err
			}
		}
	}
	switch {
	case sources > 1:
		return failure.Invalid("%s can be made of one image, snapshot or volume, and %d were given", called(req), sources)
	case req.Size < 0:
		return failure.Invalid("%s: a size of %d GiB is less than none", called(req), req.Size)
	case req.Size == 0 && req.ImageID != "":
		return failure.Invalid("%s from image %s needs a size in GiB", called(req), req.ImageID)
	case req.Size == 0 && sources == 0:
		return failure.Invalid("%s has neither a size nor anything to be made of: give a size in GiB", called(req))
	}
	return nil
}

// CheckCreate refuses what Cinder would refuse or fail to do, and changes nothing:
// sources that are not there or not ready, sizes that do not hold them, volume
// types that there are not, and more than the project's quota.
func (s *Store) CheckCreate(ctx context.Context, reqs []volume.CreateVolume) error {
	if len(reqs) == 0 {
		return nil
	}
	types, err := s.types(ctx)
	if err != nil {
		return err
	}
	need := demand{}
	for _, req := range reqs {
		if err := checkRequest(req); err != nil {
			return err
		}
		size, typ := req.Size, req.Type
		switch {
		case req.ImageID != "":
			err = s.checkImage(ctx, req)
		case req.SnapshotID != "":
			size, err = s.checkSnapshot(ctx, req)
		case req.SourceID != "":
			size, typ, err = s.checkSource(ctx, req)
		}
		if err == nil {
			err = checkType(req, types)
		}
		if err != nil {
			return err
		}
		need.add(size, typ, types)
	}
	return s.checkQuota(ctx, need)
}

func (s *Store) checkImage(ctx context.Context, req volume.CreateVolume) error {
	img, err := s.image(ctx, req.ImageID)
	if err != nil {
		return err
	}
	// Cinder rounds what does not fill a GiB up.
	need := int((max(img.VirtualSize, img.Size) + 1<<30 - 1) >> 30)
	if img.VirtualSize != 0 && img.DiskFormat != "raw" {
		need = int((img.VirtualSize + 1<<30 - 1) >> 30)
	}
	switch {
	case img.Status != volume.ImageActive:
		return failure.Of(volume.ErrConflict, "image %s is not active, it is %q", img.ID, img.Status)
	case req.Size < need:
		return failure.Invalid("size of image %s, %d GiB, is larger than the %d GiB of %s", img.ID, need, req.Size, called(req))
	case req.Size < img.MinDisk:
		return failure.Invalid("the %d GiB of %s can not be smaller than the min_disk of image %s, %d GiB", req.Size, called(req), img.ID, img.MinDisk)
	}
	return nil
}

func (s *Store) checkSnapshot(ctx context.Context, req volume.CreateVolume) (int, error) {
	snap, err := s.snapshot(ctx, req.SnapshotID)
	switch {
	case err != nil:
		return 0, err
	case snap.Status != volume.StatusAvailable:
		return 0, failure.Of(volume.ErrConflict, "snapshot %s is not available, it is %q", snap.ID, snap.Status)
	case req.Size != 0 && req.Size < snap.Size:
		return 0, failure.Invalid("the %d GiB of %s can not be smaller than snapshot %s, %d GiB", req.Size, called(req), snap.ID, snap.Size)
	}
	return max(req.Size, snap.Size), nil
}

func (s *Store) checkSource(ctx context.Context, req volume.CreateVolume) (int, string, error) {
	from, err := s.volume(ctx, req.SourceID)
	switch {
	case err != nil:
		return 0, "", err
	case from.Status != volume.StatusAvailable && from.Status != volume.StatusInUse:
		return 0, "", failure.Of(volume.ErrConflict, "volume %s is not available, it is %q", from.ID, from.Status)
	case req.Size != 0 && req.Size < from.Size:
		return 0, "", failure.Invalid("the %d GiB of %s can not be smaller than source volume %s, %d GiB", req.Size, called(req), from.ID, from.Size)
	}
	typ := req.Type
	if typ == "" {
		typ = from.Type
	}
	return max(req.Size, from.Size), typ, nil
}

// types lists the volume types that the project can use.
func (s *Store) types(ctx context.Context) ([]volumetypes.VolumeType, error) {
	return retry(ctx, s, "cinder", "listing volume types", func(error) ([]volumetypes.VolumeType, error) {
		pages, err := volumetypes.List(s.cinder, volumetypes.ListOpts{}).AllPages(ctx)
		if err != nil {
			return nil, err
		}
		return volumetypes.ExtractVolumeTypes(pages)
	})
}

// typeNamed finds a volume type by its name or id.
func typeNamed(name string, types []volumetypes.VolumeType) (volumetypes.VolumeType, bool) {
	for _, t := range types {
		if t.Name == name || t.ID == name {
			return t, true
		}
	}
	return volumetypes.VolumeType{}, false
}

func checkType(req volume.CreateVolume, types []volumetypes.VolumeType) error {
	var names []string
	for _, t := range types {
		names = append(names, t.Name)
	}
	t, ok := typeNamed(req.Type, types)
	switch {
	case req.Type != "" && !ok:
		return failure.Invalid("%s: there is no volume type %q; there are %s", called(req), req.Type, strings.Join(names, ", "))
	case req.Multiattach && !strings.EqualFold(t.ExtraSpecs["multiattach"], "<is> true"):
		return failure.Invalid("%s: a volume for several instances needs a volume type with the extra spec multiattach=\"<is> True\", and %q is none", called(req), req.Type)
	}
	return nil
}

// demand is what volumes need of the quota, by the names that Cinder's quota sets
// have for it.
type demand map[string]int

func (d demand) add(size int, typ string, types []volumetypes.VolumeType) {
	d["volumes"]++
	d["gigabytes"] += size
	d["per_volume_gigabytes"] = max(d["per_volume_gigabytes"], size)
	if t, ok := typeNamed(typ, types); ok {
		d["volumes_"+t.Name]++
		d["gigabytes_"+t.Name] += size
	}
}

// checkQuota compares a demand with what is left of the quota. A cloud may hide that from
// its users: then only Cinder's refusal will tell.
func (s *Store) checkQuota(ctx context.Context, need demand) error {
	if s.who.projectID == "" {
		return nil
	}
	var got struct {
		Set map[string]json.RawMessage `json:"quota_set"`
	}
	err := call(ctx, s, "cinder", "reading the quota", func(error) error {
		resp, err := s.cinder.Get(ctx, s.cinder.ServiceURL("os-quota-sets", s.who.projectID)+"?usage=true", &got, nil)
		_, _, err = gophercloud.ParseResponse(resp, err)
		return err
	})
	if errors.Is(err, volume.ErrAuth) || errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(need)) {
		var u struct {
			Limit    int `json:"limit"`
			InUse    int `json:"in_use"`
			Reserved int `json:"reserved"`
		}
		if got.Set[name] == nil || json.Unmarshal(got.Set[name], &u) != nil {
			continue
		}
		if name == "per_volume_gigabytes" {
			u.InUse, u.Reserved = 0, 0
		}
		if u.Limit >= 0 && u.InUse+u.Reserved+need[name] > u.Limit {
			return failure.Of(volume.ErrQuota, "project %s may have %d %s and has %d; %d more can not be had",
				s.who.project, u.Limit, strings.ReplaceAll(name, "_", " "), u.InUse+u.Reserved, need[name])
		}
	}
	return nil
}
