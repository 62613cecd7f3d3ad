// Package blockdev knows the block devices of a host by what stays of them when it
// restarts: what the hardware, device-mapper, LVM, md or a partition table call them. The
// names and numbers of their nodes are given anew each time.
package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// ErrNotBlock is wrapped when what a path names is no block device.
var ErrNotBlock = errors.New("not a block device")

// Host is where the devices are looked for.
type Host struct {
	Root string // where /sys and /dev are; "/" when empty
}

// Device is a block device as it is now.
type Device struct {
	Path     string // its node, as the kernel names it
	Number   uint64 // as stat has it
	Bytes    int64
	ReadOnly bool
	// IDs are names of it that stay, the best first; none: nothing but what is on it tells it
	// from others. They are those of udev's links in /dev/disk/by-id, with or without a udev,
	// and beside them the kernel's wwid, a partition's partuuid, and for what has nothing
	// else its name as /dev/zvol and such have it.
	IDs []string
	// Seen tells it from all others until this host restarts; empty: an older kernel, before
	// Linux 5.15, does not.
	Seen string
}

// At gives the device that a path names.
func (h Host) At(path string) (Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}, fmt.Errorf("cannot look at the device: %w", &fs.PathError{Op: "stat", Path: path, Err: err})
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Device{}, failure.Of(ErrNotBlock, "%s is no block device", path)
	}
	dev, err := h.device(st.Rdev)
	if err != nil {
		return Device{}, fmt.Errorf("%s is the node of no device that there is: %w", path, err)
	}
	if number, ok := numberOf(dev.Path); !ok || number != st.Rdev {
		dev.Path = path // where nobody makes the kernel's nodes
	}
	return dev, nil
}

// All gives every block device that has a size.
func (h Host) All() (all []Device) {
	entries, _ := os.ReadDir(h.path("sys/dev/block"))
	for _, e := range entries {
		var major, minor uint32
		if _, err := fmt.Sscanf(e.Name(), "%d:%d", &major, &minor); err != nil {
			continue
		}
		if dev, err := h.device(unix.Mkdev(major, minor)); err == nil && dev.Bytes > 0 {
			all = append(all, dev)
		}
	}
	slices.SortFunc(all, func(a, b Device) int { return strings.Compare(a.Path, b.Path) })
	return all
}

