package lxc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/inroot"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

// leftover is how long output is still read after a program's end: a process that
// it left behind may keep it open for ever.
const leftover = 500 * time.Millisecond

// streams join a program's input and output with the caller's. The program gets
// pipes or a terminal, never a file of the caller's: it could change or keep that.
type streams struct {
	theirs  [3]*os.File // the program's ends
	inputs  []*os.File  // what we write to
	outputs []*os.File  // what we read
	begin   func() (restore func(), err error)
	copied  chan struct{}
}

func openPipes(o ExecOptions) (*streams, error) {
	s := &streams{copied: make(chan struct{}, 2)}
	pairs := [3][2]*os.File{}
	for i := range pairs {
		r, w, err := os.Pipe()
		if err != nil {
			s.close()
			return nil, fmt.Errorf("cannot make a pipe: %w", err)
		}
		if i == 0 {
			s.theirs[i], s.inputs = r, append(s.inputs, w)
		} else {
			s.theirs[i], s.outputs = w, append(s.outputs, r)
		}
		blocking(s.theirs[i])
	}
	s.begin = func() (func(), error) {
		go func() {
			if o.Stdin != nil {
				io.Copy(s.inputs[0], o.Stdin)
			}
			s.inputs[0].Close()
		}()
		for i, w := range []io.Writer{o.Stdout, o.Stderr} {
			go s.copy(w, s.outputs[i])
		}
		return func() {}, nil
	}
	return s, nil
}

// blocking undoes what the Go runtime does to pipes: the program expects others.
func blocking(f *os.File) { f.Fd() }

// openTerminal makes a terminal of the container's own devpts, so that it has a
// name inside.
func (p *initProc) openTerminal(root *os.File, u account, o ExecOptions) (*streams, error) {
	master, err := inroot.OpenTerminal(root, "dev/pts/ptmx")
	if err != nil {
		return nil, err
	}
	s := &streams{copied: make(chan struct{}, 1), inputs: []*os.File{master}}
	var peer *os.File
	err = tty.Control(master, func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0) })
	if err == nil {
		peer, err = tty.Peer(master)
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("cannot make a terminal in the container: %w", err)
	}
	s.theirs = [3]*os.File{peer, peer, peer}
	// It is the user's, as after a login. Its group stays the one of devpts.
	uid, err := hostID(p.pid, "uid_map", u.uid)
	if err == nil {
		err = peer.Chown(uid, -1)
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("cannot make a terminal in the container: %w", err)
	}
	s.outputs = s.inputs
	resize := func(size *unix.Winsize) {
		tty.Resize(master, size)
	}
	if f, ok := o.Stdin.(*os.File); ok { // before the program can ask for it
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			resize(size)
		}
	}
	s.begin = func() (func(), error) {
		restore := func() {}
		if f, ok := o.Stdin.(*os.File); ok {
			var err error
			if restore, err = tty.Raw(f, resize); err != nil {
				return func() {}, err
			}
		}
		go func() {
			if o.Stdin != nil {
				io.Copy(master, o.Stdin)
				master.Write([]byte{4}) // the end of input, as if typed
			}
		}()
		go s.copy(o.Stdout, master)
		return restore, nil
	}
	return s, nil
}

// copy passes output on until its end. When that fails the rest is dropped, and
// the program gets SIGPIPE or a hangup with the end of us.
func (s *streams) copy(w io.Writer, r *os.File) {
	if w == nil {
		w = io.Discard
	}
	_, err := io.Copy(w, r)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// Whoever takes it slowly has not had all that was there at the program's end.
		var n int
		if tty.Control(r, func(fd int) (err error) { n, err = unix.IoctlGetInt(fd, unix.TIOCINQ); return err }) == nil {
			r.SetReadDeadline(time.Time{})
			io.CopyN(w, r, int64(n))
		}
	}
	s.copied <- struct{}{}
}

// start begins to copy. restore must be called in any case.
func (s *streams) start() (restore func(), err error) { return s.begin() }

// finish waits for the rest of the output after the program's end.
func (s *streams) finish() {
	for _, f := range s.outputs {
		f.SetReadDeadline(time.Now().Add(leftover))
	}
	for range s.outputs {
		<-s.copied
	}
}

func (s *streams) closeTheirs() {
	for i, f := range s.theirs {
		if f != nil && (i == 0 || f != s.theirs[0]) {
			f.Close()
		}
		s.theirs[i] = nil
	}
}

func (s *streams) close() {
	s.closeTheirs()
	for _, f := range s.inputs {
		f.Close()
	}
	for _, f := range s.outputs {
		f.Close()
	}
}
