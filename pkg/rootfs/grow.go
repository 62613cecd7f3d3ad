package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/loop"
)

// ErrGrow is wrapped when a filesystem could not be made larger; it is as it was.
var ErrGrow = errors.New("the filesystem stays as large as it is")

// extGrain is the least that an ext2, ext3 or ext4 grows by: resize2fs leaves a last group
// out that has hardly room for more than its own tables, and is not asked again at each boot.
const extGrain = 8 * grain

// Growable says whether there is something to gain by Grow or GrowMounted. A partition's
// own size is not the device's: only Grow looks at that.
func (fsys Filesystem) Growable() bool {
	return !fsys.ReadOnly && (fsys.Partition != 0 || fsys.Size-fsys.Taken >= grain)
}

// Grow makes the partition of a filesystem that is not mounted, and an ext2, ext3 or ext4
// itself, as large as the device; GrowMounted does the same for xfs and btrfs once they are
// mounted. It gives the filesystem as it is then. Before the filesystem itself is touched,
// when it has passed its check, begin is called: should this process be killed after that,
// MendGrown has to come before anything else uses the filesystem. Errors wrap ErrGrow.
func Grow(ctx context.Context, device string, fsys Filesystem, begin func() error) (Filesystem, error) {
	fail := func(err error) (Filesystem, error) { return fsys, fmt.Errorf("%w: %s: %w", ErrGrow, device, err) }
	if fsys.Partition != 0 {
		if err := growPartition(device, fsys.Partition); err != nil {
			return fail(fmt.Errorf("its partition: %w", err))
		}
		now, err := again(device, fsys)
		if err != nil {
			return fail(err)
		}
		fsys = now
	}
	if !isExt(fsys.Type) || fsys.Size-fsys.Taken < extGrain {
		return fsys, nil
	}
	err := onDevice(ctx, device, fsys, func(source string) error {
		if err := fsck(ctx, source, "-p"); err != nil {
			return err
		}
		if err := begin(); err != nil {
			return err
		}
		fault.Point("rootfs/grow/begun")
		if out, code, err := tool(ctx, "resize2fs", source); err != nil {
			return errors.Join(toolError(ctx, "resize2fs", code, err, out), fsck(context.WithoutCancel(ctx), source, "-y"))
		}
		fault.Point("rootfs/grow/resized")
		return nil
	})
	if err != nil {
		return fail(err)
	}
	if fsys, err = again(device, fsys); err != nil {
		return fail(err)
	}
	return fsys, nil
}

// again is a filesystem as it is now.
func again(device string, fsys Filesystem) (Filesystem, error) {
	now, err := probePartition(device, fsys.Partition)
	now.Subvolume, now.Mounts = fsys.Subvolume, fsys.Mounts
	return now, err
}

// MendGrown makes a filesystem whole of which a Grow was killed after its begin. All that
// was in it is there: a resize2fs that is killed leaves what only e2fsck's -y mends.
func MendGrown(ctx context.Context, device string, fsys Filesystem) error {
	err := onDevice(ctx, device, fsys, func(source string) error { return fsck(ctx, source, "-y") })
	if err != nil {
		return fmt.Errorf("growing the filesystem on %s was cut short, and it cannot be mended: %w", device, err)
	}
	fault.Point("rootfs/grow/mended")
	return nil
}

// fsck runs e2fsck, which may change the filesystem: -p what is safe to mend, -y all.
func fsck(ctx context.Context, source, how string) error {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	out, code, err := tool(ctx, "e2fsck", "-f", how, source)
	if code == 0 || code == 1 { // 1: it mended something
		return nil
	}
	return toolError(ctx, "e2fsck -f "+how, code, err, out)
}

func isExt(kind string) bool { return kind == "ext2" || kind == "ext3" || kind == "ext4" }

// onDevice gives a function the block device that a filesystem which is not mounted is on,
// to be written to.
func onDevice(ctx context.Context, device string, fsys Filesystem, do func(source string) error) error {
	backing, readOnly, err := openDevice(device, false)
	if err != nil {
		return err
	}
	defer backing.Close()
	if readOnly {
		return unix.EROFS
	}
	source, held, err := blockDevice(ctx, backing, fsys, loop.Options{})
	if err != nil {
		return err
	}
	if held != nil {
		defer held.Close()
	}
	if err := do(source); err != nil {
		return err
	}
	return backing.Sync()
}

