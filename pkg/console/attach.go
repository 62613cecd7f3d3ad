package console

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/tty"
)

// ErrNotServed says that no process serves a console: the container has ended, or
// that process was killed.
var ErrNotServed = errors.New("the console is not served: the container has ended, or its console process has")

// A client sends frames: a kind, the length of what follows, and that. The other
// way go the container's bytes as they are.
const (
	frameData    byte = 0
	frameSize    byte = 1 // rows and columns, 16 bits each
	frameClaim   byte = 2 // the path of a block device
	frameUnclaim byte = 3 // likewise
	frameFreeze  byte = 4 // a directory of the filesystem that is to be thawed; see Guard
)

// Attach joins the console that is served at a socket with stdin and
// stdout, until the container ends, stdin ends, the detach key is typed (0: none),
// or ctx ends, whose cause is the error then. When stdin is a terminal it is raw
// meanwhile, and the console gets its size. ErrNotServed: nothing serves it.
func Attach(ctx context.Context, socketPath string, stdin io.Reader, stdout io.Writer, detachKey byte) error {
	conn, err := dialUnix(ctx, socketPath)
	if err != nil {
		return fmt.Errorf("%w (%v)", ErrNotServed, err)
	}
	defer conn.Close()
	send := &frameWriter{w: conn}
	if f, ok := stdin.(*os.File); ok {
		restore, err := tty.Raw(f, func(size *unix.Winsize) { send.size(size) })
		if err != nil {
			return err
		}
		defer restore()
	}
	done := make(chan error, 2)
	go func() { // left behind in its read when the container ends first
		err := send.copy(stdin, detachKey)
		if err == io.EOF { // input is over; what the container says is not
			return
		}
		done <- err
	}()
	go func() {
		_, err := io.Copy(stdout, conn)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// dialUnix reaches a socket whose path may be longer than a socket's may be.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", procPath(dir, path))
}

type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frameWriter) write(kind byte, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.w.Write(append(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(p))), p...))
	return err
}

func (f *frameWriter) size(s *unix.Winsize) error {
	return f.write(frameSize, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, s.Row), s.Col))
}

// copy sends what is typed until the detach key (nil) or the end (io.EOF).
func (f *frameWriter) copy(r io.Reader, detachKey byte) error {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		p := buf[:n]
		at := -1
		if detachKey != 0 {
			at = bytes.IndexByte(p, detachKey)
		}
		if at >= 0 {
			p = p[:at]
		}
		if len(p) > 0 {
			if err := f.write(frameData, p); err != nil {
				return io.EOF // the other direction tells why
			}
		}
		if at >= 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readFrame gives a frame's kind, which is one that there is, and what is in it.
func readFrame(r io.Reader) (kind byte, data []byte, err error) {
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	p := make([]byte, binary.BigEndian.Uint16(head[1:]))
	if _, err := io.ReadFull(r, p); err != nil {
		return 0, nil, err
	}
	switch kind = head[0]; {
	case kind == frameData, kind == frameClaim, kind == frameUnclaim, kind == frameFreeze, kind == frameSize && len(p) == 4:
		return kind, p, nil
	}
	return 0, nil, errors.New("a frame of an unknown kind")
}
