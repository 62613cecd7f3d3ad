// Package transfer copies files and directories between two sides of which neither trusts
// the other, as a stream of frames: Pack reads files and writes the stream, Unpack reads the
// stream and makes the files. One side is this host, and the other the program lxcboot-copy
// inside a container. No link is followed below what was named, on either side.
package transfer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// Type says what an Entry is.
type Type byte

// The types of entries. There are none for devices and sockets, which are left out.
const (
	File      Type = 'f'
	Directory Type = 'd'
	Symlink   Type = 'l'
	HardLink  Type = 'h' // Link names an entry that came before
	FIFO      Type = 'p'
)

// Entry is a file of a tree: what a stream says before its content.
type Entry struct {
	Type     Type
	Name     string // below the top, with slashes; "." is the top itself
	Link     string // of a Symlink or HardLink
	Mode     uint32 // as chmod takes it
	UID, GID uint32
	Size     int64 // in bytes, of a File; -1: known at its end
	MTime    time.Time
	Shared   bool // a File that HardLinks may follow
}

// The frames of a stream: a kind, a length and as many bytes.
const (
	frameEntry   = 'E'
	frameData    = 'D' // an offset, and bytes
	frameEnd     = 'Z' // of a file's content: its size
	frameWarning = 'W'
	frameFailure = 'X' // the last one: why there is no more
	frameInvalid = 'Y' // the same, of what its user should have asked otherwise
	frameFinish  = 'F' // the last one: that was all
)

const (
	chunk    = 256 << 10 // bytes of content in a frame, at most
	maxFrame = chunk + 8
	maxText  = 4096
	maxName  = unix.PathMax - 1
	// head is an Entry's length without its texts: type, shared, mode, ids, size, seconds,
	// nanoseconds, length of the name.
	head = 1 + 1 + 4 + 4 + 4 + 8 + 8 + 4 + 4
)

// errEnded says that a stream broke off.
var errEnded = errors.New("the copy broke off before its end")

// Writer writes a stream.
type Writer struct {
	w     io.Writer
	buf   []byte
	count func(n int)
}

// NewWriter makes a Writer; count, which may be nil, is told of the bytes of content.
func NewWriter(w io.Writer, count func(n int)) *Writer {
	return &Writer{w: w, buf: make([]byte, 0, 5+maxFrame), count: count}
}

func (w *Writer) frame(kind byte, parts ...[]byte) error {
	b := append(w.buf[:0], kind, 0, 0, 0, 0)
	for _, p := range parts {
		b = append(b, p...)
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-5))
	_, err := w.w.Write(b)
	return err
}

// Entry begins an entry.
func (w *Writer) Entry(e Entry) error {
	if len(e.Name) > maxName || len(e.Link) > maxName {
		return fmt.Errorf("%q has a name of more than %d bytes", e.Name, maxName)
	}
	b := []byte{byte(e.Type), 0}
	if e.Shared {
		b[1] = 1
	}
	b = binary.BigEndian.AppendUint32(b, e.Mode)
	b = binary.BigEndian.AppendUint32(b, e.UID)
	b = binary.BigEndian.AppendUint32(b, e.GID)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Size))
	b = binary.BigEndian.AppendUint64(b, uint64(e.MTime.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(e.MTime.Nanosecond()))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Name)))
	return w.frame(frameEntry, b, []byte(e.Name), []byte(e.Link))
}

// Data is content of the File that was begun, at an offset behind what there was of it; what
// is left out is a hole.
func (w *Writer) Data(offset int64, data []byte) error {
	for len(data) > 0 {
		part := data[:min(len(data), chunk)]
		if err := w.frame(frameData, binary.BigEndian.AppendUint64(nil, uint64(offset)), part); err != nil {
			return err
		}
		if w.count != nil {
			w.count(len(part))
		}
		offset, data = offset+int64(len(part)), data[len(part):]
	}
	return nil
}

// End ends a File, of this size.
func (w *Writer) End(size int64) error {
	return w.frame(frameEnd, binary.BigEndian.AppendUint64(nil, uint64(size)))
}

// Warn says what was left out.
func (w *Writer) Warn(format string, args ...any) error {
	return w.frame(frameWarning, short(fmt.Sprintf(format, args...)))
}

// Finish says that this was all.
func (w *Writer) Finish() error { return w.frame(frameFinish) }

// Fail says why there is no more.
func (w *Writer) Fail(err error) error {
	kind := byte(frameFailure)
	if errors.Is(err, failure.ErrInvalid) {
		kind = frameInvalid
	}
	return w.frame(kind, short(err.Error()))
}

func short(text string) []byte { return []byte(text[:min(len(text), maxText)]) }

// RemoteError is what the other side failed at, in its words.
type RemoteError struct {
	Text    string
	Invalid bool // what its user asked for cannot be
}

func (e *RemoteError) Error() string { return e.Text }

