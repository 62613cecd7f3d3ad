// Package console keeps the console of a container: a small process for each writes
// what the container prints to a bounded log and serves a socket, at which the console
// can be joined.
package console

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/tty"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// Options say where a container's console goes.
type Options struct {
	LogPath    string // mode 0600; the part before it is kept as LogPath.1
	MaxBytes   int64  // of both together; 0: DefaultLogBytes
	SocketPath string // mode 0600, for Attach; its directory is private
	// Ended is run when the container has ended, to release what the host holds for it.
	// It is given the wait status of the init that Terminal.HoldInit took hold of, as
	// --status N; not where that is not learnt.
	Ended []string

	// Devices are block devices that were opened to be this host's only user of them: the
	// process keeps them open until the container has ended, or Unclaim.
	Devices []*os.File
	// Claim is a file that the process holds an exclusive flock(2) on, through Ended to
	// its end; empty: none. Where another has it, such as a process before this one, it
	// is waited for, while the console is kept.
	Claim string
	// Warn is told when the process stays in its caller's control groups; nil: nobody.
	Warn func(error)
}

// ErrEnded says that a terminal is not, or no longer, a running container's.
var ErrEnded = errors.New("the container has ended")

// Terminal is the console of a running container, and what is needed so that nothing
// of it is lost: a terminal drops what was not read yet when its other end closes. So
// the other end, which libvirt_lxc holds, is held here too, as is its end of the
// terminal inside; the end is seen by that process having ended, and then the rest is
// read. What libvirt_lxc had in hand then, at most 1 KiB, would be lost when the container
// ends amid a burst of output: where HoldInit could hold back the news of that, it is told
// when it has none. Without (another traces libvirt_lxc, or nobody may) it is lost.
type Terminal struct {
	tty.Ends
	pid        int      // of libvirt_lxc
	controller *os.File // its pidfd
	init       *ending  // nil: nobody asked for it, or it has ended
	blocked    bool     // libvirt_lxc does not hear of the init's end until Start or Close
}

// HoldInit takes hold of the container's init, by its number on the host, so that the
// status that it ends with is learnt, and what it says last: it must not have been let go
// yet. 0, or one that has ended, is none.
func (t *Terminal) HoldInit(pid int) (err error) {
	if pid == 0 {
		return nil
	}
	if t.Inner != nil {
		t.blocked = block(threads(t.pid), true) == nil
	}
	if t.init, err = holdInit(pid, t.pid, t.controller); err != nil {
		t.unblock()
	}
	if errors.Is(err, ErrEnded) {
		return nil
	}
	return err
}

// unblock undoes what HoldInit did to libvirt_lxc.
func (t *Terminal) unblock() {
	if t.blocked && proc.Alive(t.controller) {
		_ = block([]int{t.pid}, false)
	}
	t.blocked = false
}

// Close lets go of the terminal.
func (t *Terminal) Close() {
	t.unblock()
	t.Ends.Close()
	closeFile(t.controller)
	if t.init != nil {
		t.init.release()
	}
}

// serve keeps the console of one container until that has ended: what it prints goes
// to the bounded log and to all clients of the socket, and what they type goes to the
// container. Neither a log nor a client that takes nothing holds up the container. It
// returns nil when all that was printed is written, and the cause of ctx when that ends
// before the container has.
func (t *Terminal) serve(ctx context.Context, o Options, l net.Listener) error {
	log := queueLog(o.LogPath, o.MaxBytes)
	defer log.end()
	h := &hub{ends: t.Ends, claims: &claims{files: o.Devices}, clients: map[*client]bool{}}
	defer h.end()
	defer l.Close()
	defer os.Remove(o.SocketPath) // clients take its absence for "no console"
	go h.accept(l)

	ended := make(chan struct{})
	go func() {
		pollFor(t.controller, unix.POLLIN, -1)
		close(ended)
	}()
	go func() {
		select {
		case <-ended:
		case <-ctx.Done():
		}
		t.Host.SetReadDeadline(time.Unix(1, 0))
	}()
	mark := &mark{}
	if t.init != nil && t.Inner != nil {
		news := trace(t.controller, t.init.pidfd)
		defer news.tell()
		go func() {
			select {
			case <-news.held:
				mark.pass(t.Inner, ended)
				news.tell()
			case <-ended:
			}
		}()
	}
	keep := func(p []byte) {
		if len(p) > 0 {
			p = bytes.Clone(p)
			h.broadcast(p)
			log.put(p)
		}
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := t.Host.Read(buf)
		keep(mark.cut(buf[:n]))
		switch {
		case err == nil:
		case !proc.Alive(t.controller): // whatever else happened
			drain(t.Host, buf, func(p []byte) { keep(mark.cut(p)) })
			keep(mark.rest())
			drain(t.Inner, buf, keep)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default: // no terminal has been seen to fail; one that does is tried again
			_ = wait.For(ctx, 100*time.Millisecond)
		}
	}
}

