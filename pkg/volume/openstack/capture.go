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

const signatureVerified = "signature_verified"

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
	img, err := s.imageOf(ctx, v, req, made)
	// Without enable_force_upload, which is off by default, Cinder reads no volume in use.
	if v.Held() && errors.Is(err, volume.ErrInUse) {
		img, err = s.imageOfCopy(ctx, v, req, made)
	}
	if err == nil {
		patch := withProperties(req.Properties)
		// Cinder copies it from the volume's own image, of which it speaks, and then makes no
		// volume of an image that has it (seen in Zed).
		if _, copied := img.Properties[signatureVerified]; copied {
			patch = append(patch, images.UpdateImageProperty{Op: images.RemoveOp, Name: signatureVerified})
		}
		if len(patch) > 0 {
			img, err = s.patchImage(ctx, img.ID, patch)
		}
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

// imageOf has Cinder make the image, and waits until it is done with the volume too.
func (s *Store) imageOf(ctx context.Context, v volume.Volume, req volume.CreateImage, made func(context.Context) ([]volume.Image, error)) (volume.Image, error) {
	img, err := create(ctx, s, "cinder", "making an image of volume "+v.ID, func() ([]volume.Image, error) { return made(ctx) }, func() (volume.Image, error) {
		up, err := volumes.UploadImage(ctx, s.cinder, v.ID, volumes.UploadImageOpts{
			ImageName: req.Name, DiskFormat: req.DiskFormat, ContainerFormat: "bare", Force: v.Held(),
		}).Extract()
		return volume.Image{ID: up.ImageID}, err
	})
	fault.Point("openstack/create-image/after-request")
	if err != nil {
		return volume.Image{}, s.whyNot(ctx, v.ID, err)
	}
	if img, err = s.waitImage(ctx, img.ID); err == nil {
		_, err = s.settled(ctx, v.ID) // until it is not "uploading" any more
	}
	return img, err
}

// imageOfCopy makes the image of a volume in use by way of a copy of it, which is deleted
// again. Not every driver of Cinder's copies what is in use.
func (s *Store) imageOfCopy(ctx context.Context, v volume.Volume, req volume.CreateImage, made func(context.Context) ([]volume.Image, error)) (img volume.Image, err error) {
	held := s.inUse(ctx, v)
	c, err := s.CreateVolume(ctx, volume.CreateVolume{
		Name: req.Name, Description: "lxcboot's copy of volume " + v.ID + ", until the image is made", Size: v.Size, SourceID: v.ID,
	})
	if err == nil {
		defer func() {
			undo, cancel := afterwards(ctx)
			defer cancel()
			if left := s.DeleteVolume(undo, c.ID); left != nil && !errors.Is(left, volume.ErrNotFound) {
				err = errors.Join(err, fmt.Errorf("the copy %s of volume %s is left behind: %w", c.ID, v.ID, left))
			}
		}()
		c, err = s.WaitVolume(ctx, c.ID)
	}
	if err != nil {
		return volume.Image{}, fmt.Errorf("%w; Cinder makes no image of it, and no copy to make one of (%v): delete the instance, whose volume stays with shutdown=preserve, make the image, and boot it again", held, err)
	}
	return s.imageOf(ctx, c, req, made)
}
