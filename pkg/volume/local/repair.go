package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Repair removes what processes that ended too early left in the store: objects half
// made, half deleted, and half changed. It says what it did, in a sentence each. Work
// that is going on is left alone. Repair can be interrupted and run again. An error that
// wraps ErrDamaged comes with the rest.
func (s *Store) Repair(ctx context.Context) ([]string, error) {
	images, err1 := s.images.repair(ctx, func(i volume.Image) (string, error) { return s.repairRaw(ctx, i) })
	volumes, err2 := s.volumes.repair(ctx, func(v volume.Volume) (string, error) { return s.backend(&v).mend(&v) })
	snapshots, err3 := s.snapshots.repair(ctx, nil)
	lvs, err4 := s.repairLVs(ctx)
	return slices.Concat(images, volumes, snapshots, lvs), errors.Join(err1, err2, err3, err4)
}

// repair removes the left-overs of one shelf. more is called for each whole object,
// under its lock.
func (s *shelf[T]) repair(ctx context.Context, more func(T) (string, error)) ([]string, error) {
	done, err := s.repairDirs(ctx)
	if err != nil {
		return done, err
	}
	all, damaged := s.list(ctx)
	if damaged != nil && !errors.Is(damaged, ErrDamaged) {
		return done, damaged
	}
	errs := []error{damaged}
	for _, rec := range all {
		id := *s.look(&rec.Object).id
		did, err := s.repairObject(ctx, id, more)
		if err != nil && !errors.Is(err, volume.ErrNotFound) {
			errs = append(errs, err)
		}
		done = append(done, did...)
	}
	return done, errors.Join(errs...)
}

// repairDirs removes directories that are not objects yet, or no longer. Nobody works on
// one while the shelf is locked.
func (s *shelf[T]) repairDirs(ctx context.Context) (done []string, err error) {
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
		if err := removeDir(filepath.Join(s.dir, e.Name())); err != nil {
			return done, fmt.Errorf("%s %s %s: %w", s.kind, id, what, err)
		}
		done = append(done, fmt.Sprintf("%s %s %s: removed the rest", s.kind, id, what))
	}
	return done, nil
}

// repairObject removes what is half done of one object.
func (s *shelf[T]) repairObject(ctx context.Context, id string, more func(T) (string, error)) (done []string, err error) {
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
		f, err := s.content(ctx, id, unix.LOCK_EX)
		if errors.Is(err, lock.ErrHeld) {
			return nil, nil // somebody else is at it
		}
		if err != nil && !errors.Is(err, volume.ErrNotFound) {
			return nil, err
		}
		if f != nil {
			defer f.Close()
		}
		if err := s.remove(ctx, id); err != nil {
			return nil, err
		}
		return []string{fmt.Sprintf("%s %s was interrupted while it was made by process %d: removed it", s.kind, id, rec.PID)}, nil
	}
	entries, err := os.ReadDir(s.path(id))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name() == metaName || !strings.HasPrefix(e.Name(), "."+metaName) {
			continue
		}
		if err := os.Remove(filepath.Join(s.path(id), e.Name())); err != nil {
			return done, err
		}
		done = append(done, fmt.Sprintf("%s %s was interrupted while its record was written: removed the half record, the one before is valid", s.kind, id))
	}
	if more != nil {
		did, err := more(rec.Object)
		if did != "" {
			done = append(done, did)
		}
		return done, err
	}
	return done, nil
}
