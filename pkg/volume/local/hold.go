package local

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Hold keeps a volume that nobody has from being given to anybody while a function works on
// its file or device, as a copy of it is kept. That ends with this process, however it ends.
func (s *Store) Hold(ctx context.Context, id string, do func(path string) error) error {
	f, err := s.volumes.content(ctx, id, unix.LOCK_EX)
	if errors.Is(err, lock.ErrHeld) {
		return failure.Of(volume.ErrInUse, "volume %s is in use by %s; try again when that has ended", id, s.volumes.dataHolder(id))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	rec, err := s.volumes.get(ctx, id)
	switch v := rec.Object; {
	case err != nil:
		return err
	case len(v.Attachments) != 0:
		return volume.InUse(v)
	case v.Status != volume.StatusAvailable:
		return failure.Of(volume.ErrConflict, "volume %s is not available, it is %q", id, v.Status)
	}
	return s.backend(&rec.Object).use(ctx, &rec.Object, do)
}
