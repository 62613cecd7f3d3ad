package local

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/lvm"
)

// Where the store has a thin pool, the content of what it makes is on logical volumes: each
// has the id of its volume, snapshot or image for a tag, from its first moment on, and that of
// the store. The object's directory is there before it, and goes before it: a logical volume
// whose object is not there is a left-over. The file data, whose lock says what is done with
// the content, is empty then.
//
// An image is written to a logical volume of its own when it is first used, and volumes of it
// are snapshots of that.

// The tags of logical volumes.
const (
	tagObject = "lxcboot-id-" // and the id
	tagStore  = "lxcboot-store-"
	tagMaking = "lxcboot-making" // the content of an image, which is not whole yet
)

// poolName is the file of an image that names the pool in which its logical volume is: a part
// of its record.
const poolName = metaName + ".pool"

// lvName is what the logical volume of an object is called.
func lvName(id string) string { return "lxcboot-" + id }

// pool is the thin pool with this name, GROUP/POOL.
func (s *Store) pool(name string) lvm.Pool { return lvm.Named(name, s.o.Run) }

// tags are those of an object's logical volume.
func (s *Store) tags(id string, more ...string) []string {
	return append([]string{tagObject + id, s.storeTag()}, more...)
}

// storeTag tells the logical volumes of this store from those of others in the same group.
func (s *Store) storeTag() string {
	return fmt.Sprintf("%s%x", tagStore, sha256.Sum256([]byte(s.o.Host.ID+"\x00"+s.dir)))[:len(tagStore)+16]
}

// lvs are volumes as logical volumes.
type lvs struct{ s *Store }

func (b lvs) find(ctx context.Context, v *volume.Volume) (lvm.Pool, lvm.LV, error) {
	p := b.s.pool(v.Pool)
	lv, err := p.Find(ctx, tagObject+v.ID)
	if errors.Is(err, volume.ErrNotFound) {
		err = fmt.Errorf("volume %s: %w: %w", v.ID, ErrDamaged, err)
	}
	if err == nil && lv.Size < v.Bytes() {
		err = fmt.Errorf("volume %s: %w: the logical volume %s has %d bytes and should have %d: restore it from a backup", v.ID, ErrDamaged, lv.Path, lv.Size, v.Bytes())
	}
	return p, lv, err
}

func (b lvs) reserve(ctx context.Context, v *volume.Volume) error {
	_, _, err := b.find(ctx, v)
	return err
}

func (b lvs) connect(ctx context.Context, v *volume.Volume) (map[string]any, error) {
	p, lv, err := b.find(ctx, v)
	if err == nil {
		err = p.Activate(ctx, lv)
	}
	return map[string]any{"device_path": lv.Path, "format": formatRaw, "hold": true}, err
}

// release takes the node away, so that nothing on the host looks at what is on it. That it
// may be busy for a moment does no harm.
func (b lvs) release(ctx context.Context, v *volume.Volume) {
	if p, lv, err := b.find(ctx, v); err == nil {
		_ = p.Deactivate(ctx, lv)
	}
}

func (b lvs) open(ctx context.Context, v *volume.Volume) (*os.File, error) {
	p, lv, err := b.find(ctx, v)
	if err != nil {
		return nil, err
	}
	return openLV(ctx, p, lv, os.O_RDONLY)
}

func (b lvs) use(ctx context.Context, v *volume.Volume, do func(path string) error) error {
	p, lv, err := b.find(ctx, v)
	if err != nil {
		return err
	}
	defer b.release(context.WithoutCancel(ctx), v)
	if err := p.Activate(ctx, lv); err != nil {
		return err
	}
	return do(lv.Path)
}

func (b lvs) extend(ctx context.Context, v *volume.Volume, sizeGiB int) error {
	p, lv, err := b.find(ctx, v)
	if err != nil {
		return err
	}
	if size := int64(sizeGiB) << 30; lv.Size < size { // else an extension was cut short
		if err := p.Extend(ctx, lv, size); err != nil {
			return err
		}
	}
	fault.Point("local/extend-volume/after-data")
	v.Size = sizeGiB
	return nil
}

// mend has nothing to do: what an extension that was cut short added is there for the next.
func (lvs) mend(*volume.Volume) (string, error) { return "", nil }

// openLV opens a logical volume, past the cache of its node, which knows nothing of what was
// written through a filesystem.
func openLV(ctx context.Context, p lvm.Pool, lv lvm.LV, flag int) (*os.File, error) {
	if err := p.Activate(ctx, lv); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(lv.Path, flag|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, failure.Of(volume.ErrInUse, "the logical volume %s is in use by another program of this host", lv.Path)
	}
	if err == nil {
		if err = unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
			f.Close()
		}
	}
	return f, err
}

