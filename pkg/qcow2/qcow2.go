// Package qcow2 reads the headers of qcow2 files, as QEMU's docs/interop/qcow2.rst has
// them. It opens no other file and trusts nothing that the header says.
package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// Magic begins a qcow2 file, and one of the older format qcow.
const Magic = "QFI\xfb"

// Incompatible features: who does not know one cannot read the file.
const (
	Dirty = 1 << iota
	Corrupt
	DataFile // the content is in another file
	Compression
	ExtendedL2
)

// Header is what decides whether a file can be read, and which others with it.
type Header struct {
	VirtualSize   uint64 // bytes of the disk that it describes
	Overlay       bool   // it has a backing file
	Backing       string // the name of that; may be empty in an unusual file
	BackingFormat string // as the header's extension says it, if it does
	DataFile      bool   // the content is in another file
	Encrypted     bool
	Features      uint64 // the incompatible ones
}

// Lengths of the fixed part of a header.
const (
	lengthV2 = 72
	lengthV3 = 104
)

// Limits of QEMU's.
const (
	maxName       = 1023
	maxHeader     = 2 << 20 // the largest cluster
	maxExtensions = 64      // of ours: there are six kinds
)

// Extensions of the header.
const (
	extensionEnd           = 0
	extensionBackingFormat = 0xE2792ACA
	extensionDataFile      = 0x44415441
)

// Read reads a header. One that cannot be is of kind failure.ErrInvalid, and a file that
// ends within its header wraps io.ErrUnexpectedEOF too.
func Read(r io.ReaderAt) (Header, error) {
	b, err := read(r, 0, lengthV2)
	if err != nil {
		return Header{}, err
	}
	be := binary.BigEndian
	if string(b[:4]) != Magic {
		return Header{}, unsound("without its signature")
	}
	h := Header{VirtualSize: be.Uint64(b[24:]), Overlay: be.Uint64(b[8:]) != 0, Encrypted: be.Uint32(b[32:]) != 0}
	if bits := be.Uint32(b[20:]); bits < 9 || bits > 21 {
		return Header{}, unsound("with clusters of 2^%d bytes", bits)
	}
	length := int64(lengthV2)
	switch version := be.Uint32(b[4:]); version {
	case 2:
	case 3:
		more, err := read(r, lengthV2, lengthV3-lengthV2)
		if err != nil {
			return Header{}, err
		}
		h.Features = be.Uint64(more)
		h.DataFile = h.Features&DataFile != 0
		if length = int64(be.Uint32(more[28:])); length < lengthV3 || length > maxHeader {
			return Header{}, unsound("with a header of %d bytes", length)
		}
	default:
		return Header{}, unsound("of version %d", version)
	}
	if h.Overlay {
		at, size := be.Uint64(b[8:]), be.Uint32(b[16:])
		if at > maxHeader || size > maxName {
			return Header{}, unsound("with a name of %d bytes for its backing file, at %d", size, at)
		}
		name, err := read(r, int64(at), int64(size))
		if err != nil {
			return Header{}, err
		}
		h.Backing = string(name)
	}
	return h, h.extensions(r, length)
}

// extensions reads the header's extensions: each a kind, a length, and that much, padded
// to 8 bytes.
func (h *Header) extensions(r io.ReaderAt, at int64) error {
	for range maxExtensions {
		b, err := read(r, at, 8)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil // a file as short as its header
		}
		if err != nil {
			return err
		}
		size := int64(binary.BigEndian.Uint32(b[4:]))
		switch binary.BigEndian.Uint32(b) {
		case extensionEnd:
			return nil
		case extensionDataFile:
			h.DataFile = true
		case extensionBackingFormat:
			if size > maxName {
				return unsound("with a name of %d bytes for its backing file's format", size)
			}
			format, err := read(r, at+8, size)
			if err != nil {
				return err
			}
			h.BackingFormat = string(format)
		}
		at += 8 + (size+7)&^7
	}
	return unsound("with more header extensions than there are")
}

// read reads n bytes.
func read(r io.ReaderAt, at, n int64) ([]byte, error) {
	b := make([]byte, n)
	switch got, err := r.ReadAt(b, at); {
	case int64(got) == n:
		return b, nil
	case err == nil || errors.Is(err, io.EOF):
		return nil, failure.Invalid("it begins as a qcow2 file and then breaks off: %w", io.ErrUnexpectedEOF)
	default:
		return nil, fmt.Errorf("reading the qcow2 header: %w", err)
	}
}

func unsound(how string, args ...any) error {
	return failure.Invalid("it is a qcow2 file "+how+", which can not be", args...)
}
