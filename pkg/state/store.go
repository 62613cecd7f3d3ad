package state

import (
	"bytes"
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

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lock"
)

// The kinds of failure of the records, and of what is done by them.
var (
	ErrNotFound = errors.New("instance not found")
	ErrExists   = errors.New("instance exists")
	ErrBusy     = errors.New("instance is busy")
	ErrState    = errors.New("wrong state")
	// ErrAmbiguous is of a reference that stands for several instances.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrDamaged is of a record that cannot be read.
	ErrDamaged = errors.New("damaged record")
)

const (
	recordFile = "record.json"
	lockFile   = "lock"
	seedFile   = "seed.json" // until the instance is built
	keptDir    = "kept"      // what the seed's files replaced, until then
	claimFile  = "claim"     // locked by the console's process
	spareFile  = "spare"     // room for what a delete has to write on a full disk
	logFile    = "console.log"
	socketFile = "console.sock"
)

// Store keeps the records: a directory of mode 0700 for each instance, named
// after its id, below STATE/instances. The mountpoints are elsewhere, because a
// container's root, who is nobody on the host, has to be able to reach them.
type Store struct {
	dir    string
	names  index // by name
	ranges index // by the first id of the range of host ids
	runDir string
	// Registry is where all state directories of this host say which host ids they use;
	// empty: this is the only one.
	Registry string
	// Wait is how long a lock is waited for that another process holds.
	Wait time.Duration
}

// DefaultRunDir is where the mountpoints are.
const DefaultRunDir = "/run/lxcboot"

// Open opens the records below stateDir, making the directory when it is
// not there. Mountpoints are made below runDir.
func Open(stateDir, runDir string) (*Store, error) {
	s := &Store{dir: filepath.Join(stateDir, "instances"), names: index(filepath.Join(stateDir, "names")),
		ranges: index(filepath.Join(stateDir, "host-ids")), runDir: runDir, Wait: 10 * time.Minute}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the state directory: %w", err)
	}
	return s, nil
}

// Dir is the directory of an instance.
func (s *Store) Dir(id string) string { return filepath.Join(s.dir, id) }

// LogPath is the console log of an instance.
func (s *Store) LogPath(id string) string { return filepath.Join(s.dir, id, logFile) }

// SocketPath is where a running instance's console can be reached.
func (s *Store) SocketPath(id string) string { return filepath.Join(s.dir, id, socketFile) }

func (s *Store) ClaimPath(id string) string { return filepath.Join(s.dir, id, claimFile) }
func (s *Store) KeptDir(id string) string   { return filepath.Join(s.dir, id, keptDir) }

// List reads every record, sorted by name. Records that cannot be read are in
// the error, each with its path, and the others are still returned.
func (s *Store) List() ([]Record, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list the instances: %w", err)
	}
	var records []Record
	var damaged []error
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		rec, err := s.read(e.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist): // being made or being removed
		case err != nil:
			damaged = append(damaged, err)
		default:
			records = append(records, rec)
		}
	}
	slices.SortFunc(records, func(a, b Record) int { return strings.Compare(a.Name, b.Name) })
	return records, errors.Join(damaged...)
}

// shortID is how much of an id stands for it: what a table shows that is short of room.
const shortID = 8

// Find reads the record that ref names: by id, by name, or by the first eight or more
// characters of an id. One that begins several ids is an ErrAmbiguous.
func (s *Store) Find(ref string) (Record, error) {
	rec, err := s.Named(ref)
	if !errors.Is(err, ErrNotFound) || len(ref) < shortID {
		return rec, err
	}
	entries, failed := os.ReadDir(s.dir)
	if failed != nil {
		return Record{}, fmt.Errorf("cannot list the instances: %w", failed)
	}
	var ids []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), strings.ToLower(ref)) && uuid.Validate(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	switch len(ids) {
	case 0:
		return rec, err
	case 1:
		if rec, failed = s.read(ids[0]); errors.Is(failed, fs.ErrNotExist) {
			return Record{}, err
		}
		return rec, failed
	}
	return Record{}, failure.Of(ErrAmbiguous, "%q begins the ids of several instances: %s; use more of one", ref, strings.Join(ids, ", "))
}

// Named reads the record of the instance that has the id or the name, as a whole.
func (s *Store) Named(ref string) (Record, error) {
	if uuid.Validate(ref) == nil {
		rec, err := s.read(strings.ToLower(ref))
		if !errors.Is(err, fs.ErrNotExist) {
			return rec, err
		}
	}
	if !s.indexed() {
		records, damaged := s.List()
		for _, rec := range records {
			if rec.Name == ref {
				return rec, nil
			}
		}
		return Record{}, errors.Join(notFound(ref), damaged)
	}
	if id := s.names.get(ref); id != "" {
		rec, err := s.read(id)
		if err == nil && rec.Name == ref || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return rec, err
		}
	}
	return Record{}, notFound(ref)
}