// Is gives the kind.
func (e *RemoteError) Is(kind error) bool { return e.Invalid && kind == failure.ErrInvalid }

// Reader reads a stream, which may hold anything.
type Reader struct {
	r     *bufio.Reader
	buf   []byte
	warn  func(text string)
	count func(n int)
	end   int64 // of the content that was read of the file
}

// NewReader makes a Reader; warn is told what the other side left out, and count of the
// bytes of content. Both may be nil.
func NewReader(r io.Reader, warn func(text string), count func(n int)) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 64<<10), buf: make([]byte, maxFrame), warn: warn, count: count}
}

// next is the next frame that is no warning; its payload is good until the one after.
func (r *Reader) next() (kind byte, payload []byte, err error) {
	for {
		var h [5]byte
		if _, err := io.ReadFull(r.r, h[:]); err != nil {
			return 0, nil, broken(err)
		}
		n := binary.BigEndian.Uint32(h[1:])
		if n > maxFrame {
			return 0, nil, errors.New("the copy is garbled")
		}
		payload = r.buf[:n]
		if _, err := io.ReadFull(r.r, payload); err != nil {
			return 0, nil, broken(err)
		}
		switch h[0] {
		case frameFailure, frameInvalid:
			return 0, nil, &RemoteError{string(payload[:min(len(payload), maxText)]), h[0] == frameInvalid}
		case frameWarning:
			if r.warn != nil {
				r.warn(string(payload[:min(len(payload), maxText)]))
			}
		default:
			return h[0], payload, nil
		}
	}
}

func broken(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errEnded
	}
	return err
}

// Next is the next entry; io.EOF after the last one. The content of a File has to be read
// before.
func (r *Reader) Next() (e Entry, err error) {
	kind, p, err := r.next()
	switch {
	case err != nil:
		return e, err
	case kind == frameFinish:
		return e, io.EOF
	case kind != frameEntry || len(p) < head:
		return e, errors.New("the copy is garbled")
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(p[at:]) }
	u64 := func(at int) int64 { return int64(binary.BigEndian.Uint64(p[at:])) }
	e = Entry{Type: Type(p[0]), Shared: p[1] == 1, Mode: u32(2) & 0o7777, UID: u32(6), GID: u32(10), Size: u64(14)}
	e.MTime = time.Unix(u64(22), int64(u32(30)%1e9))
	name := int64(u32(34))
	if name > int64(len(p)-head) {
		return e, errors.New("the copy is garbled")
	}
	e.Name, e.Link = string(p[head:head+name]), string(p[head+name:])
	r.end = 0
	return e, e.check()
}

// check refuses names that lead elsewhere.
func (e Entry) check() error {
	switch e.Type {
	case File, Directory, FIFO:
	case Symlink:
		if e.Link == "" || len(e.Link) > maxName || strings.ContainsRune(e.Link, 0) {
			return fmt.Errorf("the link %q leads to %q, which is no name", e.Name, e.Link)
		}
	case HardLink:
		if !local(e.Link) {
			return fmt.Errorf("%q is to be another name of %q, which leads out of what is copied", e.Name, e.Link)
		}
	default:
		return fmt.Errorf("%q is of a type that is not known", e.Name)
	}
	if e.Name != "." && !local(e.Name) || e.Name == "." && e.Type != Directory {
		return fmt.Errorf("the name %q leads out of what is copied", e.Name)
	}
	return nil
}

// local says whether a name has the one form that names below a top have.
func local(name string) bool {
	return name != "" && name != "." && len(name) <= maxName && name[0] != '/' && path.Clean(name) == name &&
		name != ".." && !strings.HasPrefix(name, "../") && !strings.ContainsRune(name, 0)
}

// Content reads the content of a File: each part of it in order, and then its size. What lies
// between is holes.
func (r *Reader) Content(part func(offset int64, data []byte) error) (size int64, err error) {
	for {
		kind, p, err := r.next()
		switch {
		case err != nil:
			return 0, err
		case kind == frameEnd && len(p) == 8:
			size := int64(binary.BigEndian.Uint64(p))
			if size < r.end {
				return 0, errors.New("the copy is garbled")
			}
			return size, nil
		case kind != frameData || len(p) < 8:
			return 0, errors.New("the copy is garbled")
		}
		offset := int64(binary.BigEndian.Uint64(p))
		if offset < r.end || offset > math.MaxInt64-maxFrame {
			return 0, errors.New("the copy is garbled")
		}
		r.end = offset + int64(len(p)-8)
		if err := part(offset, p[8:]); err != nil {
			return 0, err
		}
		if r.count != nil {
			r.count(len(p) - 8)
		}
	}
}

// Finished reads the word of the other side that all was done, or that it failed.
func (r *Reader) Finished() error {
	kind, _, err := r.next()
	if err == nil && kind != frameFinish {
		err = errors.New("the copy is garbled")
	}
	return err
}
