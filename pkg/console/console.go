// Package console keeps the console of a container: a small process for each writes
// what the container prints to a bounded log and serves a socket, at which the console
// can be joined.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/lxcboot/lxcboot/pkg/proc"
)

// Options say where a container's console goes.
type Options struct {
	LogPath    string   // mode 0600; the part before it is kept as LogPath.1
	MaxBytes   int64    // of both together; 0: DefaultLogBytes
	SocketPath string   // mode 0600, for Attach; its directory is private
	Ended      []string // what is run when the container has ended, to release what the host holds for it
}

// ErrEnded says that a terminal is not, or no longer, a running container's.
var ErrEnded = errors.New("the container has ended")

// Terminal is the console of a running container, and what is needed so that nothing
// of it is lost: a terminal drops what was not read yet when its other end closes. So
// the other end, which libvirt_lxc holds, is held here too, as is its end of the
// terminal inside; the end is seen by that process having ended, and then the rest is
// read. Only what libvirt_lxc had in hand is lost, at most 1 KiB, when the container
// ends amid a burst of output.
type Terminal struct {
	tty   *os.File
	owner *ttyOwner
}

// Close lets go of the terminal.
func (t *Terminal) Close() {
	closeFile(t.tty)
	t.owner.Close()
}

// serve keeps the console of one container until that has ended: what it prints goes
// to the bounded log and to all clients of the socket, and what they type goes to the
// container. It returns nil when all that was printed is written.
func (t *Terminal) serve(ctx context.Context, o Options, l net.Listener) error {
	tty, owner := t.tty, t.owner
	log, err := openLog(o.LogPath, o.MaxBytes)
	if err != nil {
		l.Close()
		return err
	}
	defer log.Close()
	h := &hub{tty: tty, owner: owner, clients: map[*client]bool{}}
	defer h.end()
	defer l.Close()
	defer os.Remove(o.SocketPath) // first of the three: whoever finds it gone need not ask
	go h.accept(l)

	ended, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer stop()
		owner.wait() // left behind when ctx ends first
	}()
	defer context.AfterFunc(ended, func() { tty.SetReadDeadline(time.Unix(1, 0)) })()

	buf := make([]byte, 32<<10)
	for {
		n, err := tty.Read(buf)
		if n > 0 {
			h.broadcast(buf[:n])
			if _, err := log.Write(buf[:n]); err != nil {
				return fmt.Errorf("cannot write the console log: %w", err)
			}
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			for _, f := range []*os.File{tty, owner.inner} {
				if err := drain(f, h, log); err != nil {
					return err
				}
			}
			return nil
		case errors.Is(err, unix.EIO), errors.Is(err, io.EOF): // hung up
			return nil
		case err != nil:
			return fmt.Errorf("cannot read the console %s: %w", tty.Name(), err)
		}
	}
}

// Open opens a container's terminal on the host in raw mode: else its line discipline
// would hand the container's output back as input. controller is the container's
// libvirt_lxc, which has the terminal. It is ErrEnded when there is no such process any
// more, or its number is another's by now.
func Open(controller int) (*Terminal, error) {
	owner, err := openOwner(controller)
	if err != nil {
		return nil, err
	}
	t := &Terminal{owner: owner}
	if t.tty, err = owner.borrow(); err != nil {
		t.Close()
		return nil, err
	}
	if _, err := term.MakeRaw(int(t.tty.Fd())); err != nil {
		t.Close()
		return nil, fmt.Errorf("cannot set up the console: %w", err)
	}
	return t, nil
}

// drain writes what is left to read. The kernel hands a terminal's data over by a
// worker: a moment without any is not the end of it.
func drain(tty *os.File, h *hub, log io.Writer) error {
	if tty == nil {
		return nil
	}
	buf := make([]byte, 32<<10)
	for {
		tty.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := tty.Read(buf)
		if n > 0 {
			h.broadcast(buf[:n])
			if _, err := log.Write(buf[:n]); err != nil {
				return fmt.Errorf("cannot write the console log: %w", err)
			}
		}
		if err != nil || n == 0 {
			return nil
		}
	}
}

