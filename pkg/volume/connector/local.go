package connector

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// localType is the driver_volume_type of the embedded store, and of others that make
// their volumes on this host.
const localType = "local"

// localDriver is for volumes that are on this host already: Data holds device_path, and
// format when it is a file; hold of a block device that is the host's own; and of a part of
// a file its offset and limit in bytes, which becomes a loop device.
type localDriver struct{}

// localState is what is noted of a part of a file.
type localState struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	Limit  int64  `json:"limit"` // 0: to the end
	Mark   string `json:"mark"`  // of the loop device
}

func (localDriver) prepare(_ context.Context, req Request, dev Device) (Device, error) {
	data := info(req.Connection.Data)
	path, err := data.need("device_path")
	if err != nil {
		return Device{}, err
	}
	if !filepath.IsAbs(path) {
		return Device{}, failure.Invalid("device_path %q is not absolute", path)
	}
	if f := data.str("format"); f != "" && f != "raw" {
		return Device{}, failure.Of(volume.ErrUnsupported, "%s has format %q; a local volume must be raw", path, f)
	}
	dev.Path, dev.Hold = path, data.boolean("hold")
	if err := usable(path); err != nil {
		return Device{}, err
	}
	offset, _ := number(data["offset"])
	limit, _ := number(data["limit"])
	if offset == 0 && limit == 0 {
		return dev, nil
	}
	dev.Path = ""
	return encode(dev, localState{path, int64(offset), int64(limit), req.AttachmentID})
}

// connect gives the path that the volume has now, which may be another than it had. Of a part
// of a file it makes the loop device, unless that is there: it has the attachment's id for a
// mark from its first moment on.
func (d localDriver) connect(ctx context.Context, req Request, dev Device) (Device, error) {
	now, err := d.prepare(ctx, req, dev)
	if err != nil || len(now.State) == 0 {
		return now, err
	}
	var s localState
	if err := decode(now, &s); err != nil {
		return Device{}, err
	}
	mine, err := loop.Marked(s.Mark)
	if err != nil {
		return Device{}, err
	}
	if len(mine) == 0 {
		made, f, err := loop.Attach(ctx, s.File, loop.Options{Offset: s.Offset, SizeLimit: s.Limit, ReadOnly: now.ReadOnly, Mark: s.Mark})
		if err != nil {
			return Device{}, err
		}
		f.Close()
		fault.Point("connector/local/attached")
		mine = append(mine, made)
	}
	now.Path = mine[0].Path
	return now, nil
}

func (localDriver) disconnect(ctx context.Context, dev Device) error {
	if len(dev.State) > 0 {
		return disconnectPart(ctx, dev)
	}
	if dev.ReadOnly {
		return nil
	}
	if err := flushFile(ctx, dev.Path); err != nil {
		return fmt.Errorf("%w: %v", ErrNotFlushed, err)
	}
	return nil
}

// disconnectPart takes the loop device of a part of a file away, wherever that is by now.
func disconnectPart(ctx context.Context, dev Device) error {
	var s localState
	if err := decode(dev, &s); err != nil {
		return err
	}
	mine, err := loop.Marked(s.Mark)
	if err != nil {
		return err
	}
	for _, d := range mine {
		if err := loop.Detach(d); err != nil {
			return err
		}
	}
	if dev.ReadOnly {
		return nil
	}
	if err := flushFile(ctx, s.File); err != nil {
		return fmt.Errorf("%w: %v", ErrNotFlushed, err)
	}
	return nil
}

// usable says whether path can carry a volume.
func usable(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return failure.Of(volume.ErrNotFound, "the volume's device: %v", err)
	}
	block := fi.Mode()&fs.ModeDevice != 0 && fi.Mode()&fs.ModeCharDevice == 0
	if !fi.Mode().IsRegular() && !block {
		return failure.Invalid("%s is neither a block device nor a regular file", path)
	}
	return nil
}
