package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// The names within an object's directory.
const (
	metaName = "meta.json"
	dataName = "data"
)

// Directories under these names are not objects yet, or no longer.
const (
	newPrefix = ".new-"
	oldPrefix = ".old-"
)

// record is what an object's meta.json holds.
type record[T any] struct {
	Format int    `json:"format"` // of this file: 1
	Object T      `json:"object"`
	Reason string `json:"reason,omitempty"` // why the object is in error
	PID    int    `json:"pid,omitempty"`    // the process that makes it, for messages
	// Former are the attachments that a volume had, the last one first: whoever comes
	// back to one that another host took away learns who has the volume now.
	Former []string `json:"former,omitempty"`
	// Origin is the volume as it was when the snapshot was taken.
	Origin *volume.Volume `json:"origin,omitempty"`
}

// maxFormer bounds record.Former.
const maxFormer = 16

// shelf keeps the objects of one kind.
type shelf[T any] struct {
	dir  string
	kind string        // image, volume or snapshot
	wait time.Duration // Options.Wait
	look func(*T) face
}

// face is what a shelf needs to know of an object.
type face struct {
	id, name, status *string
	created          time.Time
}

// isID says whether a reference has the shape of an id. Such a reference is never
// taken for a name: a second delete must not find another object that was given
// the first one's id for a name.
func isID(ref string) bool {
	id, err := uuid.Parse(ref)
	return err == nil && id.String() == ref
}

func (s *shelf[T]) path(id string) string { return filepath.Join(s.dir, id) }

func (s *shelf[T]) notFound(ref string) error {
	return &volume.NotFoundError{Kind: s.kind, Ref: ref}
}

// making says whether a status is one of an object that is being made.
func making(status string) bool {
	return status == volume.StatusCreating || status == volume.StatusDownloading || status == volume.ImageSaving
}

// read reads a record as it is on disk.
func (s *shelf[T]) read(id string) (record[T], error) {
	var rec record[T]
	if !isID(id) {
		return rec, s.notFound(id)
	}
	path := filepath.Join(s.path(id), metaName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(s.path(id)); errors.Is(err, fs.ErrNotExist) {
			return rec, s.notFound(id)
		}
		// The directory may have gone between the two looks, but not come.
	}
	damaged := func(why string) error {
		return fmt.Errorf("%s %s: %w record %s: %s; restore the file from a backup, or remove %s if nothing uses it",
			s.kind, id, ErrDamaged, path, why, s.path(id))
	}
	if err != nil {
		return rec, damaged(err.Error())
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return record[T]{}, damaged(err.Error())
	}
	if rec.Format != 1 {
		return record[T]{}, damaged(fmt.Sprintf("its format is %d, this program knows format 1", rec.Format))
	}
	if got := *s.look(&rec.Object).id; got != id {
		return record[T]{}, damaged(fmt.Sprintf("it is the record of %q", got))
	}
	return rec, nil
}

// get reads a record and says error for an object whose making was interrupted.
func (s *shelf[T]) get(ctx context.Context, id string) (record[T], error) {
	if err := ctx.Err(); err != nil {
		return record[T]{}, err
	}
	rec, err := s.read(id)
	if err != nil || !making(*s.look(&rec.Object).status) {
		return rec, err
	}
	if held, err := lock.Held(filepath.Join(s.path(id), dataName)); held || err != nil {
		return rec, err // its maker is at work
	}
	// Nobody makes it now; but its maker may have ended well since it was read.
	rec, err = s.read(id)
	if status := s.look(&rec.Object).status; err == nil && making(*status) {
		*status = volume.StatusError
		if s.kind == "image" {
			*status = volume.ImageKilled
		}
		rec.Reason = fmt.Sprintf("its creation by process %d was interrupted; delete it", rec.PID)
	}
	return rec, err
}

