// Package loop makes block devices of files with the kernel's loop driver, and
// frees them again. A device is known by the file behind it (device number and
// inode), never by its own number alone: numbers are used again.
package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/wait"
)

// Limits of what is waited for.
var (
	attachLimit = 10 * time.Second
	detachLimit = 10 * time.Second
)

// ErrBusy is wrapped when no free loop device could be had in time.
var ErrBusy = errors.New("no loop device is free")

// ErrInUse is wrapped when a device that is to be detached still has users.
var ErrInUse = errors.New("loop device is in use")

// Options say how a file becomes a loop device.
type Options struct {
	Offset     int64 // bytes; a multiple of the sector size
	SizeLimit  int64 // bytes; a multiple of the sector size; 0: to the end of the file
	ReadOnly   bool
	Autoclear  bool // the kernel frees the device with its last user
	SectorSize int  // bytes, 512 to 4096; 0: 512
	DirectIO   bool // past the page cache of the file, where its filesystem can: see Device
	// SameSectors, of a block device, makes the sectors as large as its own.
	SameSectors bool
	// Mark is kept with the device, so that who made it finds it again: up to 50 bytes.
	Mark string
}

// Device is a loop device and the file behind it, by identity.
type Device struct {
	Number      int    `json:"number"`
	Path        string `json:"path"`                   // /dev/loopN
	BackingFile string `json:"backing_file"`           // as the kernel names it; for people
	BackingDev  uint64 `json:"backing_dev"`            // st_dev of the backing file
	BackingIno  uint64 `json:"backing_ino"`            // st_ino of the backing file
	BackingRdev uint64 `json:"backing_rdev,omitempty"` // st_rdev of a block device behind it; 0: that is a file
	Mark        string `json:"mark,omitempty"`         // as in Options
	Offset      int64  `json:"offset"`                 // bytes
	SizeLimit   int64  `json:"size_limit"`             // bytes; 0: to the end
	ReadOnly    bool   `json:"readonly"`
	Autoclear   bool   `json:"autoclear"`
	DirectIO    bool   `json:"direct_io,omitempty"` // as the kernel does it, whatever was asked for
}

// same says whether two devices are one attachment of one file.
func (d Device) same(o Device) bool {
	return d.Number == o.Number && d.BackingDev == o.BackingDev && d.BackingIno == o.BackingIno && d.Offset == o.Offset
}

// Attach makes a loop device of the regular file or block device at path. The
// open device that it returns keeps an autoclear device alive until it is closed.
func Attach(ctx context.Context, path string, o Options) (Device, *os.File, error) {
	mode := os.O_RDWR
	if o.ReadOnly {
		mode = os.O_RDONLY
	}
	// Non-blocking, so that a FIFO is refused below and not waited for.
	backing, err := os.OpenFile(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return Device{}, nil, fmt.Errorf("cannot make a loop device: %w", err)
	}
	defer backing.Close()
	return AttachFile(ctx, backing, o)
}

// AttachFile is Attach for a file that is already open, for writing too unless the
// device is read-only. The file may be closed afterwards. Where other processes take the
// free devices first, it tries again until ctx ends, at most for ten seconds; then the
// error wraps ErrBusy.
func AttachFile(ctx context.Context, backing *os.File, o Options) (Device, *os.File, error) {
	if o.SectorSize == 0 {
		o.SectorSize = 512
	}
	if o.SameSectors {
		n, err := unix.IoctlGetInt(int(backing.Fd()), unix.BLKSSZGET)
		if err != nil {
			return Device{}, nil, fmt.Errorf("cannot read the sector size of %s: %w", backing.Name(), err)
		}
		o.SectorSize = n
	}
	if err := check(backing, o); err != nil {
		return Device{}, nil, err
	}
	if o.DirectIO {
		// What is still to be written of a copy would be forced out by the first reads, each
		// waiting for its part.
		if err := unix.Fdatasync(int(backing.Fd())); err != nil {
			return Device{}, nil, fmt.Errorf("cannot make a loop device of %s: %w", backing.Name(), err)
		}
	}
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return Device{}, nil, fmt.Errorf("cannot make a loop device (are you root, and is the loop driver there? try: modprobe loop): %w", err)
	}
	defer ctl.Close()
	ctx, cancel := context.WithTimeout(ctx, attachLimit)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		dev, f, err := attach(ctl, backing, o)
		if err == nil {
			return dev, f, nil
		}
		if !lostRace(err) {
			return Device{}, nil, fmt.Errorf("cannot make a loop device of %s: %w", backing.Name(), err)
		}
		if ended := wait.For(ctx, pause); ended != nil {
			return Device{}, nil, fmt.Errorf("%w for %s (%w): %w", ErrBusy, backing.Name(), ended, err)
		}
	}
}

