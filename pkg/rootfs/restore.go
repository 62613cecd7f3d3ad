package rootfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/inroot"
)

// Restore puts back in a root all that Keep kept in the directory from, takes away the
// directories that were missing then, unless something else is in them, and then
// removes from, which need not be there. What stands as it did then is not touched. The
// root has to be mounted as it was for Keep. After a failure, or a kill, all that was
// kept is still there, and Restore can be called again. Where the root is full, what
// was written there goes before what stood there comes.
func Restore(root, from string) error {
	all, err := loadKept(from)
	if err == nil && len(all) > 0 {
		err = restore(root, from, all)
	}
	if err != nil {
		return fmt.Errorf("cannot put back in the root what was kept of it in %s: %w", from, err)
	}
	return Forget(from)
}

// Forget removes what Keep kept in the directory from, which need not be there.
func Forget(from string) error {
	records, err := filepath.Glob(filepath.Join(from, "*"+recordSuffix))
	if err != nil {
		return err
	}
	// The records first: while there is one, its content is there.
	for _, r := range records {
		if err := os.Remove(r); err != nil {
			return err
		}
		fault.Point("rootfs/forget/record")
	}
	if len(records) > 0 {
		if err := durable.SyncDir(from); err != nil {
			return err
		}
	}
	// It holds files alone: a mount that stands in the way is refused, and never emptied.
	entries, err := os.ReadDir(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(from, e.Name())))
	}
	return errors.Join(err, os.Remove(from))
}

func loadKept(from string) (all []*kept, err error) {
	entries, err := os.ReadDir(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != recordSuffix {
			continue
		}
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return nil, err
		}
		k := &kept{}
		if err := json.Unmarshal(data, k); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		all = append(all, k)
	}
	return all, nil
}

func restore(root, from string, all []*kept) error {
	top, mount, err := openMount(root)
	if err != nil {
		return err
	}
	defer top.Close()
	for _, k := range all {
		if k.Mount != mount {
			return fmt.Errorf("%s is not mounted as it was then", root)
		}
	}
	var full []*kept
	var errs []error
	for _, k := range all {
		err := k.putBack(top, from)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			full = append(full, k)
			// What was written makes room for the second try.
			err = k.in(top, string(k.Path), func(dir *os.File, name string) error { return remove(dir, name, 0) })
		}
		errs = append(errs, err)
	}
	if full != nil {
		// Some filesystems give space back only then.
		errs = append(errs, syncFS(top))
	}
	for _, k := range full {
		errs = append(errs, k.putBack(top, from))
	}
	errs = append(errs, removeDirs(top, all))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return syncFS(top)
}

// in calls a function with the directory that a path of the root is in, and the path's
// last element, as the container's root. A directory that is not there is no error
// where nothing stood.
func (k *kept) in(top *os.File, name string, f func(dir *os.File, name string) error) error {
	err := as(k.IDs, func() error {
		dir, err := inroot.Open(top, path.Dir(name), unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			if errors.Is(err, unix.ENOENT) && k.Stood.Mode == 0 {
				return nil
			}
			return err
		}
		defer dir.Close()
		return f(dir, path.Base(name))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// putBack makes the path hold again what it did.
func (k *kept) putBack(top *os.File, from string) error {
	var data *os.File
	if k.Stood.regular() {
		var err error // opened as who this is, and not as the container's root
		if data, err = os.Open(k.file(from) + contentSuffix); err != nil {
			return err
		}
		defer data.Close()
	}
	return k.in(top, string(k.Path), func(dir *os.File, name string) error {
		if err := removeTemp(dir); err != nil {
			return err
		}
		if now, _, err := lookAt(dir, name, ""); err == nil && reflect.DeepEqual(now, k.Stood) {
			return nil
		}
		if k.Stood.Mode == 0 {
			return remove(dir, name, 0)
		}
		if err := place(dir, name, func() error { return k.make(dir, data) }); err != nil {
			return err
		}
		fault.Point("rootfs/restore/placed")
		return nil
	})
}

// make makes what stood there, under the name of what is not whole.
func (k *kept) make(dir, data *os.File) error {
	s := k.Stood
	var err error
	if s.regular() {
		err = create(dir, tempName, int(s.UID), int(s.GID), s.Mode, func(out *os.File) error { return copySparse(out, data) })
	} else if err = unix.Symlinkat(string(s.Link), int(dir.Fd()), tempName); err == nil {
		err = unix.Fchownat(int(dir.Fd()), tempName, int(s.UID), int(s.GID), unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return err
	}
	if err := setXattrs(dir, tempName, s.Xattrs); err != nil {
		return err
	}
	return unix.UtimesNanoAt(int(dir.Fd()), tempName, []unix.Timespec{k.Accessed, s.Modified}, unix.AT_SYMLINK_NOFOLLOW)
}

// removeDirs removes the directories that were missing, the innermost first.
func removeDirs(top *os.File, all []*kept) error {
	owners := map[string]*kept{}
	for _, k := range all {
		for _, dir := range k.Missing {
			owners[string(dir)] = k
		}
	}
	var errs []error
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(owners))) {
		errs = append(errs, owners[name].in(top, name, func(dir *os.File, name string) error {
			err := remove(dir, name, unix.AT_REMOVEDIR)
			if errors.Is(err, unix.ENOTEMPTY) {
				return nil
			}
			return err
		}))
	}
	return errors.Join(errs...)
}
