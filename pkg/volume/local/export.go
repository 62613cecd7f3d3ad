package local

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/imagefile"
)

// SaveImage writes an image as it was imported into an empty file, or a stream. progress may
// be nil. What is written is not on disk yet.
func (s *Store) SaveImage(ctx context.Context, id string, to *os.File, progress func(done, total int64)) error {
	rec, err := s.images.get(ctx, id)
	if err != nil {
		return err
	}
	img := rec.Object
	if img.Status != volume.ImageActive {
		return failure.Of(volume.ErrConflict, "image %s is not active, it is %q", img.ID, img.Status)
	}
	src, err := s.openSource(ctx, source{kind: "image", id: img.ID, bytes: img.Size})
	if err != nil {
		return err
	}
	defer src.Close()
	if err := copyOut(ctx, to, src.File, img.Size, progress); err != nil {
		return fmt.Errorf("saving image %s: %w", img.ID, err)
	}
	return nil
}

// ExportVolume writes the content of a volume into an empty file, or a stream: of one that
// is available, that nobody writes to, or, where blocks can be shared between files, as it
// is at one moment. What is written is not on disk yet.
func (s *Store) ExportVolume(ctx context.Context, req volume.ExportVolume) error {
	if req.DiskFormat != formatRaw && req.DiskFormat != formatQcow2 {
		return failure.Invalid("disk format %q is none that a volume can be exported as: %s or %s", req.DiskFormat, formatRaw, formatQcow2)
	}
	v, from, src, err := s.openCopied(ctx, req.VolumeID, req.Copying, false)
	if err != nil {
		return err
	}
	defer src.Close()
	content := src.File
	if from.inUse { // what takes time is done with a copy of it
		if content, err = nameless(s.volumes.dir); err != nil {
			return s.full(err, "a copy of volume "+v.ID)
		}
		defer content.Close()
		if err := s.copyVolume(ctx, content, src.File, from, from.size, nil); err != nil {
			return s.full(fmt.Errorf("copying volume %s: %w", v.ID, err), "a copy of volume "+v.ID)
		}
	}
	if req.DiskFormat == formatQcow2 {
		err = s.exportQcow2(ctx, req, content, from.size)
	} else {
		err = copyOut(ctx, req.To, content, from.size, req.Progress)
	}
	if err != nil {
		return fmt.Errorf("exporting volume %s: %w", v.ID, err)
	}
	return nil
}

// exportQcow2 has qemu-img make a qcow2 file of a volume. It cannot write to a stream: for
// one the file is made in the state directory first.
func (s *Store) exportQcow2(ctx context.Context, req volume.ExportVolume, content *os.File, size int64) error {
	told := func(percent float64) {
		if req.Progress != nil {
			req.Progress(int64(percent/100*float64(size)), size)
		}
	}
	if empty(req.To) {
		return pack(ctx, content, req.To, size, told)
	}
	packed, err := nameless(s.dir)
	if err != nil {
		return s.full(err, "the qcow2 file")
	}
	defer packed.Close()
	if err := pack(ctx, content, packed, size, told); err != nil {
		return s.full(err, "the qcow2 file")
	}
	length, err := packed.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	return copyOut(ctx, req.To, packed, length, req.Progress)
}

// pack writes a raw disk into an empty file as qcow2.
func pack(ctx context.Context, raw, qcow2 *os.File, size int64, progress func(percent float64)) error {
	l := limits{wait: convertLimit(gib(size)), memory: 2 << 30, file: size + size/64 + 64<<20, progress: progress}
	args := []string{"convert", "-p", "-O", formatQcow2}
	driver := "file"
	if isBlock(raw) {
		driver = "host_device"
		args = append(args, "-T", "none") // what is cached of it may be old
	}
	_, err := qemuImg(ctx, l, append(args, qemuNode(formatRaw, driver, imagefile.Path(raw)), imagefile.Path(qcow2))...)
	return err
}

// convertLimit is how long a conversion may take.
func convertLimit(sizeGiB int) time.Duration {
	return 10*time.Minute + time.Duration(sizeGiB)*2*time.Minute
}

// nameless makes a file in a directory that goes when it is closed.
func nameless(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making a file in %s: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// empty says that a file is a regular one, that nothing is in it, and that it is written
// from its beginning.
func empty(f *os.File) bool {
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != 0 {
		return false
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	at, serr := f.Seek(0, io.SeekCurrent)
	return err == nil && serr == nil && at == 0 && flags&unix.O_APPEND == 0
}

// copyOut writes the first size bytes of src to an empty file, sparsely, or to a stream.
func copyOut(ctx context.Context, dst, src *os.File, size int64, progress func(done, total int64)) error {
	step := func(done int64) {
		if progress != nil {
			progress(done, size)
		}
	}
	if !empty(dst) {
		return stream(ctx, dst, src, size, step)
	}
	if err := fill(ctx, dst, src, size, size, step); err != nil {
		return err
	}
	_, err := dst.Seek(0, io.SeekEnd) // whoever has the file too goes on behind it
	return err
}

// stream writes the first size bytes of src one after the other.
func stream(ctx context.Context, dst io.Writer, src *os.File, size int64, progress func(done int64)) error {
	r, err := newReader(src)
	if err != nil {
		return err
	}
	defer r.Close()
	nothing := make([]byte, 1<<20)
	for pos := int64(0); pos < size; {
		data, hole, err := nextExtent(src, pos, size)
		if err != nil {
			return err
		}
		for pos < hole {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := nothing[:min(int64(len(nothing)), max(data-pos, 0))]
			if pos >= data {
				if b, err = r.at(pos, hole-pos); err != nil {
					return err
				}
			}
			if _, err := dst.Write(b); err != nil {
				return err
			}
			pos += int64(len(b))
			progress(pos)
		}
	}
	return nil
}