// list reads all objects, the oldest first. Objects that can not be read are left
// out and named by the error, which wraps ErrDamaged.
func (s *shelf[T]) list(ctx context.Context) ([]record[T], error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("listing %ss: %w", s.kind, err)
	}
	var all []record[T]
	var bad []error
	for _, e := range entries {
		if !isID(e.Name()) {
			continue
		}
		switch rec, err := s.get(ctx, e.Name()); {
		case err == nil:
			all = append(all, rec)
		case errors.Is(err, ErrDamaged):
			bad = append(bad, err)
		case !errors.Is(err, volume.ErrNotFound): // not found: deleted meanwhile
			return nil, err
		}
	}
	slices.SortStableFunc(all, func(a, b record[T]) int {
		return s.look(&a.Object).created.Compare(s.look(&b.Object).created)
	})
	return all, errors.Join(bad...)
}

// objects is list without the records' inner facts.
func (s *shelf[T]) objects(ctx context.Context) ([]T, error) {
	all, err := s.list(ctx)
	objects := make([]T, 0, len(all))
	for _, rec := range all {
		objects = append(objects, rec.Object)
	}
	return objects, err
}

// find finds an object by its id or its name.
func (s *shelf[T]) find(ctx context.Context, ref string) (T, error) {
	var none T
	if id := strings.ToLower(ref); isID(id) {
		rec, err := s.get(ctx, id)
		return rec.Object, err
	}
	all, err := s.list(ctx)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return none, err
	}
	var found []T
	var ids []string
	pick := func(meant func(id, name string) bool) {
		for _, rec := range all {
			if f := s.look(&rec.Object); ref != "" && meant(*f.id, *f.name) {
				found, ids = append(found, rec.Object), append(ids, *f.id)
			}
		}
	}
	pick(func(_, name string) bool { return name == ref })
	if len(found) == 0 && err == nil {
		pick(func(id, _ string) bool { return volume.Begins(ref, id) })
	}
	switch {
	case len(found) > 1:
		return none, &volume.AmbiguousError{Kind: s.kind, Name: ref, IDs: ids}
	case len(found) == 1:
		return found[0], nil
	case err != nil: // it may be one of those that can not be read
		return none, fmt.Errorf("%s %q is not among those that can be read: %w", s.kind, ref, err)
	}
	return none, s.notFound(ref)
}

// lock takes the lock for a change of an object's record.
func (s *shelf[T]) lock(ctx context.Context, id string) (unlock func(), err error) {
	if !isID(id) {
		return nil, s.notFound(id)
	}
	f, err := lockFile(ctx, s.path(id), os.O_RDONLY|unix.O_NOFOLLOW, unix.LOCK_EX, s.wait)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, s.notFound(id)
	case err != nil:
		return nil, s.waited(s.kind+" "+id, s.path(id), err)
	}
	return func() { f.Close() }, nil
}

// waited says for whom a wait for the lock of a path was, when it was in vain.
func (s *shelf[T]) waited(what, path string, err error) error {
	switch {
	case errors.Is(err, lock.ErrHeld):
		return failure.Of(volume.ErrConflict, "%s: waited %v for %s to be done with it", what, s.wait, lockHolder(path))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: waiting for %s to be done with it: %w", what, lockHolder(path), err)
	}
	return err
}

// dataHolder names who has an object's data locked.
func (s *shelf[T]) dataHolder(id string) string {
	return lockHolder(filepath.Join(s.path(id), dataName))
}

// content opens an object's data and locks it: LOCK_SH to read it, LOCK_EX to
// change or delete it. Only an exclusive lock opens it for writing. When the
// content stays locked by others, the error is lock.ErrHeld.
func (s *shelf[T]) content(ctx context.Context, id string, how int) (*lock.Lock, error) {
	flag := os.O_RDONLY
	if how == unix.LOCK_EX {
		flag = os.O_RDWR
	}
	// The wait outlasts somebody's look whether the lock is held (see get).
	f, err := lockFile(ctx, filepath.Join(s.path(id), dataName), flag|unix.O_NOFOLLOW, how, 250*time.Millisecond)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s.notFound(id)
	}
	return f, err
}