func notFound(ref string) error { return failure.Of(ErrNotFound, "instance %q not found", ref) }

func (s *Store) read(id string) (Record, error) {
	path := filepath.Join(s.dir, id, recordFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return Record{}, err
	}
	var rec Record
	var head struct{ Version int }
	if err = json.Unmarshal(data, &head); err == nil && head.Version == 1 {
		rec, err = upgrade(data)
	} else if err == nil && head.Version == Version {
		err = json.Unmarshal(data, &rec)
	}
	switch {
	case err != nil:
		return Record{}, failure.Of(ErrDamaged, "damaged record %s: %w", path, err)
	case head.Version > Version:
		return Record{}, failure.Of(ErrDamaged, "the record %s is of a newer lxcboot (version %d; this one knows %d): use that one", path, head.Version, Version)
	case head.Version < 1 || rec.ID != id || rec.Name == "":
		return Record{}, failure.Of(ErrDamaged, "damaged record %s: it is of version %d and names instance %q", path, head.Version, rec.ID)
	}
	return rec, nil
}

// Create claims rec's name and, unless it is privileged, a range of host ids of the pool,
// and saves the record and the seed. The name being taken is ErrExists.
func (s *Store) Create(ctx context.Context, rec Record, pool host.IDPool, seed []byte) (_ *Held, err error) {
	all, err := s.lockAll(ctx)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	if err := s.buildIndex(); err != nil {
		return nil, err
	}
	h := &Held{Record: rec, store: s}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Remove())
		}
	}()
	if err := s.claimName(rec.Name, rec.ID); err != nil {
		return nil, err
	}
	if !rec.Spec.Privileged {
		reg, err := s.openRegistry(ctx)
		if err != nil {
			return nil, err
		}
		defer reg.close() // when the record is there
		if h.IDs, err = s.claimRange(pool, reg, rec.ID); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(s.Dir(rec.ID), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the instance's directory: %w", err)
	}
	fault.Point("record/create/after-mkdir")
	if h.lock, err = lock.File(ctx, filepath.Join(s.Dir(rec.ID), lockFile), os.O_CREATE); err != nil {
		return nil, err
	}
	if seed != nil {
		if err := durable.WriteFile(filepath.Join(s.Dir(rec.ID), seedFile), seed, 0o600); err != nil {
			return nil, err
		}
	}
	if err := h.Save(); err != nil {
		return nil, err
	}
	// Not brought to disk: without it a delete may have to wait for room, and no more.
	_ = os.WriteFile(filepath.Join(s.Dir(rec.ID), spareFile), bytes.Repeat([]byte("room\n"), spareSize/5), 0o600)
	return h, durable.SyncDir(s.dir)
}

// Rename gives the held record another name and saves it; a taken one is ErrExists.
func (s *Store) Rename(ctx context.Context, h *Held, name string) error {
	all, err := s.lockAll(ctx)
	if err != nil {
		return err
	}
	defer all.Close()
	if err := s.buildIndex(); err != nil {
		return err
	}
	if err := s.claimName(name, h.ID); err != nil {
		return err
	}
	left := h.Name // that it has not in the end
	h.Name = name
	err = h.Save()
	if err != nil {
		h.Name, left = left, name
	}
	if left != h.Name {
		err = errors.Join(err, s.names.drop(left, h.ID))
	}
	return err
}

func (s *Store) claimName(name, id string) error {
	holder, err := s.names.claim(name, id, func(holder string) bool { return s.hasName(name, holder) })
	if holder != "" {
		return failure.Of(ErrExists, "the name %q is taken by instance %s", name, holder)
	}
	return err
}

// lockAll takes the lock under which names and ranges are claimed.
func (s *Store) lockAll(ctx context.Context) (*lock.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	f, err := lock.File(ctx, filepath.Join(s.dir, lockFile), os.O_CREATE)
	if errors.Is(err, lock.ErrHeld) {
		return nil, failure.Of(ErrBusy, "another process has claimed names for longer than %v: %w", s.Wait, err)
	}
	return f, err
}

