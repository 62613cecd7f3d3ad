package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lock"
)

// DefaultRegistry is where the state directories of a host say which host ids they use.
// It goes with the host's start: who starts an instance says so anew.
const DefaultRegistry = "/run/lxcboot-ids"

// registry is an index of ranges of host ids by their first, to the directories of the
// instances that have them. Its lock is held.
type registry struct {
	index
	lock *lock.Lock
}

// openRegistry takes the registry's lock, and drops what no instance bears out.
func (s *Store) openRegistry(ctx context.Context) (*registry, error) {
	if s.Registry == "" {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	for {
		if err := os.Mkdir(s.Registry, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("cannot note which host ids are in use: %w", err)
		}
		f, err := lock.Open(ctx, s.Registry, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) { // its last user has removed it
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot note which host ids are in use: %w", err)
		}
		r := &registry{index(s.Registry), f}
		if _, err := r.sweep(func(_, dir string) bool { return hasRecord(dir) }); err != nil {
			r.close()
			return nil, err
		}
		return r, nil
	}
}

func hasRecord(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, recordFile))
	return err == nil
}

// close lets the registry go, and removes one that is empty.
func (r *registry) close() {
	if r == nil {
		return
	}
	_ = os.Remove(string(r.index))
	r.lock.Close()
}

// taken are the ranges of an index.
func (x index) taken() (all []host.IDRange, err error) {
	numbers, err := x.numbers()
	for _, first := range numbers {
		all = append(all, host.IDRange{First: uint32(first), Count: IDsPerInstance})
	}
	return all, err
}

// claimRange claims the first range of the pool that overlaps nobody's.
func (s *Store) claimRange(pool host.IDPool, reg *registry, id string) (host.IDRange, error) {
	taken, err := s.ranges.taken()
	if err == nil && reg != nil {
		var others []host.IDRange
		others, err = reg.taken()
		taken = append(taken, others...)
	}
	if err != nil {
		return host.IDRange{}, err
	}
	r, ok := pool.Find(IDsPerInstance, taken)
	if !ok {
		return r, failure.Of(ErrState, "no %d host ids in a row are free of %s", IDsPerInstance, pool.From)
	}
	key := fmt.Sprint(r.First)
	if _, err := s.ranges.claim(key, id, func(string) bool { return true }); err != nil {
		return host.IDRange{}, err
	}
	return r, reg.note(r, s.Dir(id))
}

// note says that an instance uses a range, which nobody else does.
func (r *registry) note(ids host.IDRange, dir string) error {
	if r == nil {
		return nil
	}
	_, err := r.claim(fmt.Sprint(ids.First), dir, func(string) bool { return false })
	return err
}

// holder is who else has an id of a range; empty: nobody.
func (r *registry) holder(ids host.IDRange, dir string) (string, error) {
	if r == nil {
		return "", nil
	}
	taken, err := r.taken()
	for _, t := range taken {
		if other := r.get(fmt.Sprint(t.First)); other != dir && t.Overlaps(ids) {
			return other, nil
		}
	}
	return "", err
}

// HoldRange notes for the time that the host is up that the held instance, which does not
// run, uses its range of host ids. It gets another one of the pool when an instance of
// another state directory uses that by now; without a pool that is an error, and so it is
// for an instance whose disks have the range on them.
func (s *Store) HoldRange(ctx context.Context, h *Held, pool func() (host.IDPool, error)) error {
	if h.IDs.Count == 0 || s.Registry == "" {
		return nil
	}
	all, err := s.lockAll(ctx)
	if err != nil {
		return err
	}
	defer all.Close()
	reg, err := s.openRegistry(ctx)
	if err != nil {
		return err
	}
	defer reg.close()
	other, err := reg.holder(h.IDs, s.Dir(h.ID))
	if err != nil {
		return err
	}
	if other == "" {
		return reg.note(h.IDs, s.Dir(h.ID))
	}
	if slices.ContainsFunc(h.Volumes, func(v Volume) bool { return v.Mapping.Upper }) {
		return failure.Of(ErrState, "the host ids of instance %q are those of %s by now, and all in its overlay=ephemeral belongs to them: delete that instance, or restart the host and start this one before that", h.Name, other)
	}
	if pool == nil {
		return failure.Of(ErrState, "the host ids of instance %q are those of %s by now; 'lxcboot start %s' gives it others", h.Name, other, h.Name)
	}
	p, err := pool()
	if err != nil {
		return err
	}
	left := h.IDs // that it has not in the end
	if h.IDs, err = s.claimRange(p, reg, h.ID); err == nil {
		err = h.Save()
	}
	if err != nil {
		h.IDs, left = left, h.IDs
		err = errors.Join(err, reg.drop(fmt.Sprint(left.First), s.Dir(h.ID)))
	}
	return errors.Join(err, s.ranges.drop(fmt.Sprint(left.First), h.ID))
}

// sweepRegistry takes the ranges of instances that are gone out of the registry.
func (s *Store) sweepRegistry(ctx context.Context) error {
	reg, err := s.openRegistry(ctx)
	reg.close()
	return err
}

// keepRange claims the range of host ids that a record has.
func (s *Store) keepRange(r *Record) error {
	if r.IDs.Count == 0 {
		return nil
	}
	key := fmt.Sprint(r.IDs.First)
	holder, err := s.ranges.claim(key, r.ID, func(holder string) bool { return s.hasRange(key, holder) })
	if holder != "" {
		return failure.Of(ErrState, "instances %s and %s have one range of host ids: delete one of them", r.ID, holder)
	}
	return err
}

// hasRange says whether an instance has a range, or may have it: its record cannot be read.
func (s *Store) hasRange(first, id string) bool {
	rec, err := s.read(id)
	return err == nil && rec.IDs.Count > 0 && fmt.Sprint(rec.IDs.First) == first || err != nil && !errors.Is(err, fs.ErrNotExist)
}
