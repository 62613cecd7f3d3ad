package inuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/blockdev"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// claimPause is between two looks whether a device is free.
const claimPause = 50 * time.Millisecond

// Claim takes a block device for this process alone, and for those that it hands the file
// to: until all have closed that, no mount, swap, device-mapper or md of this host can have
// the device, nor a partition of it. Who only looks at it, as udev does, is waited for until
// ctx ends; then the error wraps ErrUsed and says who uses it. again is for a device that a
// container uses already: those who have it open, and loop devices on it, do not count.
func Claim(ctx context.Context, path string, again bool) (*os.File, error) {
	for {
		f, err := claim(path, again)
		if !errors.Is(err, ErrUsed) || wait.For(ctx, claimPause) != nil {
			return f, err
		}
	}
}

func claim(path string, again bool) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("cannot take the device: %w", err)
	}
	v, failed := ofDisk(path)
	switch {
	case failed != nil:
	case err != nil:
		if failed = v.Check(nil); failed == nil {
			failed = failure.Of(ErrUsed, "%s is used by something that keeps it for itself alone", path)
		}
	case !again:
		failed = v.others()
	}
	if failed != nil && f != nil {
		f.Close()
	}
	if failed != nil {
		return nil, failed
	}
	return f, nil
}

// ofDisk is Of, with the partitions that the kernel has of it.
func ofDisk(path string) (Volume, error) {
	v, err := Of(path)
	if err != nil {
		return v, err
	}
	for _, part := range (blockdev.Host{}).Parts(v.devices[0].number) {
		p, err := Of(part.Path)
		if err != nil {
			return v, err
		}
		v.devices = append(v.devices, p.devices...)
	}
	return v, nil
}

// others fails, with ErrUsed, where the loop devices on a claimed device are used, or a
// process has it open without saying that it is to be the only one, as a virtual machine's
// does.
func (v Volume) others() error {
	loops := Volume{slices.DeleteFunc(slices.Clone(v.devices), func(d device) bool { return unix.Major(d.number) != loopMajor })}
	if err := loops.Check(nil); err != nil {
		return err
	}
	if uses := v.processes(Mounts{}); len(uses) > 0 {
		return failure.Of(ErrUsed, "%s", uses[0])
	}
	return nil
}

// loopMajor is the loop driver's number; what is claimed is of another.
const loopMajor = 7

// CheckFile fails, with ErrUsed, where a process of this host has a file open, or a loop
// device on a part of it that begins at offset and has length bytes is mounted, or otherwise
// used. What is open for a moment is waited for until ctx ends.
func CheckFile(ctx context.Context, path string, offset, length int64) error {
	for {
		err := checkFile(path, offset, length)
		if !errors.Is(err, ErrUsed) || wait.For(ctx, claimPause) != nil {
			return err
		}
	}
}

func checkFile(path string, offset, length int64) error {
	file, ok := look(path)
	if !ok {
		return fmt.Errorf("cannot look at %s", path)
	}
	devices, err := loops(path, func(d loop.Device) bool {
		end := d.Offset + d.SizeLimit
		return d.Offset < offset+length && (d.SizeLimit == 0 || end > offset)
	})
	if err != nil {
		return err
	}
	if err := (Volume{devices}).Check(nil); err != nil {
		return err
	}
	self := os.Getpid()
	for _, pid := range proc.All() {
		if pid != self && has(pid, file) {
			return failure.Of(ErrUsed, "%s has %q open", describe(pid), path)
		}
	}
	return nil
}

// has says whether a process has a file open.
func has(pid int, file unix.Statx_t) bool {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	fds, _ := os.ReadDir(dir)
	for _, fd := range fds {
		st, ok := look(dir + fd.Name())
		if ok && st.Ino == file.Ino && st.Dev_major == file.Dev_major && st.Dev_minor == file.Dev_minor {
			return true
		}
	}
	return false
}
