package connector

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/qcow2"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// qcow2MaxChain bounds the backing files of a volume.
const qcow2MaxChain = 64

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
		if !h.Overlay {
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
func qcow2File(dir *os.Root, name string) (qcow2.Header, error) {
	fi, err := dir.Lstat(name)
	if err != nil {
		return qcow2.Header{}, err
	}
	if !fi.Mode().IsRegular() {
		return qcow2.Header{}, failure.Invalid("not a regular file")
	}
	f, err := dir.Open(name)
	if err != nil {
		return qcow2.Header{}, err
	}
	defer f.Close()
	h, err := qcow2.Read(f)
	switch {
	case err != nil:
	case h.DataFile:
		err = failure.Of(volume.ErrUnsupported, "its content is in another file")
	case h.Encrypted:
		err = failure.Of(volume.ErrUnsupported, "it is encrypted")
	}
	return h, err
}
