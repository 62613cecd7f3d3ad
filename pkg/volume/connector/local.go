package connector

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// localType is the driver_volume_type of the embedded store, and of others that make
// their volumes on this host.
const localType = "local"

// localDriver is for volumes that are on this host already: Data holds
// device_path, and format when it is a file.
type localDriver struct{}

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
	dev.Path = path
	if err := usable(path); err != nil {
		return Device{}, err
	}
	return dev, nil
}

func (localDriver) connect(_ context.Context, _ Request, dev Device) (Device, error) {
	return dev, usable(dev.Path)
}

func (localDriver) disconnect(ctx context.Context, dev Device) error {
	if dev.ReadOnly {
		return nil
	}
	if err := flushFile(ctx, dev.Path); err != nil {
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
