package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// CreateImage makes an image of a volume that is available, that nobody writes to, or, where
// blocks can be shared between files, as it is at one moment. It is raw, and has the
// properties, the least disk and the least memory of the image that the volume was made of.
// A failed or cancelled copy leaves nothing.
func (s *Store) CreateImage(ctx context.Context, req volume.CreateImage) (volume.Image, error) {
	if err := checkName("image name", req.Name); err != nil {
		return volume.Image{}, err
	}
	if err := checkMap("image property", req.Properties); err != nil {
		return volume.Image{}, err
	}
	if req.DiskFormat != "" && req.DiskFormat != formatRaw {
		return volume.Image{}, failure.Invalid("disk format %q: an image of a volume is raw in the local store; 'volume export' makes a qcow2 file of it", req.DiskFormat)
	}
	v, from, src, err := s.openCopied(ctx, req.VolumeID, req.Copying, false)
	if err != nil {
		return volume.Image{}, err
	}
	defer src.Close()
	id := uuid.NewString()
	img := volume.Image{
		ID: id, Name: req.Name, Status: volume.ImageSaving, DiskFormat: formatRaw,
		MinDisk: v.MinDisk, MinRAM: v.MinRAM, Properties: map[string]string{}, CreatedAt: time.Now().UTC(),
	}
	maps.Copy(img.Properties, v.ImageProps)
	maps.Copy(img.Properties, req.Properties)
	dst, err := s.createImage(ctx, img)
	if err != nil {
		return volume.Image{}, s.full(err, "image "+req.Name)
	}
	defer dst.Close()
	err = s.capture(ctx, dst.File, src.File, from, req.Progress)
	hash := ""
	if err == nil {
		hash, err = checksum(ctx, dst.File, from.size)
	}
	if err == nil {
		img, err = s.images.change(ctx, id, func(rec *record[volume.Image]) error {
			rec.PID, rec.Object.Status = 0, volume.ImageActive
			rec.Object.Size, rec.Object.VirtualSize, rec.Object.Checksum = from.size, from.size, hash
			return nil
		})
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
		defer cancel()
		if left := s.images.remove(undo, id); left != nil {
			err = fmt.Errorf("%w; and the failed image %s is left behind: %w", err, id, left)
		}
		return volume.Image{}, s.full(err, "image "+req.Name)
	}
	fault.Point("local/create-image/after-active")
	return img, nil
}

// capture makes the content of an image of a volume, durably.
func (s *Store) capture(ctx context.Context, dst, src *os.File, from source, progress func(done, total int64)) error {
	err := s.copyVolume(ctx, dst, src, from, from.size, func(done int64) {
		if progress != nil {
			progress(done, from.size)
		}
	})
	if err == nil {
		err = dst.Sync()
	}
	if err != nil {
		return fmt.Errorf("copying volume %s: %w", from.id, err)
	}
	fault.Point("local/create-image/after-data")
	return ctx.Err()
}

// openCopied opens a volume that is to be copied, and says how; clone: what is in a pool its
// pool may copy.
func (s *Store) openCopied(ctx context.Context, id string, how volume.Copying, clone bool) (volume.Volume, source, *opened, error) {
	rec, err := s.volumes.get(ctx, id)
	if err != nil {
		return volume.Volume{}, source{}, nil, err
	}
	v := rec.Object
	if clone && v.Managed != nil {
		p, _, err := managed{s}.thin(ctx, &v)
		switch {
		case err == nil:
			v.Pool = p.String()
		case !errors.Is(err, volume.ErrNotFound) && !errors.Is(err, volume.ErrUnsupported):
			return v, source{}, nil, err
		}
	}
	from := rawSource("volume", v.ID, v.Bytes())
	from.how = how
	if from.inUse, err = s.copyable(v, how); err != nil {
		return v, from, nil, err
	}
	from.pool, from.clone = v.Pool, v.Pool != "" && (clone || from.inUse)
	src, err := s.openSource(ctx, from)
	if err == nil && from.clone && !clone {
		from.clone, from.inUse = false, false
		if err = s.openMoment(ctx, v, src); err != nil {
			src.Close()
		}
	}
	return v, from, src, err
}
