// Package local is the embedded image and volume store: a directory, with no
// daemon and no cloud. Its values, status words and errors are those of package
// volume.
//
// Every object is a directory of its own, named by its id:
//
//	images/ID/     meta.json, data (the file as it was imported), raw (its raw form,
//	               where it is not raw and a volume was made of it; see cache.go)
//	volumes/ID/    meta.json, data (raw, sparse, exactly as large as the volume; of a
//	               volume that is a device of the host: empty, and only for its lock)
//	snapshots/ID/  meta.json, data (raw, a copy that shares nothing with its volume
//	               but blocks, where the filesystem can; so either may be deleted)
//
// An object appears and disappears by one rename of its directory, and its
// meta.json changes by one rename of the file, so that a reader sees the state
// before or after, never half of it.
//
// Processes are kept apart by flock(2), which ends with its holder:
//
//   - on an object's directory: held for the moment of a change to meta.json;
//   - on an object's data: exclusive while the content is being made, shared while
//     it is being read. An object that is said to be in the making while nobody
//     holds this lock was interrupted: it shows as an error and can be deleted.
//   - on the state directory: while a device of the host becomes a volume.
//   - on images, volumes and snapshots themselves: shared while an object is put
//     there or taken away, exclusive while left-overs are looked for.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/blockdev"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// ErrDamaged says that a record can not be read, or that data is not what the
// record says. The store never guesses: the error names the file, and everything
// else keeps working.
var ErrDamaged = errors.New("damaged")

// MaxSize is the largest size of a volume, and of what an image may describe, in
// GiB. Anything above is taken for a mistake or an attack.
const MaxSize = 64 << 10

// Options says who uses the store, and how patient to be.
type Options struct {
	// Host is named by the attachments that are made; the zero one is host.Here.
	Host host.Host
	// Wait bounds each wait for another process; zero is 10 minutes.
	Wait time.Duration
	// Pool is the thin pool of LVM's, GROUP/POOL, in which volumes and snapshots are made;
	// empty: they are files. What is somewhere else already stays there.
	Pool string
	// Run runs the commands of lvm2, as lvm.Pool has it; not needed without volumes in a pool.
	Run func(ctx context.Context, argv ...string) (string, error)
	// Devices are the block devices of this host.
	Devices blockdev.Host
	// Content gives the UUID of the filesystem that is on a device or file; empty: there is
	// none. nil: it is not looked at.
	Content func(path string) string
	// Progress, when set, gives what is told the bytes done and in all of something that may
	// take long, and what is called at its end. It is used by several goroutines.
	Progress func(what string) (step func(done, total int64), finish func())
}

// progress tells how far a copy of so many bytes is.
func (s *Store) progress(what string, total int64) (step func(done int64), finish func()) {
	if s.o.Progress == nil {
		return func(int64) {}, func() {}
	}
	tell, finish := s.o.Progress(what)
	if tell == nil {
		return func(int64) {}, finish
	}
	return func(done int64) { tell(done, total) }, finish
}

// undoWait bounds what is done to tidy up when the caller's context has ended.
const undoWait = 30 * time.Second

// Store is the embedded store in one state directory. Its methods may be called
// from several goroutines, and several processes may share the directory.
type Store struct {
	dir       string
	o         Options
	images    shelf[volume.Image]
	volumes   shelf[volume.Volume]
	snapshots shelf[volume.Snapshot]

	mu   sync.Mutex
	jobs map[string]*job // volumes that this Store is filling, by id
}

// StoreID tells this kind of store from others.
func (s *Store) StoreID() string { return "local" }

// Remote says that volumes do not reach this host over a network: who sees the store
// sees the records of the instances that use it.
func (s *Store) Remote() bool { return false }