// Hold takes the lock of the instance that ref names, and reads its record under it.
// When it cannot be had within wait, the error is ErrBusy and says what the other process
// is doing.
func (s *Store) Hold(ctx context.Context, wait time.Duration, ref string) (*Held, error) {
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		before, err := s.Find(ref)
		if err != nil {
			return nil, err
		}
		held, err := lock.File(limited, filepath.Join(s.Dir(before.ID), lockFile), 0)
		switch {
		case err != nil && errors.Is(ctx.Err(), context.Canceled):
			return nil, context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist):
			return nil, notFound(ref)
		case errors.Is(err, lock.ErrHeld):
			if now, err := s.read(before.ID); err == nil {
				before = now
			}
			return nil, before.busy()
		case err != nil:
			return nil, err
		}
		// What was read before the lock was had may be old.
		now, err := s.read(before.ID)
		if err == nil {
			if !now.UpdatedAt.Equal(before.UpdatedAt) {
				fault.Point("door/changed meanwhile")
			}
			return &Held{Record: now, store: s, lock: held}, nil
		}
		held.Close()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

// busy says that another process works on the instance.
func (r *Record) busy() error {
	if r.Op == nil {
		return failure.Of(ErrBusy, "instance %q is busy: another process works on it", r.Name)
	}
	return failure.Of(ErrBusy, "instance %q is busy: %s is under way in process %d", r.Name, r.Op.Name, r.Op.PID)
}

// Watch gives a record as it is now, and whether a process works on the instance. What
// shows an operation, and is held by nobody both before and after it was read, was
// interrupted: a read of the record alone does not tell, as an operation may have ended
// between that and the look at its lock.
func (s *Store) Watch(rec Record) (now Record, busy bool, err error) {
	fault.Point("record read")
	for {
		if s.Held(rec.ID) {
			return rec, true, nil
		}
		if rec.Op == nil && rec.Phase == Built {
			return rec, false, nil
		}
		now, err = s.read(rec.ID)
		if errors.Is(err, fs.ErrNotExist) {
			return now, false, notFound(rec.Name)
		}
		if err != nil || now.UpdatedAt.Equal(rec.UpdatedAt) {
			return now, false, err
		}
		rec = now
	}
}

// Held says whether some process holds the instance now.
func (s *Store) Held(id string) bool { return locked(filepath.Join(s.Dir(id), lockFile)) }

// Claimed says whether a process keeps the instance's console, on whatever host.
func (s *Store) Claimed(id string) bool { return locked(s.ClaimPath(id)) }

// locked says whether somebody has the lock of a file; nobody has that of one that is
// not there.
func locked(path string) bool {
	held, _ := lock.Held(path)
	return held
}

// clear removes a directory that holds no record; fs.ErrNotExist when another has.
func (s *Store) clear(dir string) error {
	if err := removeFiles(filepath.Join(dir, keptDir), ""); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := removeFiles(dir, lockFile); err != nil {
		return err
	}
	return durable.SyncDir(s.dir)
}

// removeFiles removes the files of a directory, one of them last, and the directory, which
// has to be there.
func removeFiles(dir, last string) error {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range files {
		if f.Name() != last {
			if err := removeIfThere(filepath.Join(dir, f.Name())); err != nil {
				return err
			}
		}
	}
	if last != "" {
		if err := removeIfThere(filepath.Join(dir, last)); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

// Sweep removes directories that hold no record and that no process holds, and entries
// of the indexes that lead to none, and says what it did.
func (s *Store) Sweep(ctx context.Context) (did []string, err error) {
	all, err := s.lockAll(ctx)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		if uuid.Validate(e.Name()) != nil || s.Held(e.Name()) || s.HasRecord(e.Name()) {
			continue
		}
		if s.clear(s.Dir(e.Name())) == nil {
			did = append(did, fmt.Sprintf("instance %s has no record: removed the rest of it", e.Name()))
		}
	}
	err = s.buildIndex()
	// One that is held may be on its way out.
	names, lost := s.names.sweep(func(name, id string) bool { return s.Held(id) || s.hasName(name, id) })
	ranges, left := s.ranges.sweep(func(first, id string) bool { return s.Held(id) || s.hasRange(first, id) })
	err = errors.Join(err, lost, left)
	for _, name := range names {
		did = append(did, fmt.Sprintf("the name %q was no instance's: freed it", name))
	}
	for _, first := range ranges {
		did = append(did, fmt.Sprintf("the host ids from %s on were no instance's: freed them", first))
	}
	records, _ := s.List()
	for _, r := range records { // of a backup, perhaps
		_, lost := s.names.claim(r.Name, r.ID, func(holder string) bool { return s.hasName(r.Name, holder) })
		err = errors.Join(err, lost, s.keepRange(&r))
	}
	return did, errors.Join(err, s.sweepRegistry(ctx))
}

// hasName says whether an instance has a name, or may have it: its record cannot be read.
func (s *Store) hasName(name, id string) bool {
	rec, err := s.read(id)
	return err == nil && rec.Name == name || err != nil && !errors.Is(err, fs.ErrNotExist)
}

func (s *Store) HasRecord(id string) bool {
	_, err := os.Lstat(filepath.Join(s.Dir(id), recordFile))
	return err == nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
