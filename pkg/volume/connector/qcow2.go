package connector

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// qcow2MaxChain bounds the backing files of a volume.
const qcow2MaxChain = 64

// qcow2Header is what of a qcow2 file decides which other files are opened.
type qcow2Header struct {
	Backing       string // name of the backing file, empty when there is none
	BackingFormat string // as the header's extension says it
	DataFile      bool   // the content is in another file
	Encrypted     bool
}

// readQcow2Header reads the header of a qcow2 file (QEMU's docs/interop/qcow2.txt).
func readQcow2Header(r io.ReaderAt) (qcow2Header, error) {
	bad := func(what string) (qcow2Header, error) {
		return qcow2Header{}, failure.Invalid("not a sound qcow2 file: %s", what)
	}
	const v2, v3 = 72, 104 // lengths of the fixed part
	b := make([]byte, v3)
	if n, err := r.ReadAt(b, 0); n < v2 {
		if err != nil && err != io.EOF {
			return qcow2Header{}, err
		}
		return bad("it is too short")
	}
	be := binary.BigEndian
	if string(b[:4]) != "QFI\xfb" {
		return bad("the signature is missing")
	}
	h := qcow2Header{Encrypted: be.Uint32(b[32:]) != 0}
	length := int64(v2)
	switch version := be.Uint32(b[4:]); version {
	case 2:
	case 3:
		h.DataFile = be.Uint64(b[72:])&(1<<2) != 0
		if length = int64(be.Uint32(b[100:])); length < v3 || length > 1<<16 {
			return bad("the header's length")
		}
	default:
		return bad(fmt.Sprintf("version %d", version))
	}
	offset, size := be.Uint64(b[8:]), be.Uint32(b[16:])
	if offset != 0 && size != 0 {
		if size > 1023 || offset > 1<<21 {
			return bad("the name of the backing file")
		}
		name := make([]byte, size)
		if _, err := r.ReadAt(name, int64(offset)); err != nil {
			return bad("the name of the backing file is cut off")
		}
		h.Backing = string(name)
	}
	for range 64 { // header extensions: type, length, data padded to 8 bytes
		var e [8]byte
		if _, err := r.ReadAt(e[:], length); err != nil || be.Uint32(e[:]) == 0 {
			break
		}
		size := int64(be.Uint32(e[4:]))
		if size > 1<<16 {
			return bad("a header extension's length")
		}
		if be.Uint32(e[:]) == 0xE2792ACA {
			format := make([]byte, size)
			if _, err := r.ReadAt(format, length+8); err != nil {
				return bad("the backing file's format is cut off")
			}
			h.BackingFormat = string(format)
		}
		length += 8 + (size+7)/8*8
	}
	return h, nil
}

// qcow2Chain names the block nodes of a qcow2 volume and its backing files. The
// files a volume refers to must lie beside it, and say their format: nothing
// else on this host is opened, whatever the header says.
func qcow2Chain(dir *os.Root, path, name string, readOnly bool) ([]args, error) {
	type link struct{ name, format string }
	var links []link
	for next := (link{name, "qcow2"}); ; {
		links = append(links, next)
		if next.format == "raw" {
			if fi, err := dir.Lstat(next.name); err != nil || !fi.Mode().IsRegular() {
				return nil, failure.Invalid("the backing file %s is not there as a regular file", next.name)
			}
			break
		}
		h, err := qcow2File(dir, next.name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", next.name, err)
		}
		if h.Backing == "" {
			break
		}
		if !fileName.MatchString(h.Backing) {
			return nil, failure.Of(volume.ErrUnsupported, "%s has the backing file %q, which is not a plain name in the same directory", next.name, h.Backing)
		}
		if h.BackingFormat != "raw" && h.BackingFormat != "qcow2" {
			return nil, failure.Of(volume.ErrUnsupported, "%s does not say that its backing file %s is raw or qcow2, and lxcboot does not guess it (qemu-img rebase -u -F sets it)", next.name, h.Backing)
		}
		if len(links) == qcow2MaxChain {
			return nil, failure.Of(volume.ErrUnsupported, "%s has more than %d backing files", name, qcow2MaxChain)
		}
		next = link{h.Backing, h.BackingFormat}
	}
	var nodes []args
	var below any // null: no backing file
	for i := len(links) - 1; i >= 0; i-- {
		ro := readOnly || i > 0
		file := fmt.Sprintf("file-%d", i)
		f := protocolNode(ro, args{"driver": "file", "filename": filepath.Join(path, links[i].name)})
		f["node-name"] = file
		n := args{
			"driver": links[i].format, "node-name": fmt.Sprintf("format-%d", i), "file": file,
			"read-only": ro, "auto-read-only": false, "discard": "unmap",
		}
		if links[i].format == "qcow2" {
			n["backing"] = below
		}
		nodes = append(nodes, f, n)
		below = n["node-name"]
	}
	return nodes, nil
}

// qcow2File reads a header, and refuses what is not served.
func qcow2File(dir *os.Root, name string) (qcow2Header, error) {
	fi, err := dir.Lstat(name)
	if err != nil {
		return qcow2Header{}, err
	}
	if !fi.Mode().IsRegular() {
		return qcow2Header{}, failure.Invalid("not a regular file")
	}
	f, err := dir.Open(name)
	if err != nil {
		return qcow2Header{}, err
	}
	defer f.Close()
	h, err := readQcow2Header(f)
	switch {
	case err != nil:
	case h.DataFile:
		err = failure.Of(volume.ErrUnsupported, "its content is in another file")
	case h.Encrypted:
		err = failure.Of(volume.ErrUnsupported, "it is encrypted")
	}
	return h, err
}
