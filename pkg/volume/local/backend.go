package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// backend is what keeps the content of a volume, below the shelf with its record: a file of
// the store's own, or a device that the host has. All of it is called with the volume's lock
// held, and what it changes of the volume is saved by its caller.
type backend interface {
	// reserve readies a volume that nobody has for who takes it.
	reserve(ctx context.Context, v *volume.Volume) error
	// connect is how it is reached on this host now, as Connection.Data.
	connect(ctx context.Context, v *volume.Volume) (map[string]any, error)
	// release is told when the last one has let go.
	release(ctx context.Context, v *volume.Volume)
	// open opens a volume that nobody has, to be copied: it is read from 0 on.
	open(ctx context.Context, v *volume.Volume) (*os.File, error)
	// use gives a function the path of a volume that nobody has, to be written to.
	use(ctx context.Context, v *volume.Volume, do func(path string) error) error
	// extend makes it larger, and says so in v.
	extend(ctx context.Context, v *volume.Volume, sizeGiB int) error
	// mend takes back what an extension left that was cut short, and says what it did.
	mend(v *volume.Volume) (string, error)
}

// backend is that of a volume.
func (s *Store) backend(v *volume.Volume) backend {
	switch {
	case v.Managed != nil:
		return managed{s}
	case v.Pool != "":
		return lvs{s}
	}
	return files{s}
}

// files are volumes as files of the store.
type files struct{ s *Store }

func (b files) path(v *volume.Volume) string { return filepath.Join(b.s.volumes.path(v.ID), dataName) }

// reserve cuts what an interrupted extension added: that is not the volume's, and repair
// would cut it off later, and what was written there with it.
func (b files) reserve(_ context.Context, v *volume.Volume) error {
	_, err := b.cut(v)
	return err
}

// cut makes a file as long as its volume, where it is longer, and says whether it was.
func (b files) cut(v *volume.Volume) (bool, error) {
	fi, err := os.Lstat(b.path(v))
	if err != nil {
		return false, fmt.Errorf("volume %s: %w: %w", v.ID, ErrDamaged, err)
	}
	if fi.Size() <= v.Bytes() {
		return false, nil
	}
	if err := os.Truncate(b.path(v), v.Bytes()); err != nil {
		return false, fmt.Errorf("volume %s: %w", v.ID, err)
	}
	return true, nil
}

func (b files) connect(_ context.Context, v *volume.Volume) (map[string]any, error) {
	path := b.path(v)
	if fi, err := os.Lstat(path); err != nil {
		return nil, fmt.Errorf("volume %s: %w: %w", v.ID, ErrDamaged, err)
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("volume %s: %w: %s is not a regular file", v.ID, ErrDamaged, path)
	} else if fi.Size() < v.Bytes() {
		return nil, fmt.Errorf("volume %s: %w: %s has %d bytes and should have %d: restore it from a backup", v.ID, ErrDamaged, path, fi.Size(), v.Bytes())
	}
	// Of what runs, nobody knew of more before it was on record.
	_, err := b.cut(v)
	return map[string]any{"device_path": path, "format": formatRaw}, err
}

func (files) release(context.Context, *volume.Volume) {}

func (b files) open(_ context.Context, v *volume.Volume) (*os.File, error) {
	return os.OpenFile(b.path(v), os.O_RDONLY|unix.O_NOFOLLOW, 0)
}

func (b files) use(_ context.Context, v *volume.Volume, do func(path string) error) error {
	return do(b.path(v))
}

func (b files) extend(_ context.Context, v *volume.Volume, sizeGiB int) error {
	f, err := os.OpenFile(b.path(v), os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(sizeGiB) << 30); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	fault.Point("local/extend-volume/after-data")
	v.Size = sizeGiB
	return nil
}

func (b files) mend(v *volume.Volume) (string, error) {
	if v.Status != volume.StatusAvailable {
		return "", nil
	}
	cut, err := b.cut(v)
	if !cut {
		return "", err
	}
	return fmt.Sprintf("volume %s was interrupted while it was extended: it has %d GiB as before", v.ID, v.Size), nil
}
