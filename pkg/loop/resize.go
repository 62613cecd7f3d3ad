package loop

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Resize tells the loop devices of the file at path that begin at an offset that it has
// become larger: each ends at limit, in bytes from its beginning; 0: with the file. It
// gives their numbers as stat has them, and takes devices that are in use.
func Resize(path string, offset, limit int64) (devices []uint64, err error) {
	found, err := Find(path)
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		if d.Offset != offset {
			continue
		}
		if err := resize(d, limit); err != nil {
			return nil, fmt.Errorf("cannot make %s larger: %w", d.Path, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(d.Path, &st); err != nil {
			return nil, err
		}
		devices = append(devices, st.Rdev)
	}
	return devices, nil
}

func resize(d Device, limit int64) error {
	f, err := openNode(d.Number, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return err
	}
	if d.SizeLimit != 0 {
		info.Sizelimit = uint64(limit)
		if err := unix.IoctlLoopSetStatus64(int(f.Fd()), info); err != nil {
			return err
		}
	}
	return unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_CAPACITY, 0)
}
