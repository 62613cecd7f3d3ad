package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A Peer runs lxcboot-copy on the other side with arguments, which Inside takes, and gives
// its exit code.
type Peer func(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) (int, error)

// Flags of lxcboot-copy, as letters of its second argument.
const (
	flagFollow  = "f"
	flagOwner   = "o"
	flagMembers = "m"
)

// In copies to a path of the other side what send writes, which is no Finish. Entries belong
// to root there, unless o.Owner is set. warn is told what either side left out.
func In(ctx context.Context, peer Peer, send func(*Writer) error, dest string, o UnpackOptions, warn func(string), count func(int)) error {
	flags := ""
	if o.Owner {
		flags += flagOwner
	}
	if o.Members {
		flags += flagMembers
	}
	return meet(ctx, peer, []string{"unpack", "-" + flags, o.Base, dest}, func(in io.WriteCloser, out io.Reader) error {
		sent := make(chan error, 1)
		go func() {
			w := NewWriter(in, count)
			err := send(w)
			if err == nil {
				err = w.Finish()
			}
			sent <- err
			in.Close() // the other side undoes what was not finished, and says so
		}()
		done := NewReader(out, warn, nil).Finished()
		if done == nil {
			return nil
		}
		select {
		case err := <-sent:
			if err != nil && !errors.Is(err, unix.EPIPE) {
				return err
			}
		default: // it may still wait for what it reads
		}
		return done
	})
}

// Out hands what is at a path of the other side to receive, which reads all of it.
func Out(ctx context.Context, peer Peer, src string, follow bool, receive func(*Reader) error, warn func(string), count func(int)) error {
	flags := ""
	if follow {
		flags += flagFollow
	}
	return meet(ctx, peer, []string{"pack", "-" + flags, src}, func(in io.WriteCloser, out io.Reader) error {
		defer in.Close() // the other side waits for that: what it has written was read then
		return receive(NewReader(out, warn, count))
	})
}

// meet runs the peer, and talks to it.
func meet(ctx context.Context, peer Peer, args []string, talk func(in io.WriteCloser, out io.Reader) error) error {
	theirIn, in, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer theirIn.Close()
	defer in.Close()
	out, theirOut, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer out.Close()
	defer theirOut.Close()
	type end struct {
		code int
		err  error
		said string
	}
	ended := make(chan end, 1)
	go func() {
		var said limited
		code, err := peer(ctx, args, theirIn, theirOut, &said)
		theirIn.Close()
		theirOut.Close()
		ended <- end{code, err, said.String()}
	}()
	// An interrupt ends the stream first, so that the other side undoes.
	defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
	talked := talk(in, out)
	in.Close()
	out.Close()
	e := <-ended
	var remote *RemoteError
	switch {
	case ctx.Err() != nil && talked != nil:
		return context.Cause(ctx)
	case errors.As(talked, &remote):
		return talked
	case e.err != nil:
		return e.err
	case errors.Is(talked, errEnded) && e.code != 0:
		return fmt.Errorf("what copies in the container ended with exit code %d before its end %s", e.code, strings.TrimSpace(e.said))
	}
	return talked
}

// limited keeps the beginning of what is written.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), maxText-l.Len())])
	return len(p), nil
}

// Inside is lxcboot-copy: it does what In and Out ask of the other side, and gives the exit
// code.
func Inside(args []string, in *os.File, out *os.File) int {
	w := NewWriter(out, nil)
	err := errors.New("this program is started by lxcboot alone")
	switch {
	case len(args) == 3 && args[0] == "pack":
		err = Pack(w, args[2], PackOptions{Follow: strings.Contains(args[1], flagFollow)})
	case len(args) == 4 && args[0] == "unpack":
		o := UnpackOptions{Base: args[2], Members: strings.Contains(args[1], flagMembers), Owner: strings.Contains(args[1], flagOwner)}
		o.SetID = o.Owner
		err = Unpack(NewReader(in, func(text string) { w.Warn("%s", text) }, nil), args[3], o)
	}
	if err != nil {
		w.Fail(err)
		return 1
	}
	if err := w.Finish(); err != nil {
		return 1
	}
	io.Copy(io.Discard, in)
	return 0
}
