package loop

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// list gives every attached loop device of this host, by number.
func list() ([]Device, error) {
	// Only devices with something attached have the directory.
	attached, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return nil, err
	}
	var devices []Device
	for _, dir := range attached {
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(dir)), "loop"))
		if err != nil {
			continue
		}
		dev, gone, err := lookup(n)
		if gone {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot look at loop device %d: %w", n, err)
		}
		devices = append(devices, dev)
	}
	return devices, nil
}

// Find gives the loop devices whose backing file is the one at path, by device
// number and inode; those of a block device by its number, whatever its node is.
func Find(path string) ([]Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("cannot look for loop devices of %s: %w", path, err)
	}
	all, err := list()
	var found []Device
	for _, d := range all {
		same := d.BackingIno == st.Ino && d.BackingDev == st.Dev
		if same || st.Mode&unix.S_IFMT == unix.S_IFBLK && d.BackingRdev == st.Rdev {
			found = append(found, d)
		}
	}
	return found, err
}

// Marked gives the loop devices that were made with a mark.
func Marked(mark string) ([]Device, error) {
	all, err := list()
	return slices.DeleteFunc(all, func(d Device) bool { return d.Mark != mark }), err
}

// At gives the loop device of a block device's number, as stat has it, and says whether it
// is one that is attached.
func At(number uint64) (dev Device, attached bool, err error) {
	if unix.Major(number) != loopMajor {
		return Device{}, false, nil
	}
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(number), unix.Minor(number)))
	if err != nil {
		return Device{}, false, fmt.Errorf("cannot look at a loop device: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "loop"))
	if err != nil { // a partition of one
		return Device{}, false, nil
	}
	dev, gone, err := lookup(n)
	return dev, !gone && err == nil, err
}

// loopMajor is the loop driver's number (LOOP_MAJOR).
const loopMajor = 7
