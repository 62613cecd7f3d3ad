package local

import (
	"context"
	"fmt"

	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/imagefile"
)

// Inspect says what the format of an image file is, from its content, held against what
// was asked for. What an import into this store would refuse, it refuses too.
func Inspect(ctx context.Context, req volume.ImportImage) (diskFormat string, err error) {
	f, size, err := imagefile.Take(req.Content, req.Path)
	if err != nil {
		return "", err
	}
	if req.Content == nil {
		defer f.Close()
	}
	in, err := (*Store)(nil).inspectImport(f, size, req)
	if err != nil {
		return "", err
	}
	if in.Format != formatRaw {
		err = verify(ctx, imagefile.Path(f), in)
	}
	if err == nil {
		in.tell(req)
	}
	return in.Format, err
}

// tell says what is to be known of an image that is taken.
func (in inspection) tell(req volume.ImportImage) {
	if in.Unclean && req.Warn != nil {
		req.Warn(fmt.Sprintf("image file %s was not closed cleanly: it is taken as it can be read, and what its writer had not written yet is not in it", req.Path))
	}
}
