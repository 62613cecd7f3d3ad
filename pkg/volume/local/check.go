package local

import (
	"context"
	"fmt"
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// source is what a volume is made of; the zero source is nothing.
type source struct {
	kind   string // image, snapshot, volume
	id     string
	format string // of its data
	size   int64  // bytes of the disk that its data describes
	bytes  int64  // of its data
	inUse  bool   // it may be written to while it is read
	how    volume.Copying
	room   int64  // bytes that a copy is certain to need; 0 when blocks are shared
	pool   string // that its data is in; empty: none
	clone  bool   // its pool copies it, and it is not read
}

// rawSource is a volume or snapshot of a size in bytes.
func rawSource(kind, id string, size int64) source {
	return source{kind: kind, id: id, format: formatRaw, size: size, bytes: size}
}

// CheckCreate refuses what CreateVolume would refuse, in the order given, and
// changes nothing. The size must hold the image (its virtual size and min_disk),
// the snapshot or the source volume, as in Cinder; the sources must be active or
// available. Content that certainly does not fit into the state directory's
// filesystem is refused with an error that wraps syscall.ENOSPC.
func (s *Store) CheckCreate(ctx context.Context, reqs []volume.CreateVolume) error {
	room := int64(0)
	for _, req := range reqs {
		_, src, err := s.plan(ctx, req)
		if err != nil {
			return err
		}
		room += src.room
	}
	if s.o.Pool != "" {
		return s.pool(s.o.Pool).Room(ctx)
	}
	if room == 0 {
		return nil
	}
	free, err := s.free()
	if err != nil {
		return err
	}
	// Raw forms of images give way.
	if room > free && room > free+s.cached(ctx) {
		return fmt.Errorf("the volumes need %s and %s has %s free: make room, or choose another with --state-dir: %w",
			human(room), s.dir, human(free), unix.ENOSPC)
	}
	return nil
}

// plan makes the volume that a request asks for, as it will be when it is done,
// and says what it is made of.
func (s *Store) plan(ctx context.Context, req volume.CreateVolume) (volume.Volume, source, error) {
	v := volume.Volume{
		Name: req.Name, Description: req.Description, Size: req.Size, Status: volume.StatusCreating,
		Multiattach: req.Multiattach, ReadOnly: req.ReadOnly, Metadata: maps.Clone(req.Metadata),
		ImageID: req.ImageID, SnapshotID: req.SnapshotID, SourceID: req.SourceID,
		Attachments: []volume.Attachment{}, CreatedAt: time.Now().UTC(), Pool: s.o.Pool,
	}
	var src source
	fail := func(err error) (volume.Volume, source, error) { return volume.Volume{}, source{}, err }
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if err := checkRequest(req); err != nil {
		return fail(err)
	}
	var err error
	switch {
	case req.ImageID != "":
		src, err = s.planImage(ctx, req, &v)
	case req.SnapshotID != "":
		src, err = s.planSnapshot(ctx, req, &v)
	case req.SourceID != "":
		src, err = s.planSource(ctx, req, &v)
	case req.Size == 0:
		err = failure.Invalid("%s has neither a size nor anything to be made of: give a size in GiB", called(req))
	}
	if err != nil {
		return fail(err)
	}
	return v, src, nil
}

// called names a volume that has no id yet.
func called(req volume.CreateVolume) string {
	if req.Name == "" {
		return "a new volume"
	}
	return fmt.Sprintf("volume %q", req.Name)
}

// checkRequest checks what can be told from the request alone.
func checkRequest(req volume.CreateVolume) error {
	if err := checkName("volume name", req.Name); err != nil {
		return err
	}
	if err := checkName("volume description", req.Description); err != nil {
		return err
	}
	if err := checkMap("volume metadata", req.Metadata); err != nil {
		return err
	}
	sources := 0
	for _, id := range []string{req.ImageID, req.SnapshotID, req.SourceID} {
		if id != "" {
			sources++
		}
	}
	switch {
	case sources > 1:
		return failure.Invalid("%s can be made of one image, snapshot or volume, and %d were given", called(req), sources)
	case req.Size < 0 || req.Size > MaxSize:
		return failure.Invalid("%s: a size of %d GiB is not between 1 and %d", called(req), req.Size, MaxSize)
	case req.Type != "":
		return failure.Invalid("%s: volume type %q: the local store has no volume types, leave it out", called(req), req.Type)
	}
	return nil
}

func (s *Store) planImage(ctx context.Context, req volume.CreateVolume, v *volume.Volume) (source, error) {
	rec, err := s.images.get(ctx, req.ImageID)
	if err != nil {
		return source{}, err
	}
	img := rec.Object
	need := max(gib(img.VirtualSize), 1)
	switch {
	case img.Status != volume.ImageActive:
		return source{}, failure.Of(volume.ErrConflict, "image %s is not active, it is %q", img.ID, img.Status)
	case req.Size == 0:
		return source{}, failure.Invalid("%s from image %s needs a size of at least %d GiB", called(req), img.ID, max(need, img.MinDisk))
	case req.Size < need:
		return source{}, failure.Invalid("size of image %s, %d GiB, is larger than the %d GiB of %s", img.ID, need, req.Size, called(req))
	case req.Size < img.MinDisk:
		return source{}, failure.Invalid("the %d GiB of %s can not be smaller than the min_disk of image %s, %d GiB", req.Size, called(req), img.ID, img.MinDisk)
	}
	v.Status, v.Bootable, v.MinDisk, v.MinRAM = volume.StatusDownloading, true, img.MinDisk, img.MinRAM
	v.ImageProps = img.Properties
	src := source{kind: "image", id: img.ID, format: img.DiskFormat, size: img.VirtualSize, bytes: img.Size}
	if img.DiskFormat == formatRaw {
		src.room = s.copyRoom(s.images.path(img.ID))
	}
	return src, nil
}

func (s *Store) planSnapshot(ctx context.Context, req volume.CreateVolume, v *volume.Volume) (source, error) {
	rec, err := s.snapshots.get(ctx, req.SnapshotID)
	if err != nil {
		return source{}, err
	}
	snap := rec.Object
	switch {
	case snap.Status != volume.StatusAvailable:
		return source{}, failure.Of(volume.ErrConflict, "snapshot %s is not available, it is %q", snap.ID, snap.Status)
	case req.Size != 0 && req.Size < snap.Size:
		return source{}, failure.Invalid("the %d GiB of %s can not be smaller than snapshot %s, %d GiB", req.Size, called(req), snap.ID, snap.Size)
	}
	v.Size = max(req.Size, snap.Size)
	if o := rec.Origin; o != nil {
		v.Bootable, v.MinDisk, v.MinRAM = o.Bootable, o.MinDisk, o.MinRAM
		v.ImageProps = o.ImageProps
	}
	src := rawSource("snapshot", snap.ID, int64(snap.Size)<<30)
	src.room, src.pool, src.clone = s.copyRoom(s.snapshots.path(snap.ID)), snap.Pool, snap.Pool != "" && snap.Pool == v.Pool
	return src, nil
}

func (s *Store) planSource(ctx context.Context, req volume.CreateVolume, v *volume.Volume) (source, error) {
	rec, err := s.volumes.get(ctx, req.SourceID)
	if err != nil {
		return source{}, err
	}
	from := rec.Object
	inUse, err := s.copyable(from, req.Copying)
	switch {
	case err != nil:
		return source{}, err
	case inUse && from.Pool != s.o.Pool:
		return source{}, fmt.Errorf("%w; it can be copied at one moment within %s alone", volume.InUse(from), from.Pool)
	case req.Size != 0 && req.Size < from.Size:
		return source{}, failure.Invalid("the %d GiB of %s can not be smaller than source volume %s, %d GiB", req.Size, called(req), from.ID, from.Size)
	}
	v.Size = max(req.Size, from.Size)
	v.Bootable, v.MinDisk, v.MinRAM = from.Bootable, from.MinDisk, from.MinRAM
	v.ImageProps = from.ImageProps
	src := rawSource("volume", from.ID, from.Bytes())
	src.how = req.Copying
	src.inUse, src.room = inUse, s.copyRoom(s.volumes.path(from.ID))
	src.pool, src.clone = from.Pool, from.Pool != "" && from.Pool == v.Pool
	return src, nil
}

// copyable says whether a volume may be copied. One in use is written to while it
// is copied, so only where blocks can be shared, at one moment, is its copy whole;
// unless it is known that nobody does.
func (s *Store) copyable(v volume.Volume, how volume.Copying) (inUse bool, err error) {
	switch {
	case v.Status == volume.StatusAvailable:
		return false, nil
	case len(v.Attachments) == 0:
		return false, failure.Of(volume.ErrConflict, "volume %s is not available, it is %q", v.ID, v.Status)
	case how.Still:
		return false, nil
	case v.Pool != "":
		return true, nil
	case v.Managed != nil:
		return false, fmt.Errorf("%w; it is %s, which can only be copied while nothing writes to it: stop the instance, or detach the volume; or copy a snapshot that its own storage makes of it (lvcreate --snapshot, zfs snapshot)", volume.InUse(v), v.Managed.Path)
	case !s.mayShare():
		return false, writtenTo(v)
	}
	return true, nil
}

// writtenTo is the refusal of a volume that changes while it would be copied.
func writtenTo(v volume.Volume) error {
	return fmt.Errorf("%w; %w, so it can only be copied while nothing writes to it: stop the instance, or detach the volume", volume.InUse(v), errNoReflink)
}

// mayShare says whether the store's filesystem is one of those that can share
// blocks between files.
func (s *Store) mayShare() bool {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return false
	}
	return st.Type == unix.BTRFS_SUPER_MAGIC || st.Type == unix.XFS_SUPER_MAGIC
}

// copyRoom says what a copy of an object's data is certain to need.
func (s *Store) copyRoom(dir string) int64 {
	var st unix.Stat_t
	if s.mayShare() || unix.Stat(dir+string(os.PathSeparator)+dataName, &st) != nil {
		return 0
	}
	return min(st.Blocks*512, st.Size)
}
