package openstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/imagefile"
)

// Images lists the images that the project can see.
func (s *Store) Images(ctx context.Context) ([]volume.Image, error) {
	return s.listImages(ctx, images.ListOpts{})
}

func (s *Store) listImages(ctx context.Context, o images.ListOpts) ([]volume.Image, error) {
	return retry(ctx, s, "glance", "listing images", func(error) ([]volume.Image, error) {
		pages, err := images.List(s.glance, o).AllPages(ctx)
		if err != nil {
			return nil, err
		}
		all, err := images.ExtractImages(pages)
		out := make([]volume.Image, len(all))
		for i := range all {
			out[i] = imageOf(&all[i])
		}
		return out, err
	})
}

// Image finds an image by its id or name.
func (s *Store) Image(ctx context.Context, ref string) (volume.Image, error) {
	return find(ctx, "image", ref, s.image, func(ctx context.Context, name string) ([]volume.Image, error) {
		return s.listImages(ctx, images.ListOpts{Name: name})
	}, func(i volume.Image) (string, string) { return i.ID, i.Name })
}

func (s *Store) image(ctx context.Context, id string) (volume.Image, error) {
	if err := checkID("image", id); err != nil {
		return volume.Image{}, err
	}
	img, err := retry(ctx, s, "glance", "reading image "+id, func(error) (volume.Image, error) {
		img, err := images.Get(ctx, s.glance, id).Extract()
		if err != nil {
			return volume.Image{}, err
		}
		return imageOf(img), nil
	})
	return img, notThere("image", id, err)
}

// imageOf makes Glance's image one of ours.
func imageOf(i *images.Image) volume.Image {
	img := volume.Image{
		ID: i.ID, Name: i.Name, Status: string(i.Status), DiskFormat: i.DiskFormat,
		Size: i.SizeBytes, VirtualSize: i.VirtualSize, MinDisk: i.MinDiskGigabytes, MinRAM: i.MinRAMMegabytes,
		Properties: map[string]string{}, CreatedAt: i.CreatedAt,
	}
	// Glance tells it only of formats that it inspects. Of raw it is the size.
	if img.VirtualSize == 0 && img.DiskFormat == "raw" {
		img.VirtualSize = img.Size
	}
	for k, v := range i.Properties {
		if text, ok := v.(string); ok {
			img.Properties[k] = text
		}
	}
	algo, hash := img.Properties["os_hash_algo"], img.Properties["os_hash_value"]
	switch {
	case algo != "" && hash != "":
		img.Checksum = algo + ":" + hash
	case i.Checksum != "":
		img.Checksum = "md5:" + i.Checksum
	}
	for _, k := range []string{"os_hash_algo", "os_hash_value", "stores", "locations", "direct_url", "os_glance_importing_to_stores", "os_glance_failed_import"} {
		delete(img.Properties, k)
	}
	return img
}

// diskFormats are those of images that a volume can be made of.
var diskFormats = []string{"raw", "qcow2", "vmdk", "vhdx", "vdi"}

// ownFields are those of Glance's own, which a property can not be called.
var ownFields = []string{"id", "name", "status", "visibility", "protected", "tags", "container_format", "disk_format",
	"min_disk", "min_ram", "size", "virtual_size", "checksum", "owner", "file", "self", "schema", "created_at", "updated_at", "locations", "direct_url"}

// ImportImage uploads a regular file or block device of this host as an image. A
// failed or cancelled import leaves nothing. The image's id is chosen here, so
// that an upload whose answer was lost is found again.
func (s *Store) ImportImage(ctx context.Context, req volume.ImportImage) (volume.Image, error) {
	if err := ctx.Err(); err != nil {
		return volume.Image{}, err
	}
	if err := checkImport(req); err != nil {
		return volume.Image{}, err
	}
	f, size, err := imagefile.Take(req.Content, req.Path)
	if err != nil {
		return volume.Image{}, err
	}
	defer f.Close()
	req.Content = f
	format := req.DiskFormat
	if s.o.Inspect != nil {
		if format, err = s.o.Inspect(ctx, req); err != nil {
			return volume.Image{}, err
		}
	}
	if format == "" {
		return volume.Image{}, failure.Invalid("the disk format of %s is not known: give it, one of %s", req.Path, strings.Join(diskFormats, ", "))
	}
	id, doing := uuid.NewString(), fmt.Sprintf("importing image %q", req.Name)
	err = call(ctx, s, "glance", doing, func(last error) error {
		_, err := images.Create(ctx, s.glance, images.CreateOpts{
			ID: id, Name: req.Name, DiskFormat: format, ContainerFormat: "bare",
			MinDisk: req.MinDisk, MinRAM: req.MinRAM, Properties: maps.Clone(req.Properties),
		}).Extract()
		if last != nil && gophercloud.ResponseCodeIs(err, http.StatusConflict) {
			return nil // by the request that had no answer
		}
		return err
	})
	fault.Point("openstack/import-image/after-create")
	if err == nil {
		err = s.upload(ctx, id, doing, f, size, req.Progress)
	}
	var img volume.Image
	if err == nil {
		img, err = s.waitImage(ctx, id)
	}
	if err != nil {
		undo, cancel := afterwards(ctx)
		defer cancel()
		if left := s.DeleteImage(undo, id); left != nil && !errors.Is(left, volume.ErrNotFound) {
			err = fmt.Errorf("%w; and the failed image %s is left behind: %w", err, id, left)
		}
		return volume.Image{}, err
	}
	return img, nil
}

