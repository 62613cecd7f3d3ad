package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// job fills one volume in the background.
type job struct {
	cancel context.CancelFunc
	done   chan struct{} // closed at its end
}

// Volumes lists all volumes, the oldest first. When some can not be read, the
// others are returned together with an error that wraps ErrDamaged.
func (s *Store) Volumes(ctx context.Context) ([]volume.Volume, error) { return s.volumes.objects(ctx) }

// Volume finds a volume by its id or name, or a managed one by the path of its device.
func (s *Store) Volume(ctx context.Context, ref string) (volume.Volume, error) {
	v, err := s.volumes.find(ctx, ref)
	if errors.Is(err, volume.ErrNotFound) && strings.HasPrefix(ref, "/") {
		if v, failed := s.byDevice(ctx, ref); !errors.Is(failed, failure.ErrInvalid) {
			return v, failed
		}
	}
	return v, err
}

// VolumesOf lists the volumes whose metadata says that they were created for the
// instance. When a record can not be read the error wraps ErrDamaged, for that
// volume might have been one of them.
func (s *Store) VolumesOf(ctx context.Context, instanceID string) ([]volume.Volume, error) {
	all, err := s.Volumes(ctx)
	var of []volume.Volume
	for _, v := range all {
		if v.Metadata[volume.MetaInstance] == instanceID {
			of = append(of, v)
		}
	}
	return of, err
}

// CreateVolume creates a volume and returns once it is on record: a blank one
// available, any other being filled by this process in the background, which ends
// with the process or Close, not with ctx. See WaitVolume.
func (s *Store) CreateVolume(ctx context.Context, req volume.CreateVolume) (volume.Volume, error) {
	v, from, err := s.plan(ctx, req)
	if err != nil {
		return volume.Volume{}, err
	}
	v.ID = uuid.NewString()
	src, err := s.openSource(ctx, from)
	if err != nil {
		return volume.Volume{}, err
	}
	var dst *lock.Lock
	err = s.roomy(ctx, func() error {
		dst, err = s.volumes.create(ctx, record[volume.Volume]{Object: v})
		return err
	})
	if err != nil {
		src.Close()
		return volume.Volume{}, s.full(err, called(req))
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	j := &job{cancel: cancel, done: make(chan struct{})}
	s.mu.Lock()
	s.jobs[v.ID] = j
	s.mu.Unlock()
	run := func() {
		s.fillVolume(work, v, dst, src, from)
		cancel()
		s.mu.Lock()
		delete(s.jobs, v.ID)
		s.mu.Unlock()
		close(j.done)
	}
	if src == nil { // a hole is made at once
		run()
		rec, err := s.volumes.get(context.WithoutCancel(ctx), v.ID)
		return rec.Object, err
	}
	go run()
	return v, nil
}

// openSource opens and locks what a volume is made of. The lock is taken together
// with a look at the source's status, so that nobody deletes it, or attaches and
// writes to it, before the copy is done.
func (s *Store) openSource(ctx context.Context, from source) (*opened, error) {
	var f *lock.Lock
	var own *volume.Volume // whose content is not where its lock is
	var err error
	switch from.kind {
	case "":
		return nil, nil
	case "image":
		f, err = s.images.content(ctx, from.id, unix.LOCK_SH)
	case "snapshot":
		f, err = s.snapshots.content(ctx, from.id, unix.LOCK_SH)
		if from.pool != "" {
			own = &volume.Volume{ID: from.id, Pool: from.pool}
		}
	case "volume":
		unlock, lerr := s.volumes.lock(ctx, from.id)
		if lerr != nil {
			return nil, lerr
		}
		defer unlock()
		rec, lerr := s.volumes.get(ctx, from.id)
		if lerr != nil {
			return nil, lerr
		}
		if from.clone {
			rec.Object.Pool = from.pool
		}
		if inUse, lerr := s.copyable(rec.Object, from.how); lerr != nil {
			return nil, lerr
		} else if inUse && !from.inUse {
			return nil, volume.InUse(rec.Object)
		}
		f, err = s.volumes.content(ctx, from.id, unix.LOCK_SH)
		if rec.Object.Managed != nil || from.pool != "" {
			own = &rec.Object
		}
	}
	if errors.Is(err, lock.ErrHeld) {
		return nil, failure.Of(volume.ErrInUse, "%s %s is in use: it is being deleted", from.kind, from.id)
	}
	if err != nil {
		return nil, err
	}
	o := &opened{File: f.File, lock: f}
	if from.clone {
		return o, nil
	}
	if own != nil {
		if o.File, err = s.backend(own).open(ctx, own); err != nil {
			f.Close()
			return nil, err
		}
		if len(own.Attachments) == 0 {
			o.release = func() { s.backend(own).release(context.WithoutCancel(ctx), own) }
		}
	}
	if err := holds(o.File, from.bytes); err != nil {
		o.Close()
		return nil, fmt.Errorf("%s %s: %w: %w", from.kind, from.id, ErrDamaged, err)
	}
	return o, nil
}

// opened is the content of something, and the file by which it is locked while it is read.
type opened struct {
	*os.File
	lock    *lock.Lock
	release func() // of what was made for it to be read; nil: nothing
}

// Close lets go of both; of nil there is nothing.
func (o *opened) Close() {
	if o == nil {
		return
	}
	if o.File != o.lock.File {
		o.File.Close()
	}
	if o.release != nil {
		o.release()
	}
	o.lock.Close()
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}

// fillVolume fills a new volume and puts on record what became of it. dst holds
// the lock that says somebody is at it, and is closed at the end, and src is closed, too.
func (s *Store) fillVolume(ctx context.Context, v volume.Volume, dst *lock.Lock, src *opened, from source) {
	defer dst.Close()
	keep := true // the raw form of an image: not where the disk was full with it
	err := s.roomy(ctx, func() error {
		err := s.fillData(ctx, v, dst.File, src, from, keep)
		keep = false
		return err
	})
	src.Close() // who sees the volume as available may delete what it is made of
	if err != nil {
		err = s.full(err, "volume "+v.ID)
		dst.Truncate(0) // gives back what was written; the record needs room as well
	}
	save, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.Wait)
	defer cancel()
	// When this fails the volume stays as one whose making was interrupted, which
	// is what happened.
	_, _ = s.volumes.change(save, v.ID, func(rec *record[volume.Volume]) error {
		rec.PID = 0
		rec.Object.Status = volume.StatusAvailable
		if err != nil {
			rec.Object.Status, rec.Reason = volume.StatusError, err.Error()
		}
		return nil
	})
	fault.Point("local/create-volume/after-available")
}

