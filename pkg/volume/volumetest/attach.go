package volumetest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

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
		s.attachment(v.ID, instance, id, "attaching")

		if err := s.Complete(s.ctx(), id); err != nil {
			s.Fatalf("completing: %v", err)
		}
		got := s.status(v.ID, volume.StatusInUse)
		a := s.attachment(v.ID, instance, id, "attached")
		if a.ReadOnly {
			s.Errorf("a completed attachment: %+v", a)
		}
		if len(got.Attachments) != 1 || got.Attachments[0] != a {
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
	if a.Host == "" || a.HostID == "" || a.BootID == "" {
		s.Errorf("an attachment does not say which host made it: %+v", a)
	}
	if a.InstanceName != instanceName || time.Since(a.Since) > time.Hour || time.Until(a.Since) > time.Minute {
		s.Errorf("an attachment does not say whose it is and since when: %+v", a)
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
		wg.Go(func() { ids[i], errs[i] = s.Reserve(ctx, v.ID, volume.Instance{ID: instances[i]}, false) })
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
	all, err := s.AttachmentsOf(s.ctx(), v.ID, winner)
	if err != nil || len(all) != 1 {
		s.Fatalf("attachments of the winner: %+v, %v", all, err)
	}
	for _, err := range errs {
		if err != nil {
			s.namesHolder(err, all[0], "losing the race for a volume")
		}
	}
	_, err = s.Reserve(s.ctx(), v.ID, volume.Instance{ID: newID()}, false)
	s.namesHolder(err, all[0], "reserving a reserved volume")
}

// namesHolder fails the test when err is no refusal that says who holds the volume.
func (s *suite) namesHolder(err error, holder volume.Attachment, doing string) {
	s.Helper()
	s.is(err, volume.ErrInUse, doing)
	if err == nil || !strings.Contains(err.Error(), holder.InstanceID+" on "+holder.Host) {
		s.Errorf("%s: the error does not name instance %s on %s: %v", doing, holder.InstanceID, holder.Host, err)
	}
}

// held checks that a volume in use can not be taken away.
func (s *suite) held() {
	v := s.blank()
	instance := newID()
	id := s.reserve(v.ID, instance, false)
	refused := func(status string) {
		s.Helper()
		a := s.attachment(v.ID, instance, id, status)
		s.namesHolder(s.DeleteVolume(s.ctx(), v.ID), a, "deleting a volume that is "+status)
		_, err := s.ExtendVolume(s.ctx(), v.ID, 2, "")
		s.namesHolder(err, a, "extending a volume that is "+status)
		_, err = s.Reserve(s.ctx(), v.ID, volume.Instance{ID: newID()}, false)
		s.namesHolder(err, a, "reserving a volume that is "+status)
	}
	refused("reserved")
	if _, err := s.Connect(s.ctx(), id); err != nil {
		s.Fatalf("connecting: %v", err)
	}
	refused("attaching")
	if err := s.Complete(s.ctx(), id); err != nil {
		s.Fatalf("completing: %v", err)
	}
	refused("attached")
	s.status(v.ID, volume.StatusInUse)
	if err := s.Detach(s.ctx(), id); err != nil {
		s.Fatalf("detaching: %v", err)
	}
	s.status(v.ID, volume.StatusAvailable)
	if err := s.DeleteVolume(s.ctx(), v.ID); err != nil {
		s.Errorf("deleting a volume that is free again: %v", err)
	}
}

// elsewhere is the suite on another host.
func (s *suite) elsewhere() *suite {
	s.Helper()
	return &suite{T: s.T, Store: s.opts.Elsewhere(s.T, s.Store), opts: s.opts}
}

// hosts checks that what one host has connected no other can use, while either sees
// who has it.
func (s *suite) hosts() {
	other := s.elsewhere()
	v, instance := s.blank(), newID()
	id := s.reserve(v.ID, instance, false)
	check := func(status string) {
		s.Helper()
		a := s.attachment(v.ID, instance, id, status)
		if b := other.attachment(v.ID, instance, id, status); a != b {
			s.Errorf("one host sees the attachment %+v, another %+v", a, b)
		}
		_, err := other.Connect(s.ctx(), id)
		s.namesHolder(err, a, "connecting what another host has "+status)
		_, err = other.Reserve(s.ctx(), v.ID, volume.Instance{ID: newID()}, false)
		s.namesHolder(err, a, "reserving what another host has "+status)
	}
	check("reserved")
	for range 2 {
		if _, err := s.Connect(s.ctx(), id); err != nil {
			s.Fatalf("connecting: %v", err)
		}
	}
	check("attaching")
	if err := s.Complete(s.ctx(), id); err != nil {
		s.Fatalf("completing: %v", err)
	}
	check("attached")
}

// takenAway has another host take a volume, as after this one was thought dead, and
// this one come back.
func (s *suite) takenAway() {
	other := s.elsewhere()
	v, instance := s.blank(), newID()
	id := s.reserve(v.ID, instance, false)
	if _, err := s.Connect(s.ctx(), id); err != nil {
		s.Fatalf("connecting: %v", err)
	}
	if err := s.Complete(s.ctx(), id); err != nil {
		s.Fatalf("completing: %v", err)
	}
	if err := other.Detach(s.ctx(), id); err != nil {
		s.Fatalf("detaching what another host has: %v", err)
	}

	// Nobody has it yet.
	_, err := s.Connect(s.ctx(), id)
	for doing, err := range map[string]error{"connecting": err, "completing": s.Complete(s.ctx(), id)} {
		var gone *volume.GoneError
		if !errors.As(err, &gone) || gone.ID != id || gone.VolumeID != v.ID {
			s.Errorf("%s what is gone, while nobody holds volume %s: %v", doing, v.ID, err)
		}
		s.is(err, volume.ErrConflict, doing+" what is gone")
	}

	// The same instance, started on the other host.
	took := other.reserve(v.ID, instance, false)
	refused := func(status string) {
		s.Helper()
		a := other.attachment(v.ID, instance, took, status)
		_, err := s.Connect(s.ctx(), id)
		s.namesHolder(err, a, "connecting what another host has "+status)
		s.namesHolder(s.Complete(s.ctx(), id), a, "completing what another host has "+status)
		s.is(s.Detach(s.ctx(), id), volume.ErrNotFound, "detaching what is gone")
		if all, err := s.AttachmentsOf(s.ctx(), v.ID, instance); err != nil || len(all) != 1 || all[0] != a {
			s.Errorf("the attachments as the first host sees them: %+v, %v; want %+v", all, err, a)
		}
	}
	refused("reserved")
	if _, err := other.Connect(s.ctx(), took); err != nil {
		s.Fatalf("connecting: %v", err)
	}
	refused("attaching")
	if err := other.Complete(s.ctx(), took); err != nil {
		s.Fatalf("completing: %v", err)
	}
	refused("attached")
}

// released has another host find in a list who has a volume, however far the attachment
// came, and take it: nothing is noted of it then.
func (s *suite) released() {
	other := s.elsewhere()
	v := s.blank()
	for _, status := range []string{"reserved", "attaching", "attached"} {
		instance := newID()
		id := s.reserve(v.ID, instance, false)
		if status != "reserved" {
			if _, err := s.Connect(s.ctx(), id); err != nil {
				s.Fatalf("connecting: %v", err)
			}
		}
		if status == "attached" {
			if err := s.Complete(s.ctx(), id); err != nil {
				s.Fatalf("completing: %v", err)
			}
		}
		a := other.attachment(v.ID, instance, id, status)
		all, err := other.Volumes(s.ctx())
		if err != nil {
			s.Fatalf("listing volumes: %v", err)
		}
		listed, _ := find(all, v.ID, volumeID)
		if len(listed.Attachments) != 1 || listed.Attachments[0] != a {
			s.Errorf("%s: the list says %+v, want %+v", status, listed.Attachments, a)
		}
		if err := other.Detach(s.ctx(), a.ID); err != nil {
			s.Fatalf("%s: taking it from there: %v", status, err)
		}
		got := s.status(v.ID, volume.StatusAvailable)
		for key, value := range got.Metadata {
			// What a host that comes back is to learn stays.
			if strings.Contains(key, instance) {
				s.Errorf("%s: %s = %s is left of it", status, key, value)
			}
		}
		_, err = s.Connect(s.ctx(), id)
		s.is(err, volume.ErrConflict, status+": connecting what was taken")
	}
}

func (s *suite) multiattach() {
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
		"Reserve":      func() error { _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: instance}, false); return err },
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