// lostRace says whether another process was faster: it took the free device, or
// is just now freeing or making it.
func lostRace(err error) bool {
	for _, e := range []error{unix.EBUSY, unix.EAGAIN, unix.ENXIO, unix.ENODEV, fs.ErrNotExist} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// check refuses what the kernel would take and then cut short without a word.
func check(backing *os.File, o Options) error {
	name := backing.Name()
	info, err := backing.Stat()
	if err != nil {
		return fmt.Errorf("cannot make a loop device: %w", err)
	}
	block := info.Mode().Type() == os.ModeDevice
	if !info.Mode().IsRegular() && !block {
		return fmt.Errorf("cannot make a loop device of %s: it is neither a regular file nor a block device", name)
	}
	sector := int64(o.SectorSize)
	if sector < 512 || sector > 4096 || sector&(sector-1) != 0 {
		return fmt.Errorf("cannot make a loop device of %s: a sector size of %d bytes is not one of 512, 1024, 2048, 4096", name, sector)
	}
	if o.Offset < 0 || o.SizeLimit < 0 || o.Offset%sector != 0 || o.SizeLimit%sector != 0 {
		return fmt.Errorf("cannot make a loop device of %s: offset %d and size limit %d are not whole sectors of %d bytes", name, o.Offset, o.SizeLimit, sector)
	}
	size := info.Size()
	if block {
		if size, err = backing.Seek(0, io.SeekEnd); err != nil {
			return fmt.Errorf("cannot make a loop device of %s: %w", name, err)
		}
	}
	if len(markPrefix+o.Mark) > 63 {
		return fmt.Errorf("cannot make a loop device of %s: the mark %q is too long", name, o.Mark)
	}
	if o.Offset >= size || o.SizeLimit > size-o.Offset {
		return fmt.Errorf("cannot make a loop device of %s: it has %d bytes, and the range wanted begins at %d and has %d", name, size, o.Offset, o.SizeLimit)
	}
	return nil
}

// attach asks for a free device and takes it; another process may be faster.
func attach(ctl, backing *os.File, o Options) (Device, *os.File, error) {
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return Device{}, nil, fmt.Errorf("no free number: %w", err)
	}
	mode := os.O_RDWR
	if o.ReadOnly {
		mode = os.O_RDONLY
	}
	f, err := openNode(n, mode)
	if err != nil {
		return Device{}, nil, err
	}
	cfg := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: uint32(o.SectorSize)}
	cfg.Info.Offset, cfg.Info.Sizelimit = uint64(o.Offset), uint64(o.SizeLimit)
	if o.ReadOnly {
		cfg.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	// Autoclear is there from the first moment: a process that is killed right
	// after this call leaves no device.
	if o.Autoclear {
		cfg.Info.Flags |= unix.LO_FLAGS_AUTOCLEAR
	}
	// The kernel drops it where the file's filesystem cannot, or wants larger sectors.
	if o.DirectIO {
		cfg.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	}
	name := backing.Name()
	if o.Mark != "" {
		name = markPrefix + o.Mark
	}
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], name)
	if err := unix.IoctlLoopConfigure(int(f.Fd()), &cfg); err != nil {
		f.Close()
		return Device{}, nil, err
	}
	dev, err := identify(f, n)
	if err == nil {
		err = ours(dev, backing)
	}
	if err != nil {
		_ = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
		f.Close()
		return Device{}, nil, err
	}
	return dev, f, nil
}

// ours checks that the device is backed by the file that was asked for.
func ours(dev Device, backing *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(backing.Fd()), &st); err != nil {
		return err
	}
	if dev.BackingDev != st.Dev || dev.BackingIno != st.Ino {
		return fmt.Errorf("%s came to back another file (%s)", dev.Path, dev.BackingFile)
	}
	return nil
}

// markPrefix tells a mark from the name that others give to a loop device, which is a path.
const markPrefix = "lxcboot:"

func node(n int) string { return fmt.Sprintf("/dev/loop%d", n) }

// openNode opens a device's node, making it where neither devtmpfs nor udev does.
func openNode(n, mode int) (*os.File, error) {
	f, err := os.OpenFile(node(n), mode|unix.O_CLOEXEC, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	number, unknown := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/dev", n))
	if unknown != nil {
		return nil, err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(number), "%d:%d", &major, &minor); err != nil {
		return nil, fmt.Errorf("cannot read the number of loop device %d: %w", n, err)
	}
	if err := unix.Mknod(node(n), unix.S_IFBLK|0o660, int(unix.Mkdev(major, minor))); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("cannot make the node %s: %w", node(n), err)
	}
	return os.OpenFile(node(n), mode|unix.O_CLOEXEC, 0)
}

// identify reads what the kernel knows of an attached device; ENXIO says that
// there is nothing attached.
func identify(f *os.File, n int) (Device, error) {
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return Device{}, err
	}
	backing, _ := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", n))
	mark, marked := strings.CutPrefix(unix.ByteSliceToString(info.File_name[:]), markPrefix)
	if !marked {
		mark = ""
	}
	var rdev uint64
	if info.Rdevice != info.Device { // of a file it says once more where that is
		rdev = statDev(info.Rdevice)
	}
	return Device{
		Number: n, Path: node(n),
		BackingFile: strings.TrimSuffix(string(backing), "\n"),
		BackingDev:  statDev(info.Device), BackingIno: info.Inode, BackingRdev: rdev, Mark: mark,
		Offset: int64(info.Offset), SizeLimit: int64(info.Sizelimit),
		ReadOnly:  info.Flags&unix.LO_FLAGS_READ_ONLY != 0,
		Autoclear: info.Flags&unix.LO_FLAGS_AUTOCLEAR != 0,
		DirectIO:  info.Flags&unix.LO_FLAGS_DIRECT_IO != 0,
	}, nil
}

// statDev is a device number as stat gives it, from the kernel's own encoding,
// which the loop driver reports (new_encode_dev in include/linux/kdev_t.h).
func statDev(d uint64) uint64 {
	return unix.Mkdev(uint32(d>>8&0xfff), uint32(d&0xff|d>>12&0xfff00))
}

// Keep takes the autoclear off a device that Attach opened: from then on it stays
// until it is detached.
func Keep(f *os.File) error {
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return fmt.Errorf("cannot read the state of %s: %w", f.Name(), err)
	}
	info.Flags &^= unix.LO_FLAGS_AUTOCLEAR
	if err := unix.IoctlLoopSetStatus64(int(f.Fd()), info); err != nil {
		return fmt.Errorf("cannot keep %s: %w", f.Name(), err)
	}
	return nil
}