// fillData makes the content of a volume, durably. keep says that an image may be
// converted into a raw form that is kept.
func (s *Store) fillData(ctx context.Context, v volume.Volume, dst *os.File, src *opened, from source, keep bool) error {
	total := int64(v.Size) << 30
	var err error
	step, finish := s.progress("copying "+from.kind+" "+from.id, from.size)
	defer finish()
	switch {
	case v.Pool != "":
		err = s.fillLV(ctx, v, src, from)
	case src == nil:
		err = dst.Truncate(total)
	case from.kind == "volume":
		err = s.copyVolume(ctx, dst, src.File, from, total, step)
	case from.format == formatRaw:
		err = fill(ctx, dst, src.File, from.size, total, step)
	default:
		err = s.fillConverted(ctx, v, dst, from, keep, step)
	}
	if err == nil {
		err = dst.Sync()
	}
	if err != nil {
		if from.kind != "" {
			err = fmt.Errorf("copying %s %s: %w", from.kind, from.id, err)
		}
		return err
	}
	fault.Point("local/create-volume/after-data")
	return ctx.Err()
}

// fillConverted makes the content of a volume of an image that is not raw: of its raw form,
// and where there is no room to keep that, of the image itself.
func (s *Store) fillConverted(ctx context.Context, v volume.Volume, dst *os.File, from source, keep bool, step func(done int64)) error {
	total := int64(v.Size) << 30
	if keep {
		raw, err := s.rawForm(ctx, from)
		if err == nil {
			defer raw.Close()
			return fill(ctx, dst, raw, from.size, total, step)
		}
		if !isFull(err) {
			return err
		}
	}
	if err := dst.Truncate(0); err != nil {
		return err
	}
	if err := dst.Truncate(total); err != nil {
		return err
	}
	return s.convert(ctx, from, filepath.Join(s.volumes.path(v.ID), dataName), v.Size)
}

