package local

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/imagefile"
)

// Images lists all images, the oldest first. When some can not be read, the
// others are returned together with an error that wraps ErrDamaged.
func (s *Store) Images(ctx context.Context) ([]volume.Image, error) {
	all, err := s.images.objects(ctx)
	for i := range all {
		all[i] = s.withCache(all[i])
	}
	return all, err
}

// Image finds an image by its id or name.
func (s *Store) Image(ctx context.Context, ref string) (volume.Image, error) {
	img, err := s.images.find(ctx, ref)
	return s.withCache(img), err
}

// ImportImage makes an image from a regular file or block device on this host.
// The format is what the content says; it is held against what the user said, and
// an image that needs another file (backing file, data file, extent, parent) or a
// key is refused, all before anything is believed of it: what is checked is the
// store's own copy. The image keeps the file's format and bytes. A failed or
// cancelled import leaves nothing.
func (s *Store) ImportImage(ctx context.Context, req volume.ImportImage) (volume.Image, error) {
	if err := ctx.Err(); err != nil {
		return volume.Image{}, err
	}
	if err := checkImport(req); err != nil {
		return volume.Image{}, err
	}
	src, size, err := imagefile.Take(req.Content, req.Path)
	if err != nil {
		return volume.Image{}, err
	}
	defer src.Close()
	// A first look, so that a file that is refused anyway is not copied.
	if _, err := s.inspectImport(src, size, req); err != nil {
		return volume.Image{}, err
	}

	id := uuid.NewString()
	dst, err := s.createImage(ctx, volume.Image{
		ID: id, Name: req.Name, Status: volume.ImageSaving, DiskFormat: req.DiskFormat,
		MinDisk: req.MinDisk, MinRAM: req.MinRAM, Properties: maps.Clone(req.Properties), CreatedAt: time.Now().UTC(),
	})
	if err != nil {
		return volume.Image{}, s.full(err, "image "+req.Name)
	}
	defer dst.Close()
	img, err := s.saveImage(ctx, id, dst.File, src, size, req)
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
		defer cancel()
		if left := s.images.remove(undo, id); left != nil {
			err = fmt.Errorf("%w; and the failed image %s is left behind: %w", err, id, left)
		}
		return volume.Image{}, s.full(err, "image "+req.Name)
	}
	return img, nil
}

// createImage puts an image on the shelf, in the making.
func (s *Store) createImage(ctx context.Context, img volume.Image) (dst *lock.Lock, err error) {
	err = s.roomy(ctx, func() error {
		dst, err = s.images.create(ctx, record[volume.Image]{Object: img})
		return err
	})
	return dst, err
}

// saveImage copies the file into the store, checks the copy, and makes it active.
func (s *Store) saveImage(ctx context.Context, id string, dst, src *os.File, size int64, req volume.ImportImage) (volume.Image, error) {
	var progress func(int64)
	if req.Progress != nil {
		progress = func(done int64) { req.Progress(done, size) }
	}
	err := s.roomy(ctx, func() error { return fill(ctx, dst, src, size, size, progress) })
	if err != nil {
		return volume.Image{}, fmt.Errorf("importing %s: %w", req.Path, err)
	}
	if err := ctx.Err(); err != nil {
		return volume.Image{}, err
	}
	in, err := s.inspectImport(dst, size, req)
	if err != nil {
		return volume.Image{}, err
	}
	sum := sync.OnceValues(func() (string, error) { return checksum(ctx, dst, size) })
	go sum() // beside the checks and the disk's writing; it ends with dst at the latest
	if in.Format != formatRaw {
		if err := verify(ctx, filepath.Join(s.images.path(id), dataName), in); err != nil {
			return volume.Image{}, fmt.Errorf("file %s: %w", req.Path, err)
		}
	}
	in.tell(req)
	if err := dst.Sync(); err != nil {
		return volume.Image{}, fmt.Errorf("importing %s: %w", req.Path, err)
	}
	hash, err := sum()
	if err != nil {
		return volume.Image{}, fmt.Errorf("importing %s: %w", req.Path, err)
	}
	fault.Point("local/import-image/after-data")
	img, err := s.images.change(ctx, id, func(rec *record[volume.Image]) error {
		rec.PID = 0
		rec.Object.Status = volume.ImageActive
		rec.Object.DiskFormat = in.Format
		rec.Object.Size, rec.Object.VirtualSize, rec.Object.Checksum = size, in.VirtualSize, hash
		return nil
	})
	if err == nil {
		fault.Point("local/import-image/after-active")
	}
	return img, err
}