// Open opens the store in stateDir, which is made (mode 0700) when it is not
// there. A directory that another user owns, or could write to, is refused: who
// can write there decides what the host's kernel will mount.
func Open(stateDir string, o Options) (*Store, error) {
	var err error
	if o.Host.ID == "" {
		if o.Host, err = host.Here("", ""); err != nil {
			return nil, err
		}
	}
	if o.Run == nil {
		o.Run = func(_ context.Context, argv ...string) (string, error) {
			return "", failure.Of(volume.ErrUnsupported, "there is nothing to run %s with", argv[0])
		}
	}
	if o.Wait == 0 {
		o.Wait = 10 * time.Minute
	}
	dir, err := filepath.Abs(stateDir)
	if err != nil {
		return nil, fmt.Errorf("state directory %q: %w", stateDir, err)
	}
	if err := MakeDir(dir); err != nil {
		return nil, err
	}
	s := &Store{dir: dir, o: o, jobs: map[string]*job{}}
	s.images = shelf[volume.Image]{filepath.Join(dir, "images"), "image", o.Wait, func(i *volume.Image) face {
		return face{&i.ID, &i.Name, &i.Status, i.CreatedAt}
	}}
	s.volumes = shelf[volume.Volume]{filepath.Join(dir, "volumes"), "volume", o.Wait, func(v *volume.Volume) face {
		return face{&v.ID, &v.Name, &v.Status, v.CreatedAt}
	}}
	s.snapshots = shelf[volume.Snapshot]{filepath.Join(dir, "snapshots"), "snapshot", o.Wait, func(n *volume.Snapshot) face {
		return face{&n.ID, &n.Name, &n.Status, n.CreatedAt}
	}}
	for _, sub := range []string{s.images.dir, s.volumes.dir, s.snapshots.dir} {
		if err := MakeDir(sub); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// DirError says why the state directory, or one of those in it, cannot be used.
type DirError struct {
	Dir    string
	Reason string
	mend   string // empty: there is nothing to be done about it
}

func (e *DirError) Error() string {
	return fmt.Sprintf("the state directory cannot be used: %s %s: %s", e.Dir, e.Reason, e.Mend())
}

// Mend is what to do about it.
func (e *DirError) Mend() string {
	const other = "choose another with --state-dir"
	if e.mend == "" {
		return other
	}
	return e.mend + ", or " + other
}

// Check says why the store could not work in a state directory, and makes nothing.
func Check(stateDir string) error {
	for _, sub := range []string{"", "images", "volumes", "snapshots"} {
		if err := CheckDir(filepath.Join(stateDir, sub)); err != nil {
			return err
		}
	}
	if err := writable(stateDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &DirError{stateDir, fmt.Sprintf("can not be written to (%v)", err), mendAccess("make it writable")}
	}
	return nil
}

// CheckDir is the rule for the state directory and all that is in it: it is this
// user's, and nobody else can write to it. One that is not there yet is fine when it
// can be made. The error is a *DirError.
func CheckDir(dir string) error {
	fi, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
		for errors.Is(err, fs.ErrNotExist) {
			dir = filepath.Dir(dir)
			fi, err = os.Stat(dir)
		}
		if err == nil && !fi.IsDir() {
			err = unix.ENOTDIR
		}
		if err == nil {
			err = writable(dir)
		}
		if err != nil {
			return &DirError{dir, fmt.Sprintf("can not hold what is to be made in it (%v)", plainError(err)), mendAccess("make it writable")}
		}
		return nil
	}
	if err != nil {
		return &DirError{dir, fmt.Sprintf("can not be used (%v)", plainError(err)), mendAccess("")}
	}
	if !fi.IsDir() {
		return &DirError{dir, "is no directory", ""}
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return &DirError{dir, fmt.Sprintf("belongs to user %d, and this is user %d", st.Uid, os.Geteuid()), mendAccess("run 'chown 0 " + dir + "' if nobody else should use it")}
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return &DirError{dir, fmt.Sprintf("may be written to by others (mode %04o)", fi.Mode().Perm()), "run 'chmod 0700 " + dir + "' if its content can be trusted"}
	}
	return nil
}

// writable says whether this user can make something in a directory.
func writable(dir string) error {
	return unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
}

// mendAccess is what to do about a directory that this user cannot use.
func mendAccess(asRoot string) string {
	if os.Geteuid() != 0 {
		return "run it as root"
	}
	return asRoot
}

// plainError is an error without the call and the path, which are said otherwise.
func plainError(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// MakeDir makes a directory where it is not there, by the rule of CheckDir.
func MakeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		if e := CheckDir(dir); e != nil {
			return e
		}
		return &DirError{dir, fmt.Sprintf("can not be made (%v)", plainError(err)), mendAccess("")}
	}
	return CheckDir(dir)
}

// Close ends the work in the background. A volume that is still being filled
// becomes an error. Calling it is only needed before the process goes on without
// the store: the end of a process has the same effect.
func (s *Store) Close() error {
	s.mu.Lock()
	var all []*job
	for _, j := range s.jobs {
		all = append(all, j)
	}
	s.mu.Unlock()
	for _, j := range all {
		j.cancel()
		<-j.done
	}
	return nil
}

// lockFile opens and locks a file or directory, how being LOCK_SH or LOCK_EX, and waits
// no longer than the limit: lock.ErrHeld. The lock ends when the file is closed.
func lockFile(ctx context.Context, path string, flag, how int, limit time.Duration) (*lock.Lock, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	f, err := lock.Open(limited, path, flag, how)
	if errors.Is(err, lock.ErrHeld) && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return f, err
}