// Open opens a container's terminal on the host in raw mode: else its line discipline
// would hand the container's output back as input. controller is the container's
// libvirt_lxc, which has the terminal. It is ErrEnded when there is no such process any
// more, or its number is another's by now.
func Open(controller int) (*Terminal, error) {
	fd, err := unix.PidfdOpen(controller, 0)
	if err != nil {
		return nil, ErrEnded
	}
	t := &Terminal{pid: controller, controller: os.NewFile(uintptr(fd), "pidfd")}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", controller))
	if err != nil || strings.TrimSpace(string(comm)) != "libvirt_lxc" || !proc.Alive(t.controller) {
		t.Close()
		return nil, ErrEnded
	}
	if t.Ends, err = tty.Borrow(controller, t.controller); err == nil && t.Host == nil {
		err = ErrEnded
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	if _, err := term.MakeRaw(int(t.Host.Fd())); err != nil {
		t.Close()
		return nil, fmt.Errorf("cannot set up the console: %w", err)
	}
	return t, nil
}

// drain reads what is left. The kernel hands a terminal's data over by a worker: a
// moment without any is not the end of it.
func drain(f *os.File, buf []byte, keep func([]byte)) {
	if f == nil {
		return
	}
	for {
		f.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := f.Read(buf)
		keep(buf[:n])
		if err != nil || n == 0 {
			return
		}
	}
}

// listen makes the socket; the one of a process before us that was killed goes. A
// socket's path holds 107 bytes: it is bound through its directory's descriptor.
func listen(path string) (*net.UnixListener, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("cannot make the console's socket: %w", err)
	}
	defer dir.Close()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot make the console's socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: procPath(dir, path), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot make the console's socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // by a name that is not good any more then
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot make the console's socket: %w", err)
	}
	return l, nil
}

// procPath is a short name for the file path in an open directory.
func procPath(dir *os.File, path string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
}

// clientBacklog is how many writes a client may be behind before it is let go: a
// client that does not read must not hold up the log.
const clientBacklog = 1024

// hub hands the output to all clients, and their input to the terminal.
type hub struct {
	ends   tty.Ends
	claims *claims

	mu      sync.Mutex
	ended   bool
	clients map[*client]bool
	writers sync.WaitGroup
}

type client struct {
	conn net.Conn
	out  chan []byte
}

func (h *hub) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptor or memory is left, for now
			time.Sleep(100 * time.Millisecond)
			continue
		}
		c := &client{conn, make(chan []byte, clientBacklog)}
		h.mu.Lock()
		if h.ended {
			h.mu.Unlock()
			conn.Close()
			return
		}
		h.clients[c] = true
		h.writers.Add(1)
		h.mu.Unlock()
		go func() {
			defer h.writers.Done()
			defer conn.Close()
			for b := range c.out {
				conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
				if _, err := conn.Write(b); err != nil {
					h.drop(c)
					return
				}
			}
		}()
		go func() {
			defer h.drop(c)
			h.serve(conn)
		}()
	}
}

// serve passes what a client sends on to the terminal.
func (h *hub) serve(conn net.Conn) {
	for {
		kind, data, err := readFrame(conn)
		if err != nil {
			return
		}
		switch kind {
		case frameSize:
			if h.ends.Inner != nil { // libvirt does not pass on the size of the one outside
				tty.Resize(h.ends.Inner, &unix.Winsize{Row: binary.BigEndian.Uint16(data), Col: binary.BigEndian.Uint16(data[2:])})
			}
			continue
		case frameClaim:
			h.claims.take(string(data))
			continue
		case frameUnclaim:
			h.claims.drop(string(data))
			continue
		case frameFreeze:
			h.guard(conn, string(data))
			return
		}
		// A container that does not read its console must not hold us for ever.
		h.ends.Host.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := h.ends.Host.Write(data); err != nil {
			return
		}
	}
}

// broadcast gives all clients what must not change any more.
func (h *hub) broadcast(b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.clients {
		select {
		case c.out <- b:
		default:
			delete(h.clients, c)
			close(c.out)
			c.conn.Close()
		}
	}
}

func (h *hub) drop(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clients[c] {
		delete(h.clients, c)
		close(c.out)
	}
}

// end lets every client have what was sent to it, if it takes that in good time.
func (h *hub) end() {
	h.mu.Lock()
	h.ended = true
	for c := range h.clients {
		delete(h.clients, c)
		close(c.out)
		defer time.AfterFunc(patience, func() { c.conn.Close() }).Stop()
	}
	h.mu.Unlock()
	h.writers.Wait()
}
