package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lxc"
)

// The kinds of failure of the record store and the Manager.
var (
	ErrNotFound  = errors.New("instance not found")
	ErrExists    = errors.New("instance exists")
	ErrAmbiguous = errors.New("ambiguous instance")
	ErrBusy      = errors.New("instance is busy")
	ErrState     = errors.New("wrong state")
	ErrInvalid   = failure.ErrInvalid
	// ErrDamaged wraps the path of a record that cannot be read.
	ErrDamaged = errors.New("damaged record")
)

const (
	recordFile = "record.json"
	lockFile   = "lock"
	logFile    = "console.log"
	socketFile = "console.sock"
)

// Store keeps the records: a directory of mode 0700 for each instance, named
// after its id, below STATE/instances. The mountpoints are elsewhere, because a
// container's root, who is nobody on the host, has to be able to reach them.
type Store struct{ dir, runDir string }

// DefaultRunDir is where the mountpoints are.
const DefaultRunDir = "/run/lxcboot"

// OpenStore opens the records below stateDir, making the directory when it is
// not there. Mountpoints are made below runDir.
func OpenStore(stateDir, runDir string) (*Store, error) {
	dir := filepath.Join(stateDir, "instances")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the state directory: %w", err)
	}
	return &Store{dir: dir, runDir: runDir}, nil
}

// Dir is the directory of an instance.
func (s *Store) Dir(id string) string { return filepath.Join(s.dir, id) }

// RootDir is where an instance's root filesystem is mounted on the host.
func (s *Store) RootDir(id string) string { return filepath.Join(s.runDir, id, "root") }

// MountDir is where an instance's i-th volume is mounted on the host.
func (s *Store) MountDir(id string, i int) string {
	return filepath.Join(s.runDir, id, fmt.Sprint("volume-", i))
}

// makeMountpoint makes a mountpoint of an instance, and the directory above it, into
// which nobody but root and the container's root group can go.
func (s *Store) makeMountpoint(id, target string, gid int) error {
	if err := os.MkdirAll(s.runDir, 0o711); err != nil {
		return err
	}
	dir := filepath.Join(s.runDir, id)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if gid != 0 {
		if err := os.Chown(dir, 0, gid); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o710); err != nil {
			return err
		}
	}
	if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// hasMountpoints says whether an instance has mountpoints on the host, which it has while
// it is started.
func (s *Store) hasMountpoints(id string) bool {
	_, err := os.Lstat(filepath.Join(s.runDir, id))
	return err == nil
}

// removeMountpoint removes a mountpoint, which has to be empty and no mountpoint any
// more, and with the last one the directory above.
func (s *Store) removeMountpoint(id, target string) error {
	if err := removeEmpty(target); err != nil {
		return err
	}
	if err := removeEmpty(filepath.Join(s.runDir, id)); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// LogPath is the console log of an instance.
func (s *Store) LogPath(id string) string { return filepath.Join(s.dir, id, logFile) }

// SocketPath is where a running instance's console can be reached.
func (s *Store) SocketPath(id string) string { return filepath.Join(s.dir, id, socketFile) }

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
	sort.Slice(records, func(i, j int) bool { return records[i].Name < records[j].Name })
	return records, errors.Join(damaged...)
}

// Find reads the record that ref names, by id or by name.
func (s *Store) Find(ref string) (Record, error) {
	if uuid.Validate(ref) == nil {
		rec, err := s.read(strings.ToLower(ref))
		if !errors.Is(err, fs.ErrNotExist) {
			return rec, err
		}
	}
	records, damaged := s.List()
	for _, rec := range records {
		if rec.Name == ref {
			return rec, nil
		}
	}
	return Record{}, errors.Join(fmt.Errorf("%w: %q", ErrNotFound, ref), damaged)
}

func (s *Store) read(id string) (Record, error) {
	path := filepath.Join(s.dir, id, recordFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return Record{}, err
	}
	var rec Record
	if err := json.Unmarshal(data, &rec); err != nil {
		return Record{}, fmt.Errorf("%w %s: %w", ErrDamaged, path, err)
	}
	if rec.Version != recordVersion || rec.ID != id || rec.Name == "" {
		return Record{}, fmt.Errorf("%w %s: it is of version %d and names instance %q", ErrDamaged, path, rec.Version, rec.ID)
	}
	return rec, nil
}

// Handle is a record that this process alone may change, until it is closed.
type Handle struct {
	Record
	store   *Store
	lock    *os.File
	domain  lxc.Info // what libvirt said when the container was started
	at      Step     // the step that this process has come to
	console Console  // held, and not kept by a process yet
}

// Create claims rec's name and a range of host ids, and saves the record. The
// name being taken by another instance is ErrExists.
func (s *Store) Create(ctx context.Context, rec Record) (*Handle, error) {
	all, err := lock(ctx, filepath.Join(s.dir, lockFile), os.O_CREATE)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	s.sweep()
	// A record that cannot be read may hold the name: refusing is the only
	// answer that cannot start a volume or a name twice.
	records, err := s.List()
	if err != nil {
		return nil, err
	}
	slots := map[int]bool{}
	for _, r := range records {
		if r.Name == rec.Name {
			return nil, fmt.Errorf("%w: the name %q is taken by instance %s", ErrExists, rec.Name, r.ID)
		}
		slots[r.Slot] = true
	}
	for rec.Slot = 0; slots[rec.Slot]; {
		rec.Slot++
	}
	if rec.Slot >= maxSlots {
		return nil, fmt.Errorf("%w: all %d ranges of host ids are taken", ErrState, maxSlots)
	}
	if err := os.Mkdir(s.Dir(rec.ID), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the instance's directory: %w", err)
	}
	fault.Point("record/create/after-mkdir")
	h := &Handle{Record: rec, store: s}
	h.lock, err = lock(ctx, filepath.Join(s.Dir(rec.ID), lockFile), os.O_CREATE)
	if err == nil {
		err = h.Save()
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		return nil, errors.Join(err, h.Remove())
	}
	return h, nil
}

