package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/blockdev"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/inuse"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/lvm"
)

// freeWait is how long a device that is to be taken may be open: udev looks at each that
// was just made or closed.
const freeWait = 3 * time.Second

// managed are volumes that are devices of this host, or parts of files.
type managed struct{ s *Store }

// device is what a managed volume is on this host now.
type device struct {
	volume.Managed
	node     blockdev.Device // zero: a file
	readOnly bool
}

// isFile says that it is a file, or a part of one.
func (d device) isFile() bool { return d.Inode != 0 }

// whole says that it is all of a device or file.
func (d device) whole() bool { return d.Offset == 0 && d.Limit == 0 }

// reserve sees that nobody uses the device, and that it has on it what it had when it was
// last used here.
func (b managed) reserve(ctx context.Context, v *volume.Volume) error {
	d, err := b.s.find(v)
	if err != nil {
		return err
	}
	letGo, err := d.take(ctx)
	if err != nil {
		return fmt.Errorf("volume %s: %w", v.ID, err)
	}
	defer letGo()
	if now := b.s.contentOf(d); v.Managed.Content != "" && now != v.Managed.Content {
		return failure.Of(volume.ErrConflict, "volume %s: on %s there is not the filesystem that was there when it was last used here (its UUID was %s, now it is %q): if that is meant, unmanage the volume and manage the device anew",
			v.ID, d.Path, v.Managed.Content, now)
	}
	b.note(v, d)
	return nil
}

// note takes over what may have changed of a device that stays.
func (managed) note(v *volume.Volume, d device) {
	m := *v.Managed // what a reader has is not changed
	m.Bytes, m.IDs, m.Seen = d.Bytes, d.IDs, d.Seen
	v.Managed, v.Size = &m, gib(d.Bytes)
}

func (b managed) connect(_ context.Context, v *volume.Volume) (map[string]any, error) {
	d, err := b.s.find(v)
	if err != nil {
		return nil, err
	}
	b.note(v, d)
	data := map[string]any{"device_path": d.Path, "format": formatRaw}
	switch {
	case !d.isFile():
		data["hold"] = true
	case !d.whole():
		data["offset"], data["limit"] = d.Offset, d.Limit
	}
	return data, nil
}

// release notes what is on the device now: whoever had the volume may have made another
// filesystem on it.
func (b managed) release(_ context.Context, v *volume.Volume) {
	if d, err := b.s.find(v); err == nil {
		m := *v.Managed
		m.Content = b.s.contentOf(d)
		v.Managed = &m
	}
}

// open keeps everybody else of this host from a block device while it is copied. The
// kernel's cache of it may be older than what was written through a filesystem.
func (b managed) open(ctx context.Context, v *volume.Volume) (*os.File, error) {
	d, err := b.s.find(v)
	if err != nil {
		return nil, err
	}
	if !d.isFile() {
		f, err := claim(ctx, d.Path)
		if err == nil {
			if err = unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
				f.Close()
			}
		}
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", v.ID, err)
		}
		return f, nil
	}
	if _, err := d.take(ctx); err != nil {
		return nil, fmt.Errorf("volume %s: %w", v.ID, err)
	}
	if d.whole() {
		return os.Open(d.Path)
	}
	_, f, err := loop.Attach(ctx, d.Path, loop.Options{Offset: d.Offset, SizeLimit: d.Limit, ReadOnly: true, Autoclear: true})
	return f, err
}

// thin is the thin pool that a managed device is in, and its logical volume there.
func (b managed) thin(ctx context.Context, v *volume.Volume) (lvm.Pool, lvm.LV, error) {
	d, err := b.s.find(v)
	if err != nil {
		return lvm.Pool{}, lvm.LV{}, err
	}
	for _, id := range d.IDs {
		if uuid, is := strings.CutPrefix(id, "dm-uuid-"); is {
			return lvm.Behind(ctx, uuid, b.s.o.Run)
		}
	}
	return lvm.Pool{}, lvm.LV{}, failure.Of(volume.ErrNotFound, "%s is no logical volume", d.Path)
}