// fillLV makes the content of a volume that is in a thin pool, and the logical volume.
func (s *Store) fillLV(ctx context.Context, v volume.Volume, src *opened, from source) error {
	p := s.pool(v.Pool)
	if err := s.usePool(p); err != nil {
		return err
	}
	size := int64(v.Size) << 30
	var origin lvm.LV
	var err error
	switch {
	case from.kind == "":
		lv, err := p.Create(ctx, lvName(v.ID), size, s.tags(v.ID)...)
		if err == nil {
			_ = p.Deactivate(ctx, lv)
		}
		return err
	case from.kind == "image":
		origin, err = s.imageLV(ctx, p, src, from)
	case from.clone:
		origin, err = p.Find(ctx, tagObject+from.id)
	default:
		lv, err := p.Create(ctx, lvName(v.ID), size, s.tags(v.ID)...)
		if err != nil {
			return err
		}
		return s.copyToLV(ctx, p, lv, src.File, from.size)
	}
	if err != nil {
		return err
	}
	lv, err := p.Snapshot(ctx, origin, lvName(v.ID), s.tags(v.ID)...)
	if err == nil && lv.Size < size {
		err = p.Extend(ctx, lv, size)
	}
	return err
}

// snapshotLV makes the logical volume of a snapshot. What is mounted from the volume's is
// complete in it: the kernel holds it still for the moment.
func (s *Store) snapshotLV(ctx context.Context, v volume.Volume, id string) error {
	find := lvs{s}.find
	if v.Managed != nil {
		find = managed{s}.thin
	}
	p, origin, err := find(ctx, &v)
	if err != nil {
		return err
	}
	if err := s.usePool(p); err != nil {
		return err
	}
	lv, err := p.Snapshot(ctx, origin, lvName(id), s.tags(id)...)
	if size := int64(v.Size) << 30; err == nil && lv.Size < size { // a managed one has what bytes it likes
		err = p.Extend(ctx, lv, size)
	}
	return err
}

// poolsDir is where the store keeps which pools it ever made something in: repair looks there.
const poolsDir = "pools"

// usePool puts a pool on record in which something is to be made.
func (s *Store) usePool(p lvm.Pool) error {
	dir := filepath.Join(s.dir, poolsDir)
	path := filepath.Join(dir, p.Group+","+p.Name)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	if err := MakeDir(dir); err != nil {
		return err
	}
	return durable.WriteFile(path, nil, 0o600)
}

// pools are those that this store has made something in.
func (s *Store) pools() (names []string, err error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, poolsDir))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, e := range entries {
		if group, pool, is := strings.Cut(e.Name(), ","); is {
			names = append(names, group+"/"+pool)
		}
	}
	return names, err
}

// imageLV is the logical volume with an image's disk, which is made where it is not there.
// One makes it at a time, and others wait for that.
func (s *Store) imageLV(ctx context.Context, p lvm.Pool, src *opened, image source) (lvm.LV, error) {
	whole := func() (lvm.LV, error) {
		lv, err := p.Find(ctx, tagObject+image.id)
		if err == nil && slices.Contains(lv.Tags, tagMaking) {
			return lv, volume.ErrNotFound
		}
		return lv, err
	}
	lv, err := whole()
	if !errors.Is(err, volume.ErrNotFound) {
		return lv, err
	}
	fresh := filepath.Join(s.images.path(image.id), rawNewName)
	held, err := lockFile(ctx, fresh, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, unix.LOCK_EX, s.o.Wait)
	if err != nil {
		return lvm.LV{}, s.images.waited("the raw form of image "+image.id, fresh, err)
	}
	defer held.Close()
	defer os.Remove(fresh) // while it is locked: it is nobody else's
	if lv, err = whole(); !errors.Is(err, volume.ErrNotFound) {
		return lv, err
	}
	if err := durable.WriteFile(filepath.Join(s.images.path(image.id), poolName), []byte(p.String()), 0o600); err != nil {
		return lvm.LV{}, err
	}
	if lv.UUID != "" { // of one that was killed
		if err := p.Remove(ctx, lv); err != nil {
			return lvm.LV{}, err
		}
	}
	lv, err = p.Create(ctx, lvName(image.id), image.size, s.tags(image.id, tagMaking)...)
	if err != nil {
		return lv, err
	}
	if image.format == formatRaw {
		err = s.copyToLV(ctx, p, lv, src.File, image.size)
	} else {
		err = s.toLV(ctx, p, lv, func(dst *os.File) error {
			return s.convert(ctx, image, lv.Path, gib(image.size))
		})
	}
	if err == nil {
		fault.Point("local/convert-image/before-tag")
		err = p.Tag(ctx, lv, "", tagMaking)
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
		defer cancel()
		return lvm.LV{}, errors.Join(err, p.Remove(undo, lv))
	}
	fault.Point("local/convert-image/after-tag")
	return lv, nil
}

// copyToLV writes content to a new logical volume: what is a hole there stays one.
func (s *Store) copyToLV(ctx context.Context, p lvm.Pool, lv lvm.LV, src *os.File, size int64) error {
	step, finish := s.progress("copying to "+lv.Path, size)
	defer finish()
	return s.toLV(ctx, p, lv, func(dst *os.File) error {
		return copyInto(ctx, dst, src, size, step)
	})
}

