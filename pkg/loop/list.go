package loop

import (
	"fmt"
	"path/filepath"
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
// number and inode.
func Find(path string) ([]Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("cannot look for loop devices of %s: %w", path, err)
	}
	all, err := list()
	var found []Device
	for _, d := range all {
		if d.BackingIno == st.Ino && d.BackingDev == st.Dev {
			found = append(found, d)
		}
	}
	return found, err
}