func toolError(ctx context.Context, name string, code int, err error, out string) error {
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%w; install e2fsprogs", err)
	case ctx.Err() != nil:
		return fmt.Errorf("%s did not end: %w", name, context.Cause(ctx))
	}
	return fmt.Errorf("%s (exit code %d): %w%s", name, code, err, out)
}

// The kernel's calls by which mounted filesystems grow (uapi: fs/ext4/ext4.h, xfs_fs.h,
// btrfs.h).
const (
	ext4Resize     = 0x40086610 // _IOW('f', 16, __u64)
	xfsGeometryV1  = 0x80705864 // _IOR('X', 100, struct xfs_fsop_geom_v1)
	xfsGrowData    = 0x4010586e // _IOW('X', 110, struct xfs_growfs_data)
	btrfsResize    = 0x50009403 // _IOW(0x94, 3, struct btrfs_ioctl_vol_args)
	xfsGeometryLen = 112
	btrfsArgsLen   = 4096
)

// GrowMounted makes a mounted xfs or btrfs, of which dir is a directory, as large as its
// device. Errors wrap ErrGrow; nothing to gain is none.
func GrowMounted(dir *os.File, fsys Filesystem) error {
	if isExt(fsys.Type) {
		return nil // Grow has done it
	}
	return growMounted(dir, fsys)
}

// growMounted is GrowMounted for ext4 too, for which the kernel wants CAP_SYS_RESOURCE.
func growMounted(dir *os.File, fsys Filesystem) error {
	var err error
	switch {
	case fsys.ReadOnly || fsys.Type != "btrfs" && fsys.Size-fsys.Taken < grain:
	case isExt(fsys.Type):
		var st unix.Statfs_t
		if err = unix.Fstatfs(int(dir.Fd()), &st); err == nil {
			blocks := uint64(fsys.Size / st.Bsize)
			err = ioctl(dir, ext4Resize, unsafe.Pointer(&blocks))
		}
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("a mounted one takes CAP_SYS_RESOURCE: %w", err)
		}
	case fsys.Type == "xfs":
		var geometry [xfsGeometryLen]byte
		if err = ioctl(dir, xfsGeometryV1, unsafe.Pointer(&geometry)); err == nil {
			// The share of the space that inodes may take, field imaxpct, stays.
			grow := struct {
				blocks uint64
				inodes uint32
				_      uint32
			}{uint64(fsys.Size) / uint64(le.Uint32(geometry[:])), le.Uint32(geometry[28:]), 0}
			err = ioctl(dir, xfsGrowData, unsafe.Pointer(&grow))
		}
	case fsys.Type == "btrfs":
		var args [btrfsArgsLen]byte
		copy(args[8:], "max")
		err = ioctl(dir, btrfsResize, unsafe.Pointer(&args))
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrGrow, fsys.Type, err)
	}
	return nil
}

// GrowRunning is Grow and GrowMounted for a filesystem that is mounted already, with dir on
// it: partition, loop device and filesystem.
func GrowRunning(device string, fsys Filesystem, dir *os.File) error {
	fail := func(err error) error { return fmt.Errorf("%w: %s: %w", ErrGrow, device, err) }
	if fsys.Partition != 0 {
		if err := growPartition(device, fsys.Partition); err != nil {
			return fail(fmt.Errorf("its partition: %w", err))
		}
	}
	now, err := again(device, fsys)
	if err != nil {
		return fail(err)
	}
	limit := int64(0)
	if now.Partition != 0 {
		limit = now.Size
	}
	devices, err := loop.Resize(device, now.Offset, limit)
	if err != nil {
		return fail(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && now.Partition == 0 {
		devices = append(devices, st.Rdev) // which is mounted itself
	}
	// A container may have put something else in its place. All that is called for a btrfs
	// is to fill its own device.
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return fail(err)
	}
	if now.Type != "btrfs" && !slices.Contains(devices, st.Dev) {
		return fail(errors.New("it is not mounted any more where it was"))
	}
	return growMounted(dir, now)
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