// change changes a record in one atomic step, which others wait for. An error of
// the change leaves the record as it was.
func (s *shelf[T]) change(ctx context.Context, id string, change func(*record[T]) error) (T, error) {
	var none T
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return none, err
	}
	defer unlock()
	rec, err := s.get(ctx, id)
	if err != nil {
		return none, err
	}
	if err := change(&rec); err != nil {
		return none, err
	}
	if err := s.save(s.path(id), rec); err != nil {
		return none, fmt.Errorf("%s %s: %w", s.kind, id, err)
	}
	return rec.Object, nil
}

// save writes a record durably, in one step.
func (s *shelf[T]) save(dir string, rec record[T]) error {
	rec.Format = 1
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, metaName), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("saving its record: %w", err)
	}
	return nil
}

// create puts a new object on the shelf, in the making: with empty data, whose
// lock the returned file holds.
func (s *shelf[T]) create(ctx context.Context, rec record[T]) (_ *lock.Lock, err error) {
	id := *s.look(&rec.Object).id
	unlock, err := s.lockShelf(ctx, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer unlock()
	fresh := filepath.Join(s.dir, newPrefix+id)
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return nil, fmt.Errorf("making the %s: %w", s.kind, err)
	}
	var f *lock.Lock
	defer func() {
		if err != nil {
			err = fmt.Errorf("making the %s: %w", s.kind, err)
			if f != nil {
				f.Close()
			}
			removeDir(fresh)
		}
	}()
	if f, err = lockFile(ctx, filepath.Join(fresh, dataName), os.O_RDWR|os.O_CREATE|os.O_EXCL, unix.LOCK_EX, 0); err != nil {
		return nil, err
	}
	rec.PID = os.Getpid()
	if err := s.save(fresh, rec); err != nil {
		return nil, err
	}
	fault.Point("local/create-" + s.kind + "/before-record")
	if err := os.Rename(fresh, s.path(id)); err != nil {
		return nil, err
	}
	fresh = s.path(id)
	if err := durable.SyncDir(s.dir); err != nil {
		return nil, err
	}
	fault.Point("local/create-" + s.kind + "/after-record")
	return f, nil
}

// remove takes an object off the shelf. The caller holds the lock of its content.
func (s *shelf[T]) remove(ctx context.Context, id string) error {
	unlock, err := s.lockShelf(ctx, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unlock()
	old := filepath.Join(s.dir, oldPrefix+id)
	fault.Point("local/delete-" + s.kind + "/before-rename")
	if err := os.Rename(s.path(id), old); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return s.notFound(id)
		}
		return fmt.Errorf("deleting %s %s: %w", s.kind, id, err)
	}
	if err := durable.SyncDir(s.dir); err != nil {
		return fmt.Errorf("deleting %s %s: %w", s.kind, id, err)
	}
	fault.Point("local/delete-" + s.kind + "/after-rename")
	if err := removeDir(old); err != nil {
		return fmt.Errorf("deleting %s %s: %w", s.kind, id, err)
	}
	return nil
}

// lockShelf keeps those who look for left-overs (LOCK_EX) apart from those who
// put objects here or take them away (LOCK_SH).
func (s *shelf[T]) lockShelf(ctx context.Context, how int) (unlock func(), err error) {
	f, err := lockFile(ctx, s.dir, os.O_RDONLY, how, s.wait)
	if err != nil {
		return nil, s.waited(s.dir, s.dir, err)
	}
	return func() { f.Close() }, nil
}

// removeDir removes an object's directory. It goes no deeper than the files that
// the store puts there, so that it can never empty something mounted below.
func removeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !slices.Contains([]string{dataName, rawName, rawNewName}, e.Name()) && !strings.Contains(e.Name(), metaName) {
			return fmt.Errorf("%s is not the store's: move it away and try again", path)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}