// toLV lets a new logical volume be written, brings that to the disk, and takes its node away.
func (s *Store) toLV(ctx context.Context, p lvm.Pool, lv lvm.LV, write func(dst *os.File) error) error {
	dst, err := os.OpenFile(lv.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = write(dst)
	if err == nil {
		err = dst.Sync()
	}
	dst.Close()
	if err != nil {
		return err
	}
	_ = p.Deactivate(ctx, lv) // whoever looks at what is new may have it open for a moment
	return nil
}

// removeLV removes the logical volume of an object, if there is one.
func (s *Store) removeLV(ctx context.Context, pool, id string) error {
	p := s.pool(pool)
	lv, err := p.Find(ctx, tagObject+id)
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = p.Remove(ctx, lv)
	}
	return err
}

// removeImageLV removes the logical volume of an image, and says whether it had one.
func (s *Store) removeImageLV(ctx context.Context, id string) (bool, error) {
	pool, err := s.imagePool(id)
	if pool == "" || err != nil {
		return false, err
	}
	if err := s.removeLV(ctx, pool, id); err != nil {
		return false, err
	}
	return true, os.Remove(filepath.Join(s.images.path(id), poolName))
}

// imagePool is the pool in which an image has a logical volume, or had one; empty: none.
func (s *Store) imagePool(id string) (string, error) {
	b, err := os.ReadFile(filepath.Join(s.images.path(id), poolName))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return string(b), err
}

// openMoment opens a volume's content as it is at one moment, on a logical volume that goes
// when it is closed; that of a process that was killed is removed by repair. No object tells
// that it is needed: a lock of the pools does, as long as it is there.
func (s *Store) openMoment(ctx context.Context, v volume.Volume, o *opened) error {
	if err := s.usePool(s.pool(v.Pool)); err != nil {
		return err
	}
	dir := filepath.Join(s.dir, poolsDir)
	held, err := lockFile(ctx, dir, os.O_RDONLY, unix.LOCK_SH, s.o.Wait)
	if err != nil {
		return s.volumes.waited(dir, dir, err)
	}
	id := uuid.NewString()
	o.release = func() {
		_ = s.removeLV(context.WithoutCancel(ctx), v.Pool, id)
		held.Close()
	}
	if err := s.snapshotLV(ctx, v, id); err != nil {
		return err
	}
	f, err := lvs{s}.open(ctx, &volume.Volume{ID: id, Pool: v.Pool})
	if err == nil {
		o.File = f
	}
	return err
}

// repairLVs removes the logical volumes of this store whose object is not there, and images'
// whose making was cut short.
func (s *Store) repairLVs(ctx context.Context) (done []string, err error) {
	names, err := s.pools()
	if len(names) == 0 {
		return nil, err
	}
	held, err := lockFile(ctx, filepath.Join(s.dir, poolsDir), os.O_RDONLY, unix.LOCK_EX, 0)
	if errors.Is(err, lock.ErrHeld) {
		return nil, nil // somebody reads one that belongs to no object
	}
	if err != nil {
		return nil, err
	}
	defer held.Close()
	var errs []error
	for _, name := range names {
		did, err := s.repairPool(ctx, s.pool(name))
		if err != nil {
			err = fmt.Errorf("looking for left-overs in the thin pool %s: %w; if it is gone for good, remove %s", name, err, filepath.Join(s.dir, poolsDir, strings.Replace(name, "/", ",", 1)))
		}
		done, errs = append(done, did...), append(errs, err)
	}
	return done, errors.Join(errs...)
}

func (s *Store) repairPool(ctx context.Context, p lvm.Pool) (done []string, err error) {
	all, err := p.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, lv := range all {
		id := ""
		for _, t := range lv.Tags {
			if after, is := strings.CutPrefix(t, tagObject); is {
				id = after
			}
		}
		if id == "" || !slices.Contains(lv.Tags, s.storeTag()) {
			continue
		}
		left, err := s.leftOver(ctx, lv, id)
		if err == nil && left {
			if err = p.Remove(ctx, lv); err == nil {
				done = append(done, fmt.Sprintf("the logical volume %s belonged to nothing any more: removed it", lv.Path))
			}
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// leftOver says whether the object of a logical volume is gone, or that of an image was never
// finished and nobody is at it.
func (s *Store) leftOver(ctx context.Context, lv lvm.LV, id string) (bool, error) {
	for _, dir := range []string{s.volumes.path(id), s.snapshots.path(id)} {
		if _, err := os.Lstat(dir); err == nil {
			return false, nil
		}
	}
	if _, err := os.Lstat(s.images.path(id)); err != nil || !slices.Contains(lv.Tags, tagMaking) {
		return err != nil, nil
	}
	f, err := lockFile(ctx, filepath.Join(s.images.path(id), rawNewName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, unix.LOCK_EX, 0)
	if errors.Is(err, lock.ErrHeld) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	return true, os.Remove(f.Name())
}
