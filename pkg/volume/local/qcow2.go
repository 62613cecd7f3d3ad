package local

import (
	"io"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/qcow2"
)

// inspectQcow2 gives the size of the disk that a qcow2 file describes, and whether it was not
// closed cleanly. It refuses one that is not whole by itself.
func inspectQcow2(r io.ReaderAt) (size int64, unclean bool, err error) {
	h, err := qcow2.Read(r)
	const known = qcow2.Dirty | qcow2.Compression | qcow2.ExtendedL2
	switch {
	case err != nil:
		return 0, false, err
	case h.Overlay:
		return 0, false, failure.Invalid("it is a qcow2 overlay of the backing file %q, which is not part of it; flatten it with 'qemu-img convert -O qcow2 OLD NEW' first", h.Backing)
	case h.Encrypted:
		return 0, false, failure.Invalid("it is an encrypted qcow2 image, and there is no key to read it with; decrypt it first")
	case h.DataFile:
		return 0, false, failure.Invalid("it is a qcow2 image with its data in another file; merge them with 'qemu-img convert -O qcow2 OLD NEW' first")
	case h.Features&qcow2.Corrupt != 0:
		return 0, false, failure.Invalid("it is a qcow2 image marked as corrupt; mend it with 'qemu-img check -r all' first")
	case h.Features&^known != 0:
		return 0, false, failure.Invalid("it is a qcow2 image with unknown features (%#x)", h.Features)
	}
	return int64(h.VirtualSize), h.Features&qcow2.Dirty != 0, nil
}
