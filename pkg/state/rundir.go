package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// What libvirt's definition of a container names is below RUN/ID, and nothing else: the
// mountpoints while it is started, and a link for each block device, to wherever that is
// now. A host that restarts has them no more, so that a definition never leads to a
// device that has become another's.

// RootDir is where an instance's root filesystem is mounted on the host.
func (s *Store) RootDir(id string) string { return filepath.Join(s.runDir, id, "root") }

// LowerDir and UpperDir are where the two sides of a root's overlay are mounted on the host
// until that is made.
func (s *Store) LowerDir(id string) string { return filepath.Join(s.runDir, id, "lower") }

// UpperDir is that of what is written.
func (s *Store) UpperDir(id string) string { return filepath.Join(s.runDir, id, "upper") }

// LaunchDir is where lxcboot-init and its orders are.
func (s *Store) LaunchDir(id string) string { return filepath.Join(s.runDir, id, "launch") }

// MountDir is where a volume is mounted on the host, by the name of its device.
func (s *Store) MountDir(id, device string) string {
	return filepath.Join(s.runDir, id, mountPrefix+path.Base(device))
}

const mountPrefix = "mount-"

// MountDirs are the directories of the form of MountDir that are there.
func (s *Store) MountDirs(id string) (all []string) {
	entries, _ := os.ReadDir(filepath.Join(s.runDir, id))
	for _, e := range entries {
		if name := filepath.Join(s.runDir, id, e.Name()); s.IsMountDir(id, name) {
			all = append(all, name)
		}
	}
	return all
}

// IsMountDir says whether a path is of the form of MountDir, of that instance.
func (s *Store) IsMountDir(id, name string) bool {
	return filepath.Dir(name) == filepath.Join(s.runDir, id) && strings.HasPrefix(filepath.Base(name), mountPrefix)
}

// DeviceLink leads to the block device of a volume, by the name that it has inside.
func (s *Store) DeviceLink(id, device string) string {
	return filepath.Join(s.runDir, id, "dev", path.Base(device))
}

// MakeRunDir makes the directory of an instance, into which nobody but root and the
// container's root group can go. The modes are set, whatever the umask, and whatever an
// earlier process made.
func (s *Store) MakeRunDir(id string, gid int) error {
	if err := os.MkdirAll(s.runDir, 0o711); err != nil {
		return err
	}
	if err := os.Chmod(s.runDir, 0o711); err != nil {
		return err
	}
	dir := filepath.Join(s.runDir, id)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if gid == 0 {
		return nil
	}
	return errors.Join(os.Chown(dir, 0, gid), os.Chmod(dir, 0o710))
}

// MakeMountpoint makes a mountpoint in the directory of an instance.
func (s *Store) MakeMountpoint(target string) error {
	if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Link makes the link to a device; one that is there is replaced.
func (s *Store) Link(id, device, to string) error {
	name := s.DeviceLink(id, device)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	if err := removeIfThere(name); err != nil {
		return err
	}
	return os.Symlink(to, name)
}

// CheckLink fails unless the link leads to a device, and to that one.
func (s *Store) CheckLink(id, device, to string) error {
	name := s.DeviceLink(id, device)
	if now, err := os.Readlink(name); err != nil || now != to {
		return failure.Of(ErrState, "%s does not lead to %s", name, to)
	}
	if info, err := os.Stat(name); err != nil || info.Mode()&fs.ModeDevice == 0 {
		return failure.Of(ErrState, "%s, where %s leads, is no device", to, name)
	}
	return nil
}

// HasRunDir says whether the host holds anything for an instance's container there.
func (s *Store) HasRunDir(id string) bool {
	_, err := os.Lstat(filepath.Join(s.runDir, id))
	return err == nil
}

// RemovePath removes what stands at a path of an instance, an empty directory or a link, and
// the directories above it that are empty then.
func (s *Store) RemovePath(id, target string) error {
	if err := removeIfThere(target); err != nil {
		return fmt.Errorf("cannot remove %s: %w", target, err)
	}
	for dir := filepath.Dir(target); dir != s.runDir; dir = filepath.Dir(dir) {
		if err := removeIfThere(dir); errors.Is(err, unix.ENOTEMPTY) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}
