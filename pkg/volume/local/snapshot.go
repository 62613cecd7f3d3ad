package local

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Snapshots lists all snapshots, the oldest first. When some can not be read, the
// others are returned together with an error that wraps ErrDamaged.
func (s *Store) Snapshots(ctx context.Context) ([]volume.Snapshot, error) {
	return s.snapshots.objects(ctx)
}

// Snapshot finds a snapshot by its id or name.
func (s *Store) Snapshot(ctx context.Context, ref string) (volume.Snapshot, error) {
	return s.snapshots.find(ctx, ref)
}

// CreateSnapshot copies a volume that is available, or that nobody writes to, and returns
// when the copy is whole and durable. Where blocks can be shared between files, a volume
// in use can be copied too, as it is at one moment. A failed or cancelled copy leaves
// nothing.
func (s *Store) CreateSnapshot(ctx context.Context, req volume.CreateSnapshot) (volume.Snapshot, error) {
	name := req.Name
	if err := checkName("snapshot name", name); err != nil {
		return volume.Snapshot{}, err
	}
	v, from, src, err := s.openCopied(ctx, req.VolumeID, req.Copying, true)
	if err != nil {
		return volume.Snapshot{}, err
	}
	defer src.Close()
	id := uuid.NewString()
	var dst *lock.Lock
	err = s.roomy(ctx, func() error {
		dst, err = s.snapshots.create(ctx, record[volume.Snapshot]{
			Object: volume.Snapshot{ID: id, Name: name, Status: volume.StatusCreating, VolumeID: v.ID, Size: v.Size, CreatedAt: time.Now().UTC(), Pool: v.Pool},
			Origin: &v,
		})
		return err
	})
	if err != nil {
		return volume.Snapshot{}, s.full(err, "snapshot "+name)
	}
	defer dst.Close()
	snap, err := func() (volume.Snapshot, error) {
		if from.clone {
			err = s.snapshotLV(ctx, v, id)
		} else {
			step, finish := s.progress("copying volume "+v.ID, from.size)
			err = s.copyVolume(ctx, dst.File, src.File, from, int64(v.Size)<<30, step)
			finish()
		}
		if err == nil {
			err = dst.Sync()
		}
		if err != nil {
			return volume.Snapshot{}, fmt.Errorf("copying volume %s: %w", v.ID, err)
		}
		fault.Point("local/create-snapshot/after-data")
		return s.snapshots.change(ctx, id, func(rec *record[volume.Snapshot]) error {
			rec.PID, rec.Object.Status = 0, volume.StatusAvailable
			return nil
		})
	}()
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
		defer cancel()
		left := s.snapshots.remove(undo, id)
		if left == nil && v.Pool != "" {
			left = s.removeLV(undo, v.Pool, id)
		}
		if left != nil {
			err = fmt.Errorf("%w; and the failed snapshot %s is left behind: %w", err, id, left)
		}
		return volume.Snapshot{}, s.full(err, "snapshot "+name)
	}
	fault.Point("local/create-snapshot/after-available")
	return snap, nil
}

// DeleteSnapshot deletes a snapshot. Volumes made of it share nothing with it. One
// that a volume is being made of is in use.
func (s *Store) DeleteSnapshot(ctx context.Context, id string) error {
	pool := ""
	err := s.snapshots.delete(ctx, id, func(rec *record[volume.Snapshot]) error { pool = rec.Object.Pool; return nil },
		"it is being made, or a volume is being made of it")
	if err == nil && pool != "" {
		err = s.removeLV(context.WithoutCancel(ctx), pool, id)
	}
	return err
}