// use looks that nobody of this host uses the device.
func (b managed) use(ctx context.Context, v *volume.Volume, do func(path string) error) error {
	d, err := b.s.find(v)
	if err != nil {
		return err
	}
	letGo, err := d.take(ctx)
	if err != nil {
		return fmt.Errorf("volume %s: %w", v.ID, err)
	}
	letGo() // or it could not be mounted
	if !d.isFile() || d.whole() {
		return do(d.Path)
	}
	dev, f, err := loop.Attach(ctx, d.Path, loop.Options{Offset: d.Offset, SizeLimit: d.Limit, ReadOnly: v.ReadOnly, Autoclear: true})
	if err != nil {
		return err
	}
	defer f.Close()
	return do(dev.Path)
}

// extend takes note of the size that a device has now.
func (b managed) extend(_ context.Context, v *volume.Volume, sizeGiB int) error {
	if sizeGiB != 0 {
		return failure.Of(volume.ErrManaged, "it is %s, which is made larger where it was made (as with lvextend); then 'lxcboot volume extend %s', without --size, takes note of that", v.Managed.Path, v.ID)
	}
	d, err := b.s.find(v)
	if err == nil {
		b.note(v, d)
	}
	return err
}

func (managed) mend(*volume.Volume) (string, error) { return "", nil }

// take sees that nobody of this host uses a device, and keeps it so until it is let go; of a
// file it only looks.
func (d device) take(ctx context.Context) (letGo func(), err error) {
	if d.isFile() {
		ctx, cancel := context.WithTimeout(ctx, freeWait)
		defer cancel()
		if err := inuse.CheckFile(ctx, d.Path, d.Offset, d.Bytes); err != nil {
			return nil, failure.Of(volume.ErrInUse, "%s is in use: %w", d.Path, err)
		}
		return func() {}, nil
	}
	f, err := claim(ctx, d.Path)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

func claim(ctx context.Context, path string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, freeWait)
	defer cancel()
	f, err := inuse.Claim(ctx, path, false)
	if errors.Is(err, inuse.ErrUsed) {
		return nil, failure.Of(volume.ErrInUse, "%s is in use: %w", path, err)
	}
	return f, err
}

// contentOf is the UUID of the filesystem that is on a device; empty: none is known.
func (s *Store) contentOf(d device) string {
	if s.o.Content == nil || !d.whole() {
		return ""
	}
	return s.o.Content(d.Path)
}

// identify gives what a path names as a device that can be managed.
func (s *Store) identify(path string) (device, error) {
	node, err := s.o.Devices.At(path)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return device{}, failure.Of(volume.ErrNotFound, "there is no device %s", path)
	case errors.Is(err, blockdev.ErrNotBlock):
		return device{}, failure.Invalid("%s is no block device: of a file 'lxcboot image import' makes an image, and 'losetup --find --show' a device to be managed", path)
	case err != nil:
		return device{}, err
	case node.Bytes == 0:
		return device{}, failure.Invalid("%s is empty: it has no bytes", path)
	}
	behind, attached, err := loop.At(node.Number)
	switch {
	case err != nil:
		return device{}, err
	case attached && behind.BackingRdev == 0:
		return s.identifyFile(path, node, behind)
	case attached && behind.Offset == 0 && behind.SizeLimit == 0:
		return s.identify(behind.BackingFile)
	case attached:
		return device{}, failure.Invalid("%s is a loop device on a part of %s: manage that, and say partition= where it is used", path, behind.BackingFile)
	}
	d := device{node: node, readOnly: node.ReadOnly, Managed: volume.Managed{Path: s.o.Devices.Stable(node, path), Bytes: node.Bytes, IDs: node.IDs}}
	if len(d.IDs) == 0 {
		d.Seen = node.Seen
	}
	d.Content = s.contentOf(d)
	return d, nil
}

// knowable refuses a device that could not be found again.
func (d device) knowable() error {
	if d.isFile() || len(d.IDs) > 0 || d.Content != "" {
		return nil
	}
	return failure.Invalid("nothing of %s stays by which it could be known again when this host restarts: neither a serial number, nor a UUID of LVM or of a partition, nor a filesystem. Give the disk a serial number, or make a filesystem on it", d.Path)
}