// checkImport checks what can be told from the request alone.
func checkImport(req volume.ImportImage) error {
	if err := errors.Join(checkText("image name", req.Name), checkProperties(req.Properties)); err != nil {
		return err
	}
	switch {
	case req.Path == "":
		return failure.Invalid("no image file was given")
	case req.MinDisk < 0:
		return failure.Invalid("a minimum disk of %d GiB is less than none", req.MinDisk)
	case req.MinRAM < 0:
		return failure.Invalid("a minimum memory of %d MiB is less than none", req.MinRAM)
	case req.DiskFormat != "" && !slices.Contains(diskFormats, req.DiskFormat):
		return failure.Invalid("disk format %q is none of %s", req.DiskFormat, strings.Join(diskFormats, ", "))
	}
	return nil
}

func checkProperties(all map[string]string) error {
	for k := range all {
		if slices.Contains(ownFields, k) || strings.HasPrefix(k, "os_glance_") {
			return failure.Invalid("image property %q: Glance keeps this name for itself", k)
		}
	}
	return checkTexts("image property", all)
}

// upload sends the data. One that broke off starts again, unless Glance has it.
func (s *Store) upload(ctx context.Context, id, doing string, f io.ReaderAt, size int64, progress func(done, total int64)) error {
	told := int64(0)
	tell := func(n int64) {
		if n > told && progress != nil { // what is sent again is not progress
			progress(n, size)
		}
		told = max(told, n)
	}
	return call(ctx, s, "glance", doing, func(last error) error {
		if last != nil {
			img, err := images.Get(ctx, s.glance, id).Extract()
			switch {
			case err != nil:
				return err
			case img.Status == images.ImageStatusActive:
				return nil
			case img.Status == images.ImageStatusSaving:
				// The service has not noticed yet that the upload broke off, or is
				// still working on it.
				return s.settle(ctx, id)
			}
		}
		return imagedata.Upload(ctx, s.glance, id, &reader{io.NewSectionReader(f, 0, size), tell}).ExtractErr()
	})
}

// settle waits until an image is no longer being saved; one that then has no data
// is an upload to be tried again.
func (s *Store) settle(ctx context.Context, id string) error {
	return poll(ctx, func() (bool, error) {
		img, err := images.Get(ctx, s.glance, id).Extract()
		if err != nil || img.Status == images.ImageStatusSaving {
			return false, err
		}
		if img.Status != images.ImageStatusActive {
			return false, io.ErrUnexpectedEOF
		}
		return true, nil
	})
}

// reader tells how far it has been read. It is a Seeker, so that the upload can
// start again with a new token, and no Closer, so that nobody closes the file.
type reader struct {
	io.ReadSeeker
	tell func(n int64)
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadSeeker.Read(p)
	if at, seekErr := r.Seek(0, io.SeekCurrent); seekErr == nil && n > 0 {
		r.tell(at)
	}
	return n, err
}

// waitImage waits until an image can be used.
func (s *Store) waitImage(ctx context.Context, id string) (img volume.Image, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	err = poll(ctx, func() (bool, error) {
		if img, err = s.image(ctx, id); err != nil {
			return false, err
		}
		switch img.Status {
		case volume.ImageActive:
			return true, nil
		case volume.ImageQueued, volume.ImageSaving, "importing", "uploading":
			return false, nil
		}
		return false, &volume.StateError{Kind: "image", ID: id, Status: img.Status, Want: volume.ImageActive}
	})
	return img, s.translate(ctx, "glance", "waiting for image "+id, err)
}

// pointer writes a name as a part of a JSON pointer (RFC 6901).
var pointer = strings.NewReplacer("~", "~0", "/", "~1")

// PruneImages does nothing: a cloud's services keep what they need by themselves.
func (s *Store) PruneImages(context.Context) ([]volume.Image, error) { return nil, nil }

// UpdateImage changes an image's name and properties.
func (s *Store) UpdateImage(ctx context.Context, id string, req volume.UpdateImage) (volume.Image, error) {
	if err := errors.Join(checkID("image", id), checkProperties(req.Properties)); err != nil {
		return volume.Image{}, err
	}
	var patch images.UpdateOpts
	if req.Name != nil {
		if err := checkText("image name", *req.Name); err != nil {
			return volume.Image{}, err
		}
		patch = append(patch, images.ReplaceImageName{NewName: *req.Name})
	}
	return s.patchImage(ctx, id, append(patch, withProperties(req.Properties)...))
}

// withProperties are changes that set properties.
func withProperties(all map[string]string) (patch images.UpdateOpts) {
	for k, v := range all { // Glance takes it for one that is there as well
		patch = append(patch, images.UpdateImageProperty{Op: images.AddOp, Name: pointer.Replace(k), Value: v})
	}
	return patch
}

func (s *Store) patchImage(ctx context.Context, id string, patch images.UpdateOpts) (volume.Image, error) {
	img, err := retry(ctx, s, "glance", "changing image "+id, func(error) (volume.Image, error) {
		img, err := images.Update(ctx, s.glance, id, patch).Extract()
		if err != nil {
			return volume.Image{}, err
		}
		return imageOf(img), nil
	})
	return img, notThere("image", id, err)
}

// DeleteImage deletes an image.
func (s *Store) DeleteImage(ctx context.Context, id string) error {
	if err := checkID("image", id); err != nil {
		return err
	}
	err := call(ctx, s, "glance", "deleting image "+id, func(last error) error {
		err := images.Delete(ctx, s.glance, id).ExtractErr()
		if last != nil && gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
			return nil
		}
		return err
	})
	return notThere("image", id, err)
}
