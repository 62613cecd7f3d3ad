package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// index finds instances by a key without reading their records: a directory with a
// link for each key, whose target is the id. To make one is atomic, and fails when it is
// there. The records are the truth: an entry whose record does not bear it out is stale.
type index string

func (x index) get(key string) string {
	id, _ := os.Readlink(filepath.Join(string(x), filepath.Base(key)))
	return id
}

// claim makes an entry. One that is there is replaced, unless good says that its holder,
// which is returned then, has the key.
func (x index) claim(key, id string, good func(holder string) bool) (holder string, err error) {
	path := filepath.Join(string(x), key)
	err = os.Symlink(id, path)
	if errors.Is(err, fs.ErrExist) {
		if holder = x.get(key); holder == id {
			return "", nil
		}
		if good(holder) {
			return holder, nil
		}
		if err = os.Remove(path); err == nil {
			err = os.Symlink(id, path)
		}
	}
	return "", err
}

// drop removes an entry of that id; none is done.
func (x index) drop(key, id string) error {
	if x.get(key) != id {
		return nil
	}
	return removeIfThere(filepath.Join(string(x), key))
}

// numbers are the keys that are numbers, sorted.
func (x index) numbers() (all []uint64, err error) {
	entries, err := os.ReadDir(string(x))
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 32); err == nil {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, err
}

// sweep removes the entries that no record bears out, and gives their keys.
func (x index) sweep(good func(key, id string) bool) (swept []string, err error) {
	entries, err := os.ReadDir(string(x))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if id := x.get(e.Name()); !good(e.Name(), id) {
			if err := x.drop(e.Name(), id); err != nil {
				return swept, err
			}
			swept = append(swept, e.Name())
		}
	}
	return swept, nil
}

func (s *Store) indexed() bool {
	_, err := os.Lstat(string(s.names))
	return err == nil
}

// buildIndex makes the indexes of records that an older lxcboot wrote. A record that
// cannot be read may hold a name or a range: until it can, nothing is claimed. The
// caller holds the lock of all.
func (s *Store) buildIndex() error {
	if s.indexed() {
		return nil
	}
	records, err := s.List()
	if err != nil {
		return err
	}
	names := s.names + ".new"
	for _, dir := range []index{names, s.ranges} {
		if err := os.MkdirAll(string(dir), 0o700); err != nil {
			return err
		}
	}
	none := func(string) bool { return false }
	for _, r := range records {
		if _, err := names.claim(r.Name, r.ID, none); err != nil {
			return err
		}
		if err := s.keepRange(&r); err != nil {
			return err
		}
	}
	return os.Rename(string(names), string(s.names))
}
