package volumetest

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// attach walks a volume through a whole attachment, twice.
func (s *suite) attach() {
	v := s.blank()
	for range 2 {
		instance := newID()
		id := s.reserve(v.ID, instance, false)
		s.status(v.ID, volume.StatusReserved)
		s.attachment(v.ID, instance, id, "reserved")

		conn, err := s.Connect(s.ctx(), id)
		if err != nil {
			s.Fatalf("connecting: %v", err)
		}
		if conn.Driver == "" || len(conn.Data) == 0 || conn.ReadOnly {
			s.Errorf("the connection: driver %q, %d facts, read-only %v", conn.Driver, len(conn.Data), conn.ReadOnly)
		}
		s.status(v.ID, volume.StatusAttaching)
		if a := s.attachment(v.ID, instance, id, "attaching"); a.Host == "" {
			s.Errorf("a connected attachment names no host: %+v", a)
		}

		if err := s.Complete(s.ctx(), id); err != nil {
			s.Fatalf("completing: %v", err)
		}
		got := s.status(v.ID, volume.StatusInUse)
		if a := s.attachment(v.ID, instance, id, "attached"); a.Host == "" || a.ReadOnly {
			s.Errorf("a completed attachment: %+v", a)
		}
		if len(got.Attachments) != 1 || got.Attachments[0].InstanceID != instance {
			s.Errorf("the volume's attachments: %+v", got.Attachments)
		}

		if err := s.Detach(s.ctx(), id); err != nil {
			s.Fatalf("detaching: %v", err)
		}
		if got := s.status(v.ID, volume.StatusAvailable); len(got.Attachments) != 0 {
			s.Errorf("attachments after detaching: %+v", got.Attachments)
		}
		s.is(s.Detach(s.ctx(), id), volume.ErrNotFound, "detaching twice")
	}

	// Each stage can be left again.
	instance := newID()
	id := s.reserve(v.ID, instance, false)
	if err := s.Detach(s.ctx(), id); err != nil {
		s.Errorf("detaching a reserved volume: %v", err)
	}
	s.status(v.ID, volume.StatusAvailable)
	id = s.reserve(v.ID, instance, false)
	if _, err := s.Connect(s.ctx(), id); err != nil {
		s.Fatalf("connecting: %v", err)
	}
	if err := s.Detach(s.ctx(), id); err != nil {
		s.Errorf("detaching an attaching volume: %v", err)
	}
	s.status(v.ID, volume.StatusAvailable)
}

// attachment checks the one attachment that binds the volume to the instance.
func (s *suite) attachment(volumeID, instanceID, id, status string) volume.Attachment {
	s.Helper()
	all, err := s.AttachmentsOf(s.ctx(), volumeID, instanceID)
	if err != nil || len(all) != 1 {
		s.Fatalf("attachments of volume %s to %s: %+v, %v", volumeID, instanceID, all, err)
	}
	a := all[0]
	if a.ID != id || a.VolumeID != volumeID || a.InstanceID != instanceID || a.Status != status {
		s.Errorf("attachment %+v, want id %s and status %s", a, id, status)
	}
	return a
}

func (s *suite) readOnly() {
	v := s.blank()
	instance := newID()
	id := s.reserve(v.ID, instance, true)
	conn, err := s.Connect(s.ctx(), id)
	if err != nil {
		s.Fatalf("connecting: %v", err)
	}
	if !conn.ReadOnly {
		s.Errorf("a read-only attachment gave a connection to write")
	}
	if err := s.Complete(s.ctx(), id); err != nil {
		s.Fatalf("completing: %v", err)
	}
	if a := s.attachment(v.ID, instance, id, "attached"); !a.ReadOnly {
		s.Errorf("a read-only attachment: %+v", a)
	}
}

// lostAttachment forgets an attachment's id, as a crash does.
func (s *suite) lostAttachment() {
	v := s.blank()
	instance := newID()
	s.reserve(v.ID, instance, false)
	all, err := s.AttachmentsOf(s.ctx(), v.ID, instance)
	if err != nil || len(all) != 1 {
		s.Fatalf("looking for a lost attachment: %+v, %v", all, err)
	}
	if others, err := s.AttachmentsOf(s.ctx(), v.ID, newID()); err != nil || len(others) != 0 {
		s.Errorf("attachments of another instance: %+v, %v", others, err)
	}
	if err := s.Detach(s.ctx(), all[0].ID); err != nil {
		s.Fatalf("detaching: %v", err)
	}
	s.status(v.ID, volume.StatusAvailable)
	if all, err := s.AttachmentsOf(s.ctx(), v.ID, instance); err != nil || len(all) != 0 {
		s.Errorf("attachments after detaching: %+v, %v", all, err)
	}
}