// identifyFile is identify for a loop device on a file.
func (s *Store) identifyFile(path string, node blockdev.Device, behind loop.Device) (device, error) {
	file := behind.BackingFile
	st, err := statFile(file)
	switch {
	case err != nil || st.Ino != behind.BackingIno || st.Dev != behind.BackingDev:
		return device{}, failure.Of(volume.ErrConflict, "%s is a loop device on %s, and there is no such file any more, or another: by that it would be known again", path, file)
	case strings.HasPrefix(file, s.dir+"/"):
		return device{}, failure.Of(volume.ErrConflict, "%s is a loop device on %s, which is lxcboot's own", path, file)
	}
	d := device{readOnly: node.ReadOnly || behind.ReadOnly, Managed: volume.Managed{Path: file, Bytes: node.Bytes, Inode: st.Ino, Offset: behind.Offset, Limit: behind.SizeLimit}}
	d.Content = s.contentOf(d)
	return d, nil
}

func statFile(path string) (*syscall.Stat_t, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, failure.Of(volume.ErrNotFound, "%s is no regular file", path)
	}
	return fi.Sys().(*syscall.Stat_t), nil
}

// find finds the device of a managed volume again.
func (s *Store) find(v *volume.Volume) (device, error) {
	m := *v.Managed
	if m.Inode != 0 {
		return s.findFile(v)
	}
	found := s.o.Devices.Find(m.IDs)
	if len(m.IDs) == 0 && m.Seen != "" {
		found = slices.DeleteFunc(s.o.Devices.All(), func(dev blockdev.Device) bool { return dev.Seen != m.Seen })
	}
	if len(m.IDs) == 0 && len(found) == 0 {
		found = slices.DeleteFunc(s.o.Devices.All(), func(dev blockdev.Device) bool {
			_, isLoop, _ := loop.At(dev.Number) // it stands for its file
			return isLoop || dev.Bytes < m.Bytes || len(dev.IDs) > 0 || s.contentOf(device{Managed: volume.Managed{Path: dev.Path}}) != m.Content
		})
	}
	called := m.Path
	if len(m.IDs) > 0 {
		called += " (" + m.IDs[0] + ")"
	}
	switch {
	case len(found) == 0:
		return device{}, failure.Of(volume.ErrNotFound, "volume %s is the device %s, and this host has no such device now: is its disk there, and is its volume group active?", v.ID, called)
	case len(found) > 1:
		return device{}, failure.Of(volume.ErrConflict, "volume %s is the device %s, and there are several that are called so: %s and %s", v.ID, called, found[0].Path, found[1].Path)
	case !blockdev.Same(m.IDs, found[0].IDs):
		return device{}, failure.Of(volume.ErrConflict, "volume %s is the device %s, and %s is another partition: the partition table was changed. If that is meant, unmanage the volume and manage the device anew", v.ID, called, found[0].Path)
	case found[0].Bytes < m.Bytes:
		return device{}, failure.Of(volume.ErrConflict, "volume %s: %s has %d bytes, and had %d: a filesystem on it may be cut off. If that is meant, unmanage the volume and manage the device anew", v.ID, found[0].Path, found[0].Bytes, m.Bytes)
	}
	dev := found[0]
	m.Path, m.Bytes, m.IDs = s.o.Devices.Stable(dev, m.Path), dev.Bytes, dev.IDs
	if m.Seen = ""; len(m.IDs) == 0 {
		m.Seen = dev.Seen
	}
	return device{m, dev, dev.ReadOnly}, nil
}

func (s *Store) findFile(v *volume.Volume) (device, error) {
	m := *v.Managed
	st, err := statFile(m.Path)
	switch {
	case err != nil:
		return device{}, failure.Of(volume.ErrNotFound, "volume %s is the file %s: %w", v.ID, m.Path, err)
	case st.Ino != m.Inode:
		return device{}, failure.Of(volume.ErrConflict, "volume %s is the file %s (inode %d), and there is another file by now (inode %d): if that is meant, unmanage the volume and manage it anew", v.ID, m.Path, m.Inode, st.Ino)
	case st.Size < m.Offset+m.Bytes:
		return device{}, failure.Of(volume.ErrConflict, "volume %s: the file %s has %d bytes, and should have %d: restore it from a backup", v.ID, m.Path, st.Size, m.Offset+m.Bytes)
	}
	if m.Limit == 0 {
		m.Bytes = (st.Size - m.Offset) &^ 511
	}
	return device{Managed: m}, nil
}
