package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/google/uuid"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Snapshots lists the project's snapshots.
func (s *Store) Snapshots(ctx context.Context) ([]volume.Snapshot, error) {
	return s.listSnapshots(ctx, snapshots.ListOpts{})
}

func (s *Store) listSnapshots(ctx context.Context, o snapshots.ListOpts) ([]volume.Snapshot, error) {
	return retry(ctx, s, "cinder", "listing snapshots", func(error) ([]volume.Snapshot, error) {
		pages, err := snapshots.List(s.cinder, o).AllPages(ctx)
		if err != nil {
			return nil, err
		}
		all, err := snapshots.ExtractSnapshots(pages)
		out := make([]volume.Snapshot, len(all))
		for i := range all {
			out[i] = snapshotOf(&all[i])
		}
		return out, err
	})
}

// Snapshot finds a snapshot by its id or name.
func (s *Store) Snapshot(ctx context.Context, ref string) (volume.Snapshot, error) {
	return find(ctx, "snapshot", ref, s.snapshot, func(ctx context.Context, name string) ([]volume.Snapshot, error) {
		return s.listSnapshots(ctx, snapshots.ListOpts{Name: name})
	}, func(n volume.Snapshot) (string, string) { return n.ID, n.Name })
}

func (s *Store) snapshot(ctx context.Context, id string) (volume.Snapshot, error) {
	if err := checkID("snapshot", id); err != nil {
		return volume.Snapshot{}, err
	}
	n, err := retry(ctx, s, "cinder", "reading snapshot "+id, func(error) (volume.Snapshot, error) {
		n, err := snapshots.Get(ctx, s.cinder, id).Extract()
		if err != nil {
			return volume.Snapshot{}, err
		}
		return snapshotOf(n), nil
	})
	return n, notThere("snapshot", id, err)
}

func snapshotOf(c *snapshots.Snapshot) volume.Snapshot {
	return volume.Snapshot{ID: c.ID, Name: c.Name, Status: c.Status, VolumeID: c.VolumeID, Size: c.Size, Metadata: c.Metadata, CreatedAt: c.CreatedAt}
}

// CreateSnapshot makes a snapshot of a volume and waits for it: of one that is in use where
// it is known who writes to it. A failed one is deleted again.
func (s *Store) CreateSnapshot(ctx context.Context, req volume.CreateSnapshot) (volume.Snapshot, error) {
	name, volumeID := req.Name, req.VolumeID
	if err := checkText("snapshot name", name); err != nil {
		return volume.Snapshot{}, err
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	v, err := s.volume(ctx, volumeID)
	switch {
	case err != nil:
		return volume.Snapshot{}, err
	case v.Held() && !req.Copying.Still && req.Copying.Moment == nil:
		return volume.Snapshot{}, s.inUse(ctx, v)
	}
	mark := uuid.NewString()
	lost := func(ctx context.Context) ([]volume.Snapshot, error) {
		all, err := s.listSnapshots(ctx, snapshots.ListOpts{VolumeID: volumeID})
		return slices.DeleteFunc(all, func(n volume.Snapshot) bool { return n.Metadata[metaRequest] != mark }), err
	}
	var n volume.Snapshot
	take := func() (err error) {
		n, err = create(ctx, s, "cinder", "making a snapshot of volume "+volumeID, func() ([]volume.Snapshot, error) { return lost(ctx) }, func() (volume.Snapshot, error) {
			n, err := snapshots.Create(ctx, s.cinder, snapshots.CreateOpts{
				VolumeID: volumeID, Name: name, Metadata: map[string]string{metaRequest: mark}, Force: v.Held(),
			}).Extract()
			if err != nil {
				return volume.Snapshot{}, err
			}
			return snapshotOf(n), nil
		})
		fault.Point("openstack/create-snapshot/after-request")
		if err != nil {
			return s.whyNot(ctx, volumeID, err)
		}
		n, err = s.waitSnapshot(ctx, n.ID)
		return err
	}
	if v.Held() && req.Copying.Moment != nil {
		err = req.Copying.Moment(take)
	} else {
		err = take()
	}
	if err != nil {
		undo, cancel := afterwards(ctx)
		defer cancel()
		made, _ := lost(undo)
		for _, n := range made {
			if left := s.DeleteSnapshot(undo, n.ID); left != nil && !errors.Is(left, volume.ErrNotFound) {
				err = fmt.Errorf("%w; and the failed snapshot %s is left behind: %w", err, n.ID, left)
			}
		}
		return volume.Snapshot{}, err
	}
	return n, nil
}

// waitSnapshot waits until a snapshot can be used.
func (s *Store) waitSnapshot(ctx context.Context, id string) (n volume.Snapshot, err error) {
	err = poll(ctx, func() (bool, error) {
		n, err = s.snapshot(ctx, id)
		switch {
		case err != nil:
			return false, err
		case n.Status == volume.StatusAvailable:
			return true, nil
		case n.Status == volume.StatusCreating || n.Status == "backing-up":
			return false, nil
		}
		return false, &volume.StateError{Kind: "snapshot", ID: id, Status: n.Status, Want: volume.StatusAvailable, Detail: s.lastMessage(ctx, id)}
	})
	return n, s.translate(ctx, "cinder", "waiting for snapshot "+id, err)
}

// DeleteSnapshot deletes a snapshot and waits until it is gone.
func (s *Store) DeleteSnapshot(ctx context.Context, id string) error {
	if err := checkID("snapshot", id); err != nil {
		return err
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	// While it is being made it can not be deleted.
	err := poll(ctx, func() (bool, error) {
		n, err := s.snapshot(ctx, id)
		return err == nil && n.Status != volume.StatusCreating && n.Status != "backing-up", err
	})
	if err != nil {
		return s.translate(ctx, "cinder", "waiting for snapshot "+id, err)
	}
	err = call(ctx, s, "cinder", "deleting snapshot "+id, func(last error) error {
		err := snapshots.Delete(ctx, s.cinder, id).ExtractErr()
		if last != nil && gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return notThere("snapshot", id, err)
	}
	err = poll(ctx, func() (bool, error) {
		n, err := s.snapshot(ctx, id)
		switch {
		case errors.Is(err, volume.ErrNotFound):
			return true, nil
		case err == nil && n.Status != volume.StatusDeleting:
			return false, &volume.StateError{Kind: "snapshot", ID: id, Status: n.Status, Want: "gone", Detail: s.lastMessage(ctx, id)}
		}
		return false, err
	})
	return s.translate(ctx, "cinder", "waiting until snapshot "+id+" is gone", err)
}