// WaitVolume waits until a volume is available. Any end but that, and any state
// that does not lead there, is a *volume.StateError. Another process that fills the
// volume is waited for no longer than Options.Wait.
func (s *Store) WaitVolume(ctx context.Context, id string) (volume.Volume, error) {
	end := time.Now().Add(s.o.Wait)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		rec, err := s.volumes.get(ctx, id)
		if err != nil {
			return volume.Volume{}, err
		}
		switch {
		case rec.Object.Status == volume.StatusAvailable:
			return rec.Object, nil
		case !making(rec.Object.Status):
			return rec.Object, &volume.StateError{Kind: "volume", ID: id, Status: rec.Object.Status, Want: volume.StatusAvailable, Detail: rec.Reason}
		}
		done := s.jobDone(id)
		if done == nil && time.Now().After(end) {
			return rec.Object, failure.Of(volume.ErrConflict, "volume %s: waited %v for %s to fill it", id, s.o.Wait, processName(rec.PID))
		}
		select {
		case <-done:
		case <-time.After(pause):
		case <-ctx.Done():
			return volume.Volume{}, ctx.Err()
		}
	}
}

// jobDone gives a channel that is closed when the job that fills the volume ends;
// it is nil when another process fills it, or nobody.
func (s *Store) jobDone(id string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.jobs[id]; j != nil {
		return j.done
	}
	return nil
}

// DeleteVolume deletes a volume that no instance holds; its snapshots stay, they
// share nothing with it. A volume that this Store is still filling is given up.
func (s *Store) DeleteVolume(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	j := s.jobs[id]
	s.mu.Unlock()
	if j != nil {
		j.cancel()
		select {
		case <-j.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	pool := ""
	err := s.volumes.delete(ctx, id, func(rec *record[volume.Volume]) error {
		pool = rec.Object.Pool
		switch v := rec.Object; {
		case len(v.Attachments) != 0:
			return volume.InUse(v)
		case v.Managed != nil:
			return failure.Of(volume.ErrManaged, "volume %s is %s, which is this host's own and is not deleted: 'lxcboot volume unmanage %s' lets go of it, and leaves what is on it", id, v.Managed.Path, id)
		}
		return nil
	}, "it is being copied")
	if err == nil && pool != "" {
		err = s.removeLV(context.WithoutCancel(ctx), pool, id)
	}
	return err
}

// ExtendVolume makes a volume larger that is available, or that the caller alone holds, by
// this attachment. The filesystem on it stays as large as it was. A managed one has been made
// larger already, where it was made: a size of 0 takes note of that.
func (s *Store) ExtendVolume(ctx context.Context, id string, sizeGiB int, attachmentID string) (volume.Volume, error) {
	return s.volumes.change(ctx, id, func(rec *record[volume.Volume]) error {
		v := &rec.Object
		switch {
		case v.Managed == nil && sizeGiB <= v.Size:
			return failure.Invalid("volume %s has %d GiB and can only be made larger, not %d GiB", id, v.Size, sizeGiB)
		case sizeGiB > MaxSize:
			return failure.Invalid("volume %s: a size of %d GiB is more than %d", id, sizeGiB, MaxSize)
		case len(v.Attachments) > 1, len(v.Attachments) == 1 && (v.Attachments[0].ID != attachmentID || v.Attachments[0].Elsewhere(s.o.Host)):
			return volume.InUse(*v)
		case len(v.Attachments) == 0 && v.Status != volume.StatusAvailable:
			return failure.Of(volume.ErrConflict, "volume %s is not available, it is %q", id, v.Status)
		}
		if err := s.backend(v).extend(ctx, v, sizeGiB); err != nil {
			return fmt.Errorf("extending volume %s: %w", id, err)
		}
		return nil
	})
}

// UpdateVolume changes a volume's name, whether it can be booted from, and its
// metadata. A blank volume is not bootable, until somebody who put a root filesystem
// on it says so.
func (s *Store) UpdateVolume(ctx context.Context, id string, req volume.UpdateVolume) (volume.Volume, error) {
	if err := checkMap("volume metadata", req.Metadata); err != nil {
		return volume.Volume{}, err
	}
	if req.Name != nil {
		if err := checkName("volume name", *req.Name); err != nil {
			return volume.Volume{}, err
		}
	}
	return s.volumes.change(ctx, id, func(rec *record[volume.Volume]) error {
		v := &rec.Object
		if making(v.Status) || v.Status == volume.StatusError {
			return failure.Of(volume.ErrConflict, "volume %s is not available, it is %q", id, v.Status)
		}
		if req.Name != nil {
			v.Name = *req.Name
		}
		if req.Bootable != nil {
			v.Bootable = *req.Bootable
		}
		if v.Metadata == nil {
			v.Metadata = map[string]string{}
		}
		maps.Copy(v.Metadata, req.Metadata)
		return nil
	})
}