// Rename gives the held record another name; a taken one is ErrExists.
func (s *Store) Rename(ctx context.Context, h *Handle, name string) error {
	all, err := lock(ctx, filepath.Join(s.dir, lockFile), os.O_CREATE)
	if err != nil {
		return err
	}
	defer all.Close()
	records, err := s.List()
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.Name == name && r.ID != h.ID {
			return fmt.Errorf("%w: the name %q is taken by instance %s", ErrExists, name, r.ID)
		}
	}
	old := h.Name
	h.Name = name
	if err := h.Save(); err != nil {
		h.Name = old
		return err
	}
	return nil
}

// Hold waits until no other process changes the instance that ref names, and
// returns its record to change. When ctx ends first the error is ErrBusy and
// says what the other process is doing.
func (s *Store) Hold(ctx context.Context, ref string) (*Handle, error) {
	for {
		rec, err := s.Find(ref)
		if err != nil {
			return nil, err
		}
		held, err := lock(ctx, filepath.Join(s.Dir(rec.ID), lockFile), 0)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("%w: %q", ErrNotFound, ref)
		case errors.Is(err, ErrBusy):
			return nil, fmt.Errorf("%w: %s (%s) is under way in process %d", ErrBusy, rec.Name, orUnknown(rec.Operation.Name), rec.Operation.PID)
		case err != nil:
			return nil, err
		}
		// What was read before the lock was had may be old.
		now, err := s.read(rec.ID)
		if err == nil {
			return &Handle{Record: now, store: s, lock: held}, nil
		}
		held.Close()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "an operation"
	}
	return s
}

// Held says whether some process holds the instance now.
func (s *Store) Held(id string) bool {
	f, err := os.OpenFile(filepath.Join(s.Dir(id), lockFile), os.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == unix.EWOULDBLOCK
}

// lock takes the exclusive lock of a file, waiting until ctx ends. A lock
// belongs to the open file, so the kernel drops it with the process. An
// instance's lock is made with its directory only: made again by one who waits
// for it, it would keep the directory from being removed.
func lock(ctx context.Context, path string, create int) (*os.File, error) {
	wait := time.Millisecond
	for {
		f, err := os.OpenFile(path, os.O_RDWR|create, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && sameFile(f, path) {
			return f, nil
		}
		f.Close()
		switch {
		case err == nil: // removed while we opened it
		case err != unix.EWOULDBLOCK && err != unix.EINTR:
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
		case <-time.After(wait):
			wait = min(2*wait, 100*time.Millisecond)
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// Save writes the record to disk: when it returns, the record survives a crash.
func (h *Handle) Save() error {
	h.UpdatedAt = time.Now().UTC().Truncate(time.Millisecond)
	data, err := json.MarshalIndent(h.Record, "", "  ")
	if err != nil {
		return err
	}
	dir := h.store.Dir(h.ID)
	if err := renameio.WriteFile(filepath.Join(dir, recordFile), append(data, '\n'), 0o600, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600)); err != nil {
		return fmt.Errorf("cannot save the instance's record: %w", err)
	}
	return syncDir(dir)
}

// Remove removes the record and everything in its directory.
func (h *Handle) Remove() error {
	dir := h.store.Dir(h.ID)
	// The record goes before its lock: a directory without a record is rubbish
	// that the next Create sweeps away.
	if err := removeEmpty(filepath.Join(dir, recordFile)); err != nil {
		return err
	}
	fault.Point("record/remove/after-record")
	return h.store.clear(dir)
}

// clear removes a directory that holds no record.
func (s *Store) clear(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range files {
		if f.Name() != lockFile {
			if err := removeEmpty(filepath.Join(dir, f.Name())); err != nil {
				return err
			}
		}
	}
	for _, path := range []string{filepath.Join(dir, lockFile), dir} {
		if err := removeEmpty(path); err != nil {
			return err
		}
	}
	return syncDir(s.dir)
}

// sweep removes the directories that a process left when it was killed before
// it had a record or after it had removed it. The caller holds the store's lock.
func (s *Store) sweep() (swept []string) {
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		if uuid.Validate(e.Name()) != nil || s.Held(e.Name()) {
			continue
		}
		dir := s.Dir(e.Name())
		if _, err := os.Lstat(filepath.Join(dir, recordFile)); errors.Is(err, fs.ErrNotExist) {
			if s.clear(dir) == nil {
				swept = append(swept, e.Name())
			}
		}
	}
	return swept
}

// Sweep removes directories that hold no record and that no process holds, and
// gives their ids.
func (s *Store) Sweep(ctx context.Context) ([]string, error) {
	all, err := lock(ctx, filepath.Join(s.dir, lockFile), os.O_CREATE)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	return s.sweep(), nil
}

// Close lets other processes change the instance again.
func (h *Handle) Close() error {
	if h.console != nil {
		h.console.Close()
	}
	if h.lock == nil {
		return nil
	}
	return h.lock.Close()
}

func removeEmpty(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
