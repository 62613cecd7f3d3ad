package rootfs

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/inroot"
)

// Of linux/btrfs.h: BTRFS_IOC_SUBVOL_GETFLAGS and BTRFS_SUBVOL_RDONLY.
const (
	subvolumeFlags    = 0x80089419
	subvolumeReadOnly = 1 << 1
)

// subvolume gives the path of the subvolume that is meant; empty: the default one.
func subvolume(ctx context.Context, device string, fsys Filesystem, want string) (string, error) {
	var found string
	var all []string
	err := look(ctx, device, fsys.top(), func(top *os.File) error {
		all = subvolumes(top)
		names := []string{want}
		if want == SubvolumeAuto {
			names = rootSubvolumes
		}
		for _, name := range names {
			sub, err := inroot.OpenDirect(top, name, unix.O_PATH|unix.O_DIRECTORY)
			if err != nil {
				continue
			}
			defer sub.Close()
			if isSubvolume(sub) && (want != SubvolumeAuto || hasInit(sub)) {
				found = name
				return nil
			}
		}
		return nil
	})
	if err != nil || found != "" {
		return found, err
	}
	has := "it has none below its top"
	if len(all) > 0 {
		has = "it has " + strings.Join(all, ", ")
	}
	if want != SubvolumeAuto {
		return "", &NotFoundError{Where: fsys.String(), Found: fmt.Sprintf("no subvolume %q", want), Mend: has}
	}
	there := false
	err = look(ctx, device, fsys, func(root *os.File) error { there = hasInit(root); return nil })
	if err == nil && !there {
		err = &NotFoundError{Where: fsys.String(), Found: "no init in its subvolumes root and @ and its default one", Mend: has + "; name one, as in subvolume=@"}
	}
	return "", err
}

// subvolumes are those of a btrfs right below its top, by their names.
func subvolumes(top *os.File) (names []string) {
	dir, err := inroot.Open(top, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil
	}
	defer dir.Close()
	all, _ := dir.ReadDir(-1)
	for _, e := range all {
		sub, err := inroot.OpenDirect(top, e.Name(), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			continue
		}
		if isSubvolume(sub) && !strings.ContainsAny(e.Name(), ",") {
			names = append(names, e.Name())
		}
		sub.Close()
	}
	slices.Sort(names)
	return names
}

// isSubvolume says whether a directory of a btrfs is the top of a subvolume: those have this
// number (BTRFS_FIRST_FREE_OBJECTID).
func isSubvolume(dir *os.File) bool {
	info, err := dir.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Ino == 256
}

// readOnlySubvolume says whether nothing can be written to a subvolume of a btrfs.
func readOnlySubvolume(dir *os.File) (bool, error) {
	f, err := inroot.Open(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY) // a mount is open by its path alone
	if err != nil {
		return false, err
	}
	defer f.Close()
	var flags uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), subvolumeFlags, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		return false, fmt.Errorf("cannot ask whether the subvolume is read-only: %w", errno)
	}
	return flags&subvolumeReadOnly != 0, nil
}
