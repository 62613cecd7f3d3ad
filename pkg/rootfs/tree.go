package rootfs

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/inroot"
)

// A Submount is a subvolume of the btrfs that a root lies on, and a directory of the root.
type Submount struct {
	Subvolume string `json:"subvolume"` // its path from the top
	Path      string `json:"path"`
	ReadOnly  bool   `json:"readonly,omitempty"`
}

const (
	maxFstab     = 1 << 20 // bytes
	maxSubmounts = 64
)

// Tree looks into a root that was selected, for what only its content says. The subvolume of a
// btrfs that is the root may be one that nothing can be written to; and its /etc/fstab may mount
// other subvolumes of the same btrfs in it, as a machine would.
func Tree(ctx context.Context, device string, fsys Filesystem) (Filesystem, error) {
	if fsys.Type != "btrfs" {
		return fsys, nil
	}
	var table []Submount
	err := look(ctx, device, fsys, func(root *os.File) (err error) {
		fsys.ReadOnly, err = readOnlySubvolume(root)
		table = fstab(root, fsys)
		return err
	})
	if err != nil || len(table) == 0 {
		return fsys, err
	}
	err = look(ctx, device, fsys.top(), func(top *os.File) error {
		for _, s := range table {
			sub, err := inroot.OpenDirect(top, s.Subvolume, unix.O_PATH|unix.O_DIRECTORY)
			if err != nil {
				continue
			}
			if isSubvolume(sub) {
				fsys.Mounts = append(fsys.Mounts, s)
			}
			sub.Close()
		}
		return nil
	})
	return fsys, err
}

// fstab is what the /etc/fstab of a root mounts of the root's own filesystem, the directories
// before what lies in them. What cannot be read, or is for the host to mount, is left out.
func fstab(root *os.File, fsys Filesystem) (table []Submount) {
	f, err := inroot.Open(root, "etc/fstab", unix.O_RDONLY)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	lines := bufio.NewScanner(io.LimitReader(f, maxFstab))
	for lines.Scan() && len(table) < maxSubmounts {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || strings.HasPrefix(fields[0], "#") || fields[2] != "btrfs" || !fsys.named(unescape(fields[0])) {
			continue
		}
		s := Submount{Path: unescape(fields[1])}
		options := strings.Split(unescape(fields[3]), ",")
		for _, o := range options {
			if name, value, _ := strings.Cut(o, "="); name == "subvol" {
				s.Subvolume = strings.TrimPrefix(path.Clean("/"+value), "/")
			}
		}
		s.ReadOnly = slices.Contains(options, "ro")
		taken := slices.ContainsFunc(table, func(t Submount) bool { return t.Path == s.Path })
		if s.Subvolume != "" && !taken && !slices.Contains(options, "noauto") && mountable(s.Path) {
			table = append(table, s)
		}
	}
	slices.SortFunc(table, func(a, b Submount) int { return cmp.Compare(a.Path, b.Path) })
	return table
}

// mountable says whether a directory of a root is one that its fstab may mount at: the root
// itself and what libvirt mounts are not.
func mountable(dir string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(dir, "/"), "/")
	return dir != "/" && path.IsAbs(dir) && path.Clean(dir) == dir && !slices.Contains([]string{"dev", "proc", "sys", "run", ".oldroot"}, first)
}

// unescape undoes the octal escapes of fstab(5).
func unescape(field string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(field)
}

// named says whether the first field of an fstab means this filesystem.
func (fsys Filesystem) named(spec string) bool {
	for prefix, id := range map[string]string{"UUID=": fsys.UUID, "LABEL=": fsys.Label, "/dev/disk/by-uuid/": fsys.UUID, "/dev/disk/by-label/": fsys.Label} {
		if value, ok := strings.CutPrefix(spec, prefix); ok && id != "" && strings.EqualFold(strings.Trim(value, `"`), id) {
			return true
		}
	}
	return false
}

// mountSubvolumes mounts what else belongs to the tree of a root, from the device that the root
// is mounted from.
func mountSubvolumes(source string, fsys Filesystem, target string, readOnly bool, o MountOptions) error {
	root, err := inroot.Dir(target)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, s := range fsys.Mounts {
		if err := mountSubvolume(source, fsys, s, root, readOnly, o); err != nil {
			return fmt.Errorf("its subvolume %s, at %s: %w", s.Subvolume, s.Path, err)
		}
		fault.Point("rootfs/mount/subvolume")
	}
	return nil
}

func mountSubvolume(source string, fsys Filesystem, s Submount, root *os.File, readOnly bool, o MountOptions) error {
	dir, err := inroot.OpenDirect(root, s.Path, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	fsys.Subvolume = s.Subvolume
	mnt, err := newMount(source, fsys, readOnly)
	if err != nil {
		return err
	}
	defer mnt.Close()
	if s.ReadOnly {
		if err := unix.MountSetattr(int(mnt.Fd()), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return err
		}
	}
	if err := setAttributes(mnt, source, fsys, o); err != nil {
		return err
	}
	return unix.MoveMount(int(mnt.Fd()), "", int(dir.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
