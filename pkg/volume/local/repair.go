package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Interrupted lists what processes that ended too early left in the store, in a
// sentence each: objects half made, half deleted, and half changed. Work that is
// going on is not among it. An error that wraps ErrDamaged comes with the rest.
func (s *Store) Interrupted(ctx context.Context) ([]string, error) { return s.sweep(ctx, false) }

// Repair removes what Interrupted lists, and says what it did, in a sentence each.
// It can be interrupted and run again.
func (s *Store) Repair(ctx context.Context) ([]string, error) { return s.sweep(ctx, true) }

func (s *Store) sweep(ctx context.Context, mend bool) ([]string, error) {
	images, err1 := s.images.sweep(ctx, mend, nil)
	volumes, err2 := s.volumes.sweep(ctx, mend, s.sweepExtend)
	snapshots, err3 := s.snapshots.sweep(ctx, mend, nil)
	return append(append(images, volumes...), snapshots...), errors.Join(err1, err2, err3)
}

// sweep finds the left-overs of one shelf, and mends them if asked to. more is
// called for each whole object, under its lock.
func (s *shelf[T]) sweep(ctx context.Context, mend bool, more func(T, bool) (string, error)) ([]string, error) {
	found, err := s.sweepDirs(ctx, mend)
	if err != nil {
		return found, err
	}
	all, damaged := s.list(ctx)
	if damaged != nil && !errors.Is(damaged, ErrDamaged) {
		return found, damaged
	}
	errs := []error{damaged}
	for _, rec := range all {
		id := *s.look(&rec.Object).id
		did, err := s.sweepObject(ctx, id, mend, more)
		if err != nil && !errors.Is(err, volume.ErrNotFound) {
			errs = append(errs, err)
		}
		found = append(found, did...)
	}
	return found, errors.Join(errs...)
}

// sweepDirs finds directories that are not objects yet, or no longer. Nobody is
// working on one while the shelf is locked.
func (s *shelf[T]) sweepDirs(ctx context.Context, mend bool) (found []string, err error) {
	unlock, err := s.lockShelf(ctx, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("listing %ss: %w", s.kind, err)
	}
	for _, e := range entries {
		id, fresh := strings.CutPrefix(e.Name(), newPrefix)
		what := "was never finished"
		if !fresh {
			var old bool
			if id, old = strings.CutPrefix(e.Name(), oldPrefix); !old {
				continue
			}
			what = "was not wholly deleted"
		}
		if mend {
			if err := removeDir(filepath.Join(s.dir, e.Name())); err != nil {
				return found, fmt.Errorf("%s %s %s: %w", s.kind, id, what, err)
			}
			what += ": removed the rest"
		}
		found = append(found, fmt.Sprintf("%s %s %s", s.kind, id, what))
	}
	return found, nil
}

// sweepObject finds what is half done of one object.
func (s *shelf[T]) sweepObject(ctx context.Context, id string, mend bool, more func(T, bool) (string, error)) (found []string, err error) {
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec, err := s.get(ctx, id)
	if err != nil {
		return nil, err
	}
	// get says error for an interrupted object, while its PID is still on record.
	if status := *s.look(&rec.Object).status; rec.PID != 0 && !making(status) {
		what := fmt.Sprintf("%s %s was interrupted while it was made by process %d", s.kind, id, rec.PID)
		if mend {
			f, err := s.content(ctx, id, unix.LOCK_EX)
			if errors.Is(err, lock.ErrHeld) {
				return nil, nil // somebody else is at it
			}
			if err != nil && !errors.Is(err, volume.ErrNotFound) {
				return nil, err
			}
			defer closeFile(f)
			if err := s.remove(ctx, id); err != nil {
				return nil, err
			}
			what += ": removed it"
		}
		return []string{what}, nil
	}
	entries, err := os.ReadDir(s.path(id))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name() == metaName || !strings.HasPrefix(e.Name(), "."+metaName) {
			continue
		}
		what := fmt.Sprintf("%s %s was interrupted while its record was written", s.kind, id)
		if mend {
			if err := os.Remove(filepath.Join(s.path(id), e.Name())); err != nil {
				return found, err
			}
			what += ": removed the half record, the one before is valid"
		}
		found = append(found, what)
	}
	if more != nil {
		did, err := more(rec.Object, mend)
		if did != "" {
			found = append(found, did)
		}
		return found, err
	}
	return found, nil
}

// sweepExtend finds a free volume whose data was made larger, and its record not.
func (s *Store) sweepExtend(v volume.Volume, mend bool) (string, error) {
	path := filepath.Join(s.volumes.path(v.ID), dataName)
	fi, err := os.Lstat(path)
	if err != nil || v.Status != volume.StatusAvailable || fi.Size() <= int64(v.Size)<<30 {
		return "", err
	}
	what := fmt.Sprintf("volume %s was interrupted while it was extended", v.ID)
	if mend {
		if err := os.Truncate(path, int64(v.Size)<<30); err != nil {
			return "", err
		}
		what += fmt.Sprintf(": it has %d GiB as before", v.Size)
	}
	return what, nil
}
