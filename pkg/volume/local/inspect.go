package local

import (
	"context"

	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/imagefile"
)

// Inspect says what an image file is, from its content: its format, held against
// the one that was asked for (may be empty), and the bytes of the disk that it
// describes. What an import into this store would refuse, it refuses too.
func Inspect(ctx context.Context, path, format string) (diskFormat string, virtualSize int64, err error) {
	f, size, err := imagefile.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	in, err := (*Store)(nil).inspectImport(f, size, volume.ImportImage{Path: path, DiskFormat: format})
	if err != nil {
		return "", 0, err
	}
	if in.Format != formatRaw {
		err = verify(ctx, path, in)
	}
	return in.Format, in.VirtualSize, err
}
