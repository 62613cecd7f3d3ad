package transfer

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/fault"
)

// Bits of a mode that make a program run as its owner.
const setID = unix.S_ISUID | unix.S_ISGID

// file makes a file, with its content, and then gives it its name.
func (u *unpacker) file(parent *os.File, base string, e Entry) error {
	at := int(parent.Fd())
	f, temporary, err := create(at)
	if err != nil {
		return err
	}
	defer f.Close()
	if temporary != "" {
		defer unix.Unlinkat(at, temporary, 0)
	}
	size, err := u.r.Content(func(offset int64, data []byte) error {
		_, err := f.WriteAt(data, offset)
		return err
	})
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		err = u.describe(f, e)
	}
	if err != nil {
		return err
	}
	if e.Shared {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		u.files[e.Name] = inode{st.Dev, st.Ino}
	}
	fault.Point("file copied")
	if temporary != "" {
		return unix.Renameat(at, temporary, at, base)
	}
	self := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if err := unix.Linkat(unix.AT_FDCWD, self, at, base, unix.AT_SYMLINK_FOLLOW); !errors.Is(err, unix.EEXIST) {
		return err
	}
	return replace(at, base, func(temporary string) error {
		return unix.Linkat(unix.AT_FDCWD, self, at, temporary, unix.AT_SYMLINK_FOLLOW)
	})
}

// create makes a file in a directory: one without a name, which goes with this process, where
// the filesystem has such and /proc can give it its name; else one with a temporary name.
func create(at int) (f *os.File, temporary string, err error) {
	fd, err := unix.Openat(at, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		var by, own unix.Stat_t
		if unix.Fstat(fd, &own) == nil && unix.Stat(fmt.Sprintf("/proc/self/fd/%d", fd), &by) == nil && own.Dev == by.Dev && own.Ino == by.Ino {
			return os.NewFile(uintptr(fd), "file"), "", nil
		}
		unix.Close(fd)
	}
	temporary = temporaryName()
	fd, err = unix.Openat(at, temporary, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), "file"), temporary, nil
}

func temporaryName() string {
	b := make([]byte, 8)
	rand.Read(b)
	return ".lxcboot-cp-" + hex.EncodeToString(b)
}

// replace makes something with a temporary name, and puts it where a name is.
func replace(at int, base string, make func(temporary string) error) error {
	temporary := temporaryName()
	defer unix.Unlinkat(at, temporary, 0) // also of another name of the file that is there, which rename leaves
	if err := make(temporary); err != nil {
		return err
	}
	fault.Point("copy made")
	return unix.Renameat(at, temporary, at, base)
}

// describe gives a file or directory its owner, mode and time.
func (u *unpacker) describe(f *os.File, e Entry) error {
	uid, gid := u.o.UID, u.o.GID
	if u.o.Owner {
		uid, gid = e.UID, e.GID
	}
	if err := f.Chown(int(uid), int(gid)); err != nil {
		return owner(err, uid, gid)
	}
	mode := e.Mode
	if !u.o.SetID {
		mode &^= setID
	}
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil {
		return err
	}
	return unix.UtimesNanoAt(int(f.Fd()), "", times(e.MTime), unix.AT_EMPTY_PATH)
}

func owner(err error, uid, gid uint32) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("user %d or group %d does not exist in the container's user namespace", uid, gid)
	}
	return err
}

// own is describe for what cannot be opened, but for the mode.
func (u *unpacker) own(at int, name string, e Entry) error {
	uid, gid := u.o.UID, u.o.GID
	if u.o.Owner {
		uid, gid = e.UID, e.GID
	}
	if err := unix.Fchownat(at, name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return owner(err, uid, gid)
	}
	return unix.UtimesNanoAt(at, name, times(e.MTime), unix.AT_SYMLINK_NOFOLLOW)
}

func times(t time.Time) []unix.Timespec {
	return []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: t.Unix(), Nsec: int64(t.Nanosecond())}}
}
