package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// An image that is not raw is converted once: its raw form is kept beside its data, and
// volumes are copies of that. It is there whole or not at all, since it gets its name when
// it is on disk, and it can go at any time: who reads it has it open.
const (
	rawName    = "raw"
	rawNewName = "raw.new" // one in the making; who makes it has its lock
)

// rawForm opens the raw form of an image, whose content the caller has locked, and makes it
// where it is not there. One makes it at a time, and others wait for that. Where the disk
// has no room to spare for it the error wraps ENOSPC.
func (s *Store) rawForm(ctx context.Context, image source) (*os.File, error) {
	dir := s.images.path(image.id)
	path, fresh := filepath.Join(dir, rawName), filepath.Join(dir, rawNewName)
	raw, err := openRaw(path, image.size)
	if !errors.Is(err, fs.ErrNotExist) {
		return raw, err
	}
	f, err := lockFile(ctx, fresh, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, unix.LOCK_EX, s.o.Wait)
	if err != nil {
		return nil, s.images.waited("the raw form of image "+image.id, fresh, err)
	}
	// Whoever had the lock before may have made it.
	if raw, err = openRaw(path, image.size); errors.Is(err, fs.ErrNotExist) {
		if err = s.makeRaw(ctx, f.File, fresh, path, image); err == nil {
			return f.File, nil
		}
	}
	// While its lock is held: the file is nobody else's.
	err = errors.Join(err, os.Remove(fresh))
	f.Close()
	if err != nil {
		closeFile(raw)
		return nil, err
	}
	return raw, nil
}

// openRaw opens a raw form. One that is not as long as the image's disk is removed, as if
// it had not been there.
func openRaw(path string, size int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() && fi.Size() == size {
		return f, nil
	}
	f.Close()
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return nil, fs.ErrNotExist
}

// makeRaw converts an image into the file at fresh, which is open and locked, and gives it
// its name once it is on disk. A file that a killed conversion left is begun anew.
func (s *Store) makeRaw(ctx context.Context, f *os.File, fresh, path string, image source) error {
	if err := s.spare(image.size); err != nil {
		return err
	}
	err := f.Truncate(0)
	if err == nil {
		err = f.Truncate(image.size)
	}
	if err == nil {
		err = s.convert(ctx, image, fresh, gib(image.size))
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		fault.Point("local/convert-image/before-rename")
		err = os.Rename(fresh, path)
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("converting image %s: %w", image.id, err)
	}
	fault.Point("local/convert-image/after-rename")
	return unix.Flock(int(f.Fd()), unix.LOCK_UN) // those who wait need not wait for the copy
}

// spare says whether a raw form of a size may be made: whatever is in it, there has to be
// room for it, and for the volume beside it where the two do not share their blocks.
func (s *Store) spare(size int64) error {
	if !s.mayShare() {
		size *= 2
	}
	free, err := s.free()
	if err == nil && free < size {
		return fmt.Errorf("%s has %s free, and a raw form is kept where there are %s: %w", s.dir, human(free), human(size), unix.ENOSPC)
	}
	return err
}

// withCache says what an image's raw form takes.
func (s *Store) withCache(img volume.Image) volume.Image {
	var st unix.Stat_t
	if img.ID != "" && unix.Lstat(filepath.Join(s.images.path(img.ID), rawName), &st) == nil {
		img.Cached = st.Blocks * 512
	}
	return img
}

// PruneImages removes the raw forms of all images, and gives the images that had one, with
// what it took as Cached. Where blocks were shared with volumes, less is free than that.
func (s *Store) PruneImages(ctx context.Context) (pruned []volume.Image, err error) {
	all, damaged := s.Images(ctx)
	if damaged != nil && !errors.Is(damaged, ErrDamaged) {
		return nil, damaged
	}
	errs := []error{damaged}
	for _, img := range all {
		dir := s.images.path(img.ID)
		err := os.Remove(filepath.Join(dir, rawName))
		if err == nil {
			fault.Point("local/prune-image/after-remove")
			pruned = append(pruned, img)
			err = durable.SyncDir(dir)
		}
		if errors.Is(err, fs.ErrNotExist) {
			var had bool
			if had, err = s.removeImageLV(ctx, img.ID); had {
				pruned = append(pruned, img)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("the raw form of image %s: %w", img.ID, err))
		}
	}
	return pruned, errors.Join(errs...)
}

// cached is what the raw forms of all images take, and what there would be more room for
// without them.
func (s *Store) cached(ctx context.Context) (bytes int64) {
	all, _ := s.Images(ctx) // without what cannot be read
	for _, img := range all {
		bytes += img.Cached
	}
	return bytes
}

// roomy does something, and once more when the disk was full and had raw forms of images to
// give up.
func (s *Store) roomy(ctx context.Context, do func() error) error {
	err := do()
	if !isFull(err) {
		return err
	}
	if pruned, _ := s.PruneImages(ctx); len(pruned) == 0 {
		return err
	}
	return do()
}

// isFull says of an error that there is no room.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// repairRaw removes a raw form whose making was cut short.
func (s *Store) repairRaw(ctx context.Context, img volume.Image) (string, error) {
	path := filepath.Join(s.images.path(img.ID), rawNewName)
	f, err := lockFile(ctx, path, os.O_RDWR|unix.O_NOFOLLOW, unix.LOCK_EX, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, lock.ErrHeld): // none, or somebody is at it
		return "", nil
	case err != nil:
		return "", err
	}
	defer f.Close()
	if err := os.Remove(path); err != nil {
		return "", err
	}
	return fmt.Sprintf("image %s was interrupted while it was converted: removed the half raw form", img.ID), nil
}
