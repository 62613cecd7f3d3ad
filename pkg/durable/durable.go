// Package durable writes what must survive a crash of the host.
package durable

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/lxcboot/lxcboot/pkg/fault"
)

// WriteFile puts a file with exactly this mode at path, in place of one that is there.
// A crash at any moment leaves the old file or the new one, and perhaps a temporary one
// named ".BASE-…" beside it. When WriteFile returns nil the new file is on disk; when it
// fails, it leaves no temporary file.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	dir, base := filepath.Dir(path), filepath.Base(path)
	f, err := os.CreateTemp(dir, "."+base+"-")
	if err != nil {
		return err
	}
	err = fill(f, data, mode)
	if err == nil {
		fault.Point("durable/" + base + "/before-rename")
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return SyncDir(dir)
}

func fill(f *os.File, data []byte, mode os.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(mode) // which the umask has no part in
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// SyncDir brings the names in a directory to disk: files that were made, renamed or
// removed there stay so after a crash.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