// Find gives the devices that have the first of these IDs that any has.
func (h Host) Find(ids []string) (found []Device) {
	all := h.All()
	for _, id := range ids {
		for _, dev := range all {
			if slices.Contains(dev.IDs, id) {
				found = append(found, dev)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// Same says whether what is called so now can be what was called so: a partition whose
// number is that of another one by now is not.
func Same(was, now []string) bool {
	uuid := func(ids []string) string {
		i := slices.IndexFunc(ids, func(id string) bool { return strings.HasPrefix(id, partUUID) })
		if i < 0 {
			return ""
		}
		return ids[i]
	}
	a, b := uuid(was), uuid(now)
	return a == "" || b == "" || a == b
}

// Stable is a path of a device that stays, where there is one: a link in /dev, and not the
// kernel's node. given is tried first.
func (h Host) Stable(dev Device, given string) string {
	base := filepath.Base(dev.Path)
	paths := []string{given}
	for _, id := range dev.IDs {
		paths = append(paths, h.path("dev/disk/by-id", id))
	}
	for _, p := range paths {
		if number, ok := numberOf(p); ok && number == dev.Number && filepath.Base(p) != base {
			return p
		}
	}
	return dev.Path
}

func (h Host) path(elem ...string) string {
	return filepath.Join(append([]string{"/", h.Root}, elem...)...)
}

// dir is where the kernel tells of a device.
func (h Host) dir(number uint64) (string, error) {
	return filepath.EvalSymlinks(h.path("sys/dev/block", fmt.Sprintf("%d:%d", unix.Major(number), unix.Minor(number))))
}

func (h Host) device(number uint64) (Device, error) {
	dir, err := h.dir(number)
	if err != nil {
		return Device{}, err
	}
	sectors, err := strconv.ParseInt(line(dir, "size"), 10, 64)
	if err != nil {
		return Device{}, fmt.Errorf("cannot read its size: %w", err)
	}
	return Device{
		Path: h.path("dev", strings.ReplaceAll(filepath.Base(dir), "!", "/")), Number: number,
		Bytes: sectors * 512, ReadOnly: line(dir, "ro") == "1", IDs: h.ids(dir, number), Seen: h.seen(dir),
	}, nil
}

// seen is a device by the number that the kernel gives to no other disk after it.
func (h Host) seen(dir string) string {
	boot, part := line(h.path("proc/sys/kernel/random"), "boot_id"), line(dir, "partition")
	if part != "" {
		dir = filepath.Dir(dir)
	}
	seq := line(dir, "diskseq")
	if boot == "" || seq == "" {
		return ""
	}
	return strings.TrimSuffix(boot+"/"+seq+"/"+part, "/")
}

// line is the first line of a file; empty: it is not there.
func line(dir, name string) string {
	data, _ := os.ReadFile(filepath.Join(dir, name))
	first, _, _ := strings.Cut(string(data), "\n")
	return strings.Join(strings.Fields(first), " ")
}

// partUUID begins the ID that a partition table gives.
const partUUID = "partuuid-"

// ids are the IDs of a device.
func (h Host) ids(dir string, number uint64) (ids []string) {
	add := func(prefix, id string) {
		if id != "" && !slices.Contains(ids, prefix+id) {
			ids = append(ids, prefix+id)
		}
	}
	if part := line(dir, "partition"); part != "" {
		disk := filepath.Dir(dir)
		if n, err := parse(line(disk, "dev")); err == nil {
			for _, id := range h.ids(disk, n) {
				add(id, "-part"+part)
			}
		}
		add(partUUID, h.partUUID(dir, number))
		return ids
	}
	name := filepath.Base(dir)
	add("dm-uuid-", line(dir, "dm/uuid"))
	add("wwid-", line(dir, "wwid"))
	add("wwid-", line(dir, "device/wwid"))
	if strings.HasPrefix(name, "vd") {
		add("virtio-", line(dir, "serial"))
	}
	for _, link := range h.links("dev/disk/by-id", number) {
		// The others name what was written to it, or can be given to another.
		if !strings.HasPrefix(link, "dm-name-") && !strings.HasPrefix(link, "md-name-") && !strings.HasPrefix(link, "lvm-pv-uuid-") {
			add("", link)
		}
	}
	for prefix, place := range map[string]string{"zd": "dev/zvol", "drbd": "dev/drbd/by-res", "rbd": "dev/rbd"} {
		if strings.HasPrefix(name, prefix) {
			for _, link := range h.links(place, number) {
				add("/"+place+"/", link)
			}
		}
	}
	return ids
}

// partUUID is what the partition table calls a partition: newer kernels say it, and udev.
func (h Host) partUUID(dir string, number uint64) string {
	data, _ := os.ReadFile(filepath.Join(dir, "uevent"))
	for l := range strings.Lines(string(data)) {
		if uuid, ok := strings.CutPrefix(strings.TrimSpace(l), "PARTUUID="); ok {
			return strings.ToLower(uuid)
		}
	}
	for _, link := range h.links("dev/disk/by-partuuid", number) {
		return strings.ToLower(link)
	}
	return ""
}

// links are the links below a directory that lead to a device, by their paths from there.
func (h Host) links(place string, number uint64) (links []string) {
	top := h.path(place)
	_ = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type() == fs.ModeSymlink {
			if to, ok := numberOf(path); ok && to == number {
				links = append(links, strings.TrimPrefix(path, top+"/"))
			}
		}
		return nil
	})
	return links
}

// numberOf is the number of the block device that a path names.
func numberOf(path string) (uint64, bool) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return st.Rdev, err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK
}

func parse(text string) (uint64, error) {
	var major, minor uint32
	_, err := fmt.Sscanf(text, "%d:%d", &major, &minor)
	return unix.Mkdev(major, minor), err
}

// Overlap says whether two devices have content in common: they are one, or one is a
// partition of the other.
func (h Host) Overlap(a, b uint64) bool {
	has := func(disk, part uint64) bool {
		return slices.ContainsFunc(h.Parts(disk), func(p Device) bool { return p.Number == part })
	}
	return a == b || has(a, b) || has(b, a)
}

// Parts are the partitions of a disk.
func (h Host) Parts(disk uint64) (parts []Device) {
	dir, err := h.dir(disk)
	if err != nil {
		return nil
	}
	all, _ := filepath.Glob(dir + "/*/partition")
	for _, p := range all {
		n, err := parse(line(filepath.Dir(p), "dev"))
		if err != nil {
			continue
		}
		if part, err := h.device(n); err == nil {
			parts = append(parts, part)
		}
	}
	return parts
}

// UnderSystem says whether the root of this host lies on a device, at whatever remove.
func (h Host) UnderSystem(number uint64) bool {
	root, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter("/"))
	if err != nil || len(root) == 0 {
		return false
	}
	on := unix.Mkdev(uint32(root[0].Major), uint32(root[0].Minor))
	if root[0].Major == 0 { // a btrfs has a number of its own
		on, _ = numberOf(root[0].Source)
	}
	return h.liesOn(on, number, 0)
}

// maxDepth bounds how many devices can lie on each other.
const maxDepth = 32

func (h Host) liesOn(upper, lower uint64, depth int) bool {
	if upper == lower {
		return true
	}
	dir, err := h.dir(upper)
	if err != nil || depth > maxDepth {
		return false
	}
	if line(dir, "partition") != "" {
		disk, err := parse(line(filepath.Dir(dir), "dev"))
		return err == nil && h.liesOn(disk, lower, depth+1)
	}
	slaves, _ := filepath.Glob(dir + "/slaves/*/dev")
	return slices.ContainsFunc(slaves, func(dev string) bool {
		n, err := parse(line(filepath.Dir(dev), "dev"))
		return err == nil && h.liesOn(n, lower, depth+1)
	})
}
