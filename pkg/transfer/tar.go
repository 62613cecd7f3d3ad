package transfer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// FromTar writes the members of a tar archive, but no Finish. Members whose names lead out of
// where they are unpacked are an error; devices are told and left out.
func FromTar(w *Writer, archive io.Reader) error {
	t := tar.NewReader(archive)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			if n == 0 {
				return failure.Invalid("stdin is not a tar archive: %w", err)
			}
			return fmt.Errorf("the tar archive cannot be read: %w", err)
		}
		e, err := member(h)
		if err != nil {
			return err
		}
		if e.Type == 0 {
			if err := w.Warn("%q is of a type (%q) that is not copied, and was left out", h.Name, h.Typeflag); err != nil {
				return err
			}
			continue
		}
		if err := w.Entry(e); err != nil {
			return err
		}
		if e.Type == File {
			if err := memberContent(w, t, h.Size); err != nil {
				return fmt.Errorf("the tar archive's member %q cannot be read: %w", h.Name, err)
			}
		}
	}
}

// member is the entry of a member; without a type for what is not copied.
func member(h *tar.Header) (e Entry, err error) {
	e = Entry{Mode: uint32(h.Mode) & 0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid), Size: h.Size, MTime: h.ModTime}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		e.Type = File
	case tar.TypeDir:
		e.Type = Directory
	case tar.TypeSymlink:
		e.Type, e.Link = Symlink, h.Linkname
	case tar.TypeLink:
		e.Type = HardLink
		if e.Link, err = memberName(h.Linkname); err != nil {
			return e, err
		}
	case tar.TypeFifo:
		e.Type = FIFO
	}
	if e.Name, err = memberName(h.Name); err != nil {
		return e, err
	}
	if int64(e.UID) != int64(h.Uid) || int64(e.GID) != int64(h.Gid) {
		return e, failure.Invalid("the tar archive's member %q belongs to %d:%d, which are no ids", h.Name, h.Uid, h.Gid)
	}
	if e.Type != 0 {
		if err := e.check(); err != nil {
			return e, failure.Invalid("the tar archive: %w", err)
		}
	}
	return e, nil
}

// memberName is a member's name below where it is unpacked.
func memberName(name string) (string, error) {
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", failure.Invalid("the tar archive's member %q leads out of the directory that it is unpacked in", name)
		}
	}
	if name = strings.TrimPrefix(path.Clean("/"+name), "/"); name == "" {
		name = "."
	}
	return name, nil
}

// memberContent writes the content of a member. Blocks of zeros are holes.
func memberContent(w *Writer, r io.Reader, size int64) error {
	buf := make([]byte, chunk)
	for at := int64(0); at < size; {
		n, err := io.ReadFull(r, buf[:min(chunk, size-at)])
		if err != nil {
			return err
		}
		if !zeros(buf[:n]) {
			if err := w.Data(at, buf[:n]); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return w.End(size)
}

var none [chunk]byte

func zeros(b []byte) bool { return bytes.Equal(b, none[:len(b)]) }

// ToTar makes a tar archive of a stream, up to its end. base is what the copy is called in it;
// empty: the content of a directory. The archive has the ids of the other side.
func ToTar(r *Reader, archive io.Writer, base string) error {
	t := tar.NewWriter(archive)
	for first := true; ; first = false {
		e, err := r.Next()
		if first && e.Name != "." {
			base = "" // a single file has its own name
		}
		if err == io.EOF {
			return t.Close()
		}
		if err != nil {
			return err
		}
		if err := toTar(t, r, e, base); err != nil {
			return err
		}
	}
}

func toTar(t *tar.Writer, r *Reader, e Entry, base string) error {
	// GNU's format is read everywhere, and has room for any name, size and id.
	h := &tar.Header{Format: tar.FormatGNU, Mode: int64(e.Mode), Uid: int(e.UID), Gid: int(e.GID), ModTime: e.MTime}
	h.Name = path.Join(base, e.Name)
	switch e.Type {
	case Directory:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	case HardLink:
		h.Typeflag, h.Linkname = tar.TypeLink, path.Join(base, e.Link)
	case FIFO:
		h.Typeflag = tar.TypeFifo
	case File:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	}
	if e.Size < 0 {
		return errors.New("the copy is garbled")
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	if e.Type != File {
		return nil
	}
	at := int64(0)
	fill := func(to int64) error {
		_, err := io.CopyN(t, zeroReader{}, to-at)
		at = to
		return err
	}
	size, err := r.Content(func(offset int64, data []byte) error {
		if offset+int64(len(data)) > e.Size {
			return fmt.Errorf("%q has more content than it said", e.Name)
		}
		if err := fill(offset); err != nil {
			return err
		}
		at += int64(len(data))
		_, err := t.Write(data)
		return err
	})
	if err == nil && size != e.Size {
		err = fmt.Errorf("%q has another size than it said", e.Name)
	}
	if err != nil {
		return err
	}
	return fill(e.Size)
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