// checksum is that of an image's content, as Glance keeps it (os_hash_algo and
// os_hash_value): "sha512:HEX".
func checksum(ctx context.Context, f *os.File, size int64) (string, error) {
	hash := sha512.New()
	for pos := int64(0); pos < size; pos += copyChunk {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if _, err := io.Copy(hash, io.NewSectionReader(f, pos, min(copyChunk, size-pos))); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("sha512:%x", hash.Sum(nil)), nil
}

// UpdateImage changes an image's name and properties.
func (s *Store) UpdateImage(ctx context.Context, id string, req volume.UpdateImage) (volume.Image, error) {
	if err := checkMap("image property", req.Properties); err != nil {
		return volume.Image{}, err
	}
	if req.Name != nil {
		if err := checkName("image name", *req.Name); err != nil {
			return volume.Image{}, err
		}
	}
	img, err := s.images.change(ctx, id, func(rec *record[volume.Image]) error {
		img := &rec.Object
		if img.Status != volume.ImageActive {
			return failure.Of(volume.ErrConflict, "image %s is not active, it is %q", id, img.Status)
		}
		if req.Name != nil {
			img.Name = *req.Name
		}
		if img.Properties == nil {
			img.Properties = map[string]string{}
		}
		maps.Copy(img.Properties, req.Properties)
		return nil
	})
	return s.withCache(img), err
}

// DeleteImage deletes an image. One that a volume is being made of is in use.
func (s *Store) DeleteImage(ctx context.Context, id string) error {
	pool := ""
	err := s.images.delete(ctx, id, func(*record[volume.Image]) (err error) { pool, err = s.imagePool(id); return err },
		"it is being imported, or a volume is being made of it")
	if err == nil && pool != "" {
		err = s.removeLV(context.WithoutCancel(ctx), pool, id)
	}
	return err
}

// delete deletes an object whose content nobody uses and that may be deleted.
func (s *shelf[T]) delete(ctx context.Context, id string, may func(*record[T]) error, busy string) error {
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := s.get(ctx, id)
	if err != nil {
		return err
	}
	if err := may(&rec); err != nil {
		return err
	}
	f, err := s.content(ctx, id, unix.LOCK_EX)
	switch {
	case err == nil:
		defer f.Close()
	case errors.Is(err, lock.ErrHeld):
		if rec.PID != 0 {
			busy = "it is being made"
		}
		return failure.Of(volume.ErrInUse, "%s %s is in use by %s: %s; try again when that has ended", s.kind, id, s.dataHolder(id), busy)
	case !errors.Is(err, volume.ErrNotFound): // without data it is only good for deletion
		return err
	}
	return s.remove(ctx, id)
}

// checkImport checks what was asked, before any file is looked at.
func checkImport(req volume.ImportImage) error {
	if err := checkName("image name", req.Name); err != nil {
		return err
	}
	if err := checkMap("image property", req.Properties); err != nil {
		return err
	}
	switch {
	case req.Path == "":
		return failure.Invalid("no image file was given")
	case req.MinDisk < 0 || req.MinDisk > MaxSize:
		return failure.Invalid("a minimum disk of %d GiB is not between 0 and %d", req.MinDisk, MaxSize)
	case req.MinRAM < 0:
		return failure.Invalid("a minimum memory of %d MiB is less than none", req.MinRAM)
	case req.DiskFormat != "" && !slices.Contains(formats, req.DiskFormat):
		return failure.Invalid("disk format %q is none of %s", req.DiskFormat, strings.Join(formats, ", "))
	}
	return nil
}

// inspectImport inspects the content and holds it against the request.
func (s *Store) inspectImport(r io.ReaderAt, size int64, req volume.ImportImage) (inspection, error) {
	in, err := inspect(r, size)
	if err != nil {
		return in, fmt.Errorf("image file %s: %w", req.Path, err)
	}
	if req.DiskFormat != "" && req.DiskFormat != in.Format {
		return in, failure.Invalid("image file %s is %s, not %s as said: say %s, or leave the format out", req.Path, in.Format, req.DiskFormat, in.Format)
	}
	if in.Format == formatRaw && req.DiskFormat == "" {
		head, err := field(r, 0, int(min(size, 8)))
		if err != nil {
			return in, err
		}
		if name := packing(head); name != "" {
			return in, failure.Invalid("image file %s is packed with %s: unpack it first, or say that its format is raw if it is meant as it is", req.Path, name)
		}
	}
	return in, nil
}

// full says where there is no room, when that is the trouble.
func (s *Store) full(err error, what string) error {
	if !isFull(err) {
		return err
	}
	free, ferr := s.free()
	if ferr != nil {
		return err
	}
	return fmt.Errorf("%s does not fit into %s, which has %s free: make room, or choose another with --state-dir (%w)", strings.TrimSpace(what), s.dir, human(free), err)
}

// free gives the bytes that are free for us where the store is.
func (s *Store) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return 0, fmt.Errorf("asking for free space in %s: %w", s.dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// human writes bytes for people.
func human(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
