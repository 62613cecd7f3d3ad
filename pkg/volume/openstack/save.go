package openstack

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// SaveImage downloads an image into an empty file, or a stream, and holds it against its
// checksum. A download that breaks off begins again, behind what was written already.
// progress may be nil. What is written is not on disk yet.
func (s *Store) SaveImage(ctx context.Context, id string, to *os.File, progress func(done, total int64)) error {
	img, err := s.image(ctx, id)
	if err != nil {
		return err
	}
	if img.Status != volume.ImageActive {
		return failure.Of(volume.ErrConflict, "image %s is not active, it is %q", id, img.Status)
	}
	sum, want := hashOf(img.Checksum)
	w := &written{w: to, hash: sum, tell: func(done int64) {
		if progress != nil {
			progress(done, img.Size)
		}
	}}
	err = call(ctx, s, "glance", "downloading image "+id, func(error) error {
		body, err := imagedata.Download(ctx, s.glance, id).Extract()
		if err != nil {
			return err
		}
		defer body.Close()
		if _, err := io.CopyN(io.Discard, body, w.done); err != nil { // from the last attempt
			return err
		}
		if _, err := io.Copy(w, body); err != nil {
			return err
		}
		if img.Size > 0 && w.done < img.Size {
			return io.ErrUnexpectedEOF
		}
		return nil
	})
	switch {
	case w.err != nil:
		return fmt.Errorf("saving image %s: %w", id, w.err)
	case err != nil:
		return err
	case sum != nil && fmt.Sprintf("%x", sum.Sum(nil)) != want:
		return fmt.Errorf("image %s is not what Glance has: what was downloaded has the checksum %x, and should have %s; try again", id, sum.Sum(nil), img.Checksum)
	}
	return nil
}

// hashOf makes the hash of a checksum, "sha512:HEX"; nil: it is none that is known.
func hashOf(checksum string) (hash.Hash, string) {
	algorithm, want, _ := strings.Cut(checksum, ":")
	switch algorithm {
	case "sha512":
		return sha512.New(), want
	case "sha384":
		return sha512.New384(), want
	case "sha256":
		return sha256.New(), want
	case "md5":
		return md5.New(), want
	}
	return nil, ""
}

// written is what was written of a download. An error in writing is no failure of the
// service's, and not tried again.
type written struct {
	w    io.Writer
	hash hash.Hash
	done int64
	err  error
	tell func(done int64)
}

var errNotWritten = errors.New("not written")

func (w *written) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if w.hash != nil {
		w.hash.Write(p[:n])
	}
	w.done += int64(n)
	w.tell(w.done)
	if err != nil {
		w.err = err
		return n, errNotWritten
	}
	return n, nil
}

// ExportVolume is not had from a cloud: a volume's content gets out by way of an image.
func (s *Store) ExportVolume(_ context.Context, req volume.ExportVolume) error {
	return failure.Of(volume.ErrUnsupported, "volume %s is in Cinder, and volumes are exported from the local store alone: make an image of it (lxcboot image create --volume %[1]s NAME) and save that (lxcboot image save NAME)", req.VolumeID)
}
