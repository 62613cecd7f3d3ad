package openstack

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// CreateImage has Cinder make an image of a volume that is available, or that nobody writes
// to: it reads the volume for as long as that takes. A failed image is deleted again.
func (s *Store) CreateImage(ctx context.Context, req volume.CreateImage) (volume.Image, error) {
	if err := errors.Join(checkText("image name", req.Name), checkProperties(req.Properties)); err != nil {
		return volume.Image{}, err
	}
	if req.Name == "" {
		return volume.Image{}, failure.Invalid("an image that Cinder makes needs a name")
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	v, err := s.volume(ctx, req.VolumeID)
	switch {
	case err != nil:
		return volume.Image{}, err
	case v.Held() && !req.Copying.Still:
		return volume.Image{}, fmt.Errorf("%w; Cinder would copy it while it is written to: stop the instance, or make a snapshot, a volume of that, and the image of this", s.inUse(ctx, v))
	}
	before, err := s.listImages(ctx, images.ListOpts{Name: req.Name})
	if err != nil {
		return volume.Image{}, err
	}
	made := func(ctx context.Context) ([]volume.Image, error) {
		all, err := s.listImages(ctx, images.ListOpts{Name: req.Name})
		return slices.DeleteFunc(all, func(i volume.Image) bool {
			return slices.ContainsFunc(before, func(b volume.Image) bool { return b.ID == i.ID })
		}), err
	}
	img, err := create(ctx, s, "cinder", "making an image of volume "+v.ID, func() ([]volume.Image, error) { return made(ctx) }, func() (volume.Image, error) {
		up, err := volumes.UploadImage(ctx, s.cinder, v.ID, volumes.UploadImageOpts{
			ImageName: req.Name, DiskFormat: req.DiskFormat, ContainerFormat: "bare", Force: v.Held(),
		}).Extract()
		return volume.Image{ID: up.ImageID}, err
	})
	fault.Point("openstack/create-image/after-request")
	if err == nil {
		img, err = s.waitImage(ctx, img.ID)
	} else {
		err = s.whyNot(ctx, v.ID, err)
	}
	if err == nil {
		_, err = s.settled(ctx, v.ID) // until it is not "uploading" any more
	}
	if err == nil && len(req.Properties) > 0 {
		img, err = s.UpdateImage(ctx, img.ID, volume.UpdateImage{Properties: req.Properties})
	}
	if err != nil {
		undo, cancel := afterwards(ctx)
		defer cancel()
		left, _ := made(undo)
		for _, i := range left {
			if failed := s.DeleteImage(undo, i.ID); failed != nil && !errors.Is(failed, volume.ErrNotFound) {
				err = fmt.Errorf("%w; and the failed image %s is left behind: %w", err, i.ID, failed)
			}
		}
		return volume.Image{}, err
	}
	return img, nil
}