// ttyOwner is the process that holds the other end of a terminal: libvirt_lxc, the
// container's controller, which carries the bytes on to a terminal inside.
type ttyOwner struct {
	pid    int
	pidfd  *os.File
	master *os.File // the terminal's other end: keeps it from being hung up
	inner  *os.File // the other end of the terminal inside
}

// openOwner takes hold of a container's controller.
func openOwner(controller int) (*ttyOwner, error) {
	fd, err := unix.PidfdOpen(controller, 0)
	if err != nil {
		return nil, ErrEnded
	}
	o := &ttyOwner{pid: controller, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", controller))
	if err != nil || strings.TrimSpace(string(comm)) != "libvirt_lxc" || !proc.Alive(o.pidfd) {
		o.Close()
		return nil, ErrEnded
	}
	return o, nil
}

// borrow takes the process's ends of the two terminals, and opens the one on the host.
func (o *ttyOwner) borrow() (*os.File, error) {
	var host unix.Stat_t
	if err := unix.Stat("/dev/pts", &host); err != nil {
		return nil, fmt.Errorf("cannot open the console: %w", err)
	}
	dir := fmt.Sprintf("/proc/%d/fd", o.pid)
	entries, _ := os.ReadDir(dir)
	var tty *os.File
	for _, e := range entries {
		link, _ := os.Readlink(filepath.Join(dir, e.Name()))
		n, err := strconv.Atoi(e.Name())
		if err != nil || !strings.HasSuffix(link, "ptmx") {
			continue
		}
		fd, err := unix.PidfdGetfd(int(o.pidfd.Fd()), n, 0)
		if err != nil {
			continue
		}
		master := os.NewFile(uintptr(fd), "ptmx")
		var st unix.Stat_t
		slave, err := PTYPeer(fd)
		if err == nil {
			err = unix.Fstat(slave, &st)
		}
		// The terminals inside are in another devpts.
		switch {
		case err == nil && st.Dev == host.Dev && tty == nil:
			o.master = master
			tty, slave = os.NewFile(uintptr(slave), fmt.Sprintf("/dev/pts/%d", unix.Minor(st.Rdev))), -1
		case err == nil && st.Dev != host.Dev && o.inner == nil:
			o.inner = master
		default:
			master.Close()
		}
		if slave >= 0 {
			unix.Close(slave)
		}
	}
	if tty == nil {
		return nil, ErrEnded
	}
	return tty, nil
}

// PTYPeer opens the terminal of a master, whatever its name is here.
func PTYPeer(master int) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// wait returns when the process has ended.
func (o *ttyOwner) wait() {
	fds := []unix.PollFd{{Fd: int32(o.pidfd.Fd()), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(fds, -1); n > 0 || err != nil && err != unix.EINTR {
			return
		}
	}
}

func (o *ttyOwner) Close() {
	closeFile(o.master)
	closeFile(o.inner)
	closeFile(o.pidfd)
}

// resize sets the size of the container's console: of the terminal inside, as
// libvirt does not pass on that of the one outside.
func (o *ttyOwner) resize(size *unix.Winsize) {
	if o.inner != nil {
		Control(o.inner, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
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
	tty   *os.File
	owner *ttyOwner

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
		if err != nil {
			return
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
		data, size, err := readFrame(conn)
		if err != nil {
			return
		}
		if size != nil {
			h.owner.resize(size)
			continue
		}
		// A container that does not read its console must not hold us for ever.
		h.tty.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := h.tty.Write(data); err != nil {
			return
		}
	}
}

func (h *hub) broadcast(b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.clients) == 0 {
		return
	}
	b = append([]byte(nil), b...)
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

// end lets every client have what was sent to it.
func (h *hub) end() {
	h.mu.Lock()
	h.ended = true
	for c := range h.clients {
		delete(h.clients, c)
		close(c.out)
	}
	h.mu.Unlock()
	h.writers.Wait()
}