// reserveIsAtomic lets several instances want a volume at the same moment.
func (s *suite) reserveIsAtomic() {
	v := s.blank()
	const n = 8
	instances, ids, errs := make([]string, n), make([]string, n), make([]error, n)
	ctx := s.ctx()
	var wg sync.WaitGroup
	for i := range n {
		instances[i] = newID()
		wg.Go(func() { ids[i], errs[i] = s.Reserve(ctx, v.ID, instances[i], false) })
	}
	wg.Wait()
	winner := ""
	for i, err := range errs {
		switch {
		case err == nil && winner == "":
			winner = instances[i]
			s.Cleanup(func() { s.gone("attachment", s.Detach(s.cleanupCtx(), ids[i])) })
		case err == nil:
			s.Errorf("two instances hold the volume")
			s.Cleanup(func() { s.gone("attachment", s.Detach(s.cleanupCtx(), ids[i])) })
		default:
			s.is(err, volume.ErrInUse, "losing the race for a volume")
		}
	}
	if winner == "" {
		s.Fatalf("nobody got the volume: %v", errs)
	}
	s.status(v.ID, volume.StatusReserved)
	_, err := s.Reserve(s.ctx(), v.ID, newID(), false)
	s.is(err, volume.ErrInUse, "reserving a reserved volume")
	if err == nil || !strings.Contains(err.Error(), winner) {
		s.Errorf("the loser is not told that %s holds the volume: %v", winner, err)
	}
	if all, err := s.AttachmentsOf(s.ctx(), v.ID, winner); err != nil || len(all) != 1 {
		s.Errorf("attachments of the winner: %+v, %v", all, err)
	}
}

// held checks that a volume in use can not be taken away.
func (s *suite) held() {
	v := s.blank()
	id := s.reserve(v.ID, newID(), false)
	s.is(s.DeleteVolume(s.ctx(), v.ID), volume.ErrInUse, "deleting a reserved volume")
	if _, err := s.Connect(s.ctx(), id); err != nil {
		s.Fatalf("connecting: %v", err)
	}
	if err := s.Complete(s.ctx(), id); err != nil {
		s.Fatalf("completing: %v", err)
	}
	s.is(s.DeleteVolume(s.ctx(), v.ID), volume.ErrInUse, "deleting a volume in use")
	s.status(v.ID, volume.StatusInUse)
	if err := s.Detach(s.ctx(), id); err != nil {
		s.Fatalf("detaching: %v", err)
	}
	s.status(v.ID, volume.StatusAvailable)
	if err := s.DeleteVolume(s.ctx(), v.ID); err != nil {
		s.Errorf("deleting a volume that is free again: %v", err)
	}
}

func (s *suite) multiattach() {
	if !s.opts.Multiattach {
		s.Skip("the store has no multiattach volumes")
	}
	v := s.volume(volume.CreateVolume{Size: 1, Multiattach: true, Type: s.opts.MultiattachType})
	if !v.Multiattach {
		s.Errorf("a multiattach volume: %+v", v)
	}
	var ids []string
	for range 2 {
		id := s.reserve(v.ID, newID(), false)
		if _, err := s.Connect(s.ctx(), id); err != nil {
			s.Fatalf("connecting: %v", err)
		}
		if err := s.Complete(s.ctx(), id); err != nil {
			s.Fatalf("completing: %v", err)
		}
		s.status(v.ID, volume.StatusInUse)
		ids = append(ids, id)
	}
	if all, err := s.AttachmentsOf(s.ctx(), v.ID, ""); err != nil || len(all) != 2 {
		s.Errorf("attachments to any instance: %+v, %v", all, err)
	}
	if err := s.Detach(s.ctx(), ids[0]); err != nil {
		s.Fatalf("detaching: %v", err)
	}
	s.status(v.ID, volume.StatusInUse)
	if err := s.Detach(s.ctx(), ids[1]); err != nil {
		s.Fatalf("detaching: %v", err)
	}
	s.status(v.ID, volume.StatusAvailable)
}

// cancel checks that a call whose context has ended ends with the context's
// error and changes nothing.
func (s *suite) cancel() {
	v := s.blank()
	raw, instance, name := s.rawFile(), newID(), uniqueName()
	ctx, cancel := context.WithCancel(s.ctx())
	cancel()
	for what, call := range map[string]func() error{
		"Images":       func() error { _, err := s.Images(ctx); return err },
		"Volumes":      func() error { _, err := s.Volumes(ctx); return err },
		"Volume":       func() error { _, err := s.Volume(ctx, v.ID); return err },
		"CreateVolume": func() error { _, err := s.CreateVolume(ctx, volume.CreateVolume{Name: name, Size: 1}); return err },
		"ImportImage":  func() error { _, err := s.ImportImage(ctx, volume.ImportImage{Name: name, Path: raw}); return err },
		"WaitVolume":   func() error { _, err := s.WaitVolume(ctx, v.ID); return err },
		"DeleteVolume": func() error { return s.DeleteVolume(ctx, v.ID) },
		"Reserve":      func() error { _, err := s.Reserve(ctx, v.ID, instance, false); return err },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			s.Errorf("%s with a cancelled context: %v", what, err)
		}
	}
	s.status(v.ID, volume.StatusAvailable)
	_, err := s.Volume(s.ctx(), name)
	s.is(err, volume.ErrNotFound, "looking for a volume whose creation was cancelled")
	_, err = s.Image(s.ctx(), name)
	s.is(err, volume.ErrNotFound, "looking for an image whose import was cancelled")

	// Cancelled on the way, an import leaves nothing.
	ctx, cancel = context.WithCancel(s.ctx())
	defer cancel()
	_, err = s.ImportImage(ctx, volume.ImportImage{Name: name, Path: raw, Progress: func(_, _ int64) { cancel() }})
	if err == nil {
		s.Log("the import was faster than its cancellation")
		img, _ := s.Image(s.ctx(), name)
		s.gone("image", s.DeleteImage(s.ctx(), img.ID))
		return
	}
	if !errors.Is(err, context.Canceled) {
		s.Errorf("an import cancelled on the way: %v", err)
	}
	_, err = s.Image(s.ctx(), name)
	s.is(err, volume.ErrNotFound, "looking for an image whose import was cancelled on the way")
}
