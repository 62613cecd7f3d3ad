package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"libvirt.org/go/libvirt"
)

// DefaultURI is libvirt's LXC driver on this host.
const DefaultURI = "lxc:///"

// callLimit is how long libvirt may take for one call, whatever the caller's
// context says: a libvirtd that hangs must not hang us.
const callLimit = 2 * time.Minute

// openLimit and closeLimit are the same for the first call and for the last.
var openLimit, closeLimit = 30 * time.Second, 5 * time.Second

var errNoAnswer = errors.New("no answer")

func noAnswer(limit time.Duration) error { return fmt.Errorf("%w within %s", errNoAnswer, limit) }

// Host is a connection to libvirt. It is safe for use by several goroutines, and
// connects anew when libvirtd was restarted.
type Host struct {
	uri    string
	ready  chan struct{} // closed when Dial has come to an end
	failed error         // then: why it failed

	mu     sync.Mutex // not held while libvirt is waited for
	conn   *libvirt.Connect
	closed bool
}

// Open connects to libvirt; an empty uri is DefaultURI. It fails with ErrNoDaemon
// or ErrNoDriver. The Host must be closed.
func Open(ctx context.Context, uri string) (*Host, error) {
	h := Dial(ctx, uri)
	if err := h.Ready(ctx); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// Dial is Open that does not wait: whatever is asked of the Host first waits for the
// connection, and fails as Open would.
func Dial(ctx context.Context, uri string) *Host {
	if uri == "" {
		uri = DefaultURI
	}
	h := &Host{uri: uri, ready: make(chan struct{})}
	go func() {
		defer close(h.ready)
		ctx, cancel := context.WithTimeoutCause(ctx, openLimit, noAnswer(openLimit))
		defer cancel()
		h.failed = h.do(ctx, uri, func(conn *libvirt.Connect) error {
			if strings.HasPrefix(uri, "lxc:") {
				return nil // libvirtd has chosen the driver by it
			}
			if kind, err := conn.GetType(); err != nil || kind != "LXC" {
				return errors.Join(err, fmt.Errorf("%w (%s is a connection to %s)", ErrNoDriver, uri, kind))
			}
			return nil
		})
	}()
	return h
}

// Ready waits for the connection, and says why there is none.
func (h *Host) Ready(ctx context.Context) error {
	select {
	case <-h.ready:
		return h.failed
	case <-ctx.Done():
		return timeout(ctx)
	}
}

// Close ends the connection. What still waits for libvirt is left behind, and so is
// the connection when libvirtd does not answer any more.
func (h *Host) Close() {
	h.mu.Lock()
	conn := h.conn
	h.conn, h.closed = nil, true
	h.mu.Unlock()
	if conn == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn.Close()
	}()
	select {
	case <-done:
	case <-time.After(closeLimit):
	}
}

// connect gives the connection with a reference of its own. Unless it is stale, it
// is the one that was there.
func (h *Host) connect(stale *libvirt.Connect) (*libvirt.Connect, error) {
	h.mu.Lock()
	if stale != nil && h.conn == stale {
		defer stale.Close()
		h.conn = nil
	}
	if h.conn != nil {
		defer h.mu.Unlock()
		return h.conn, h.conn.Ref()
	}
	h.mu.Unlock()
	conn, err := libvirt.NewConnect(h.uri)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != nil || h.closed { // another call was faster, or nobody wants it any more
		return conn, nil
	}
	h.conn = conn
	return conn, conn.Ref()
}

// call runs f with the connection until it is done or ctx is; libvirt's calls
// know no context, so that f may go on by itself after that. When libvirtd was
// restarted since, f runs a second time: it must bear that. what names in errors
// the thing that is meant.
func (h *Host) call(ctx context.Context, what string, f func(*libvirt.Connect) error) error {
	if err := h.Ready(ctx); err != nil {
		return err
	}
	return h.do(ctx, what, f)
}

// do is call, also for Dial itself.
func (h *Host) do(ctx context.Context, what string, f func(*libvirt.Connect) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callLimit, noAnswer(callLimit))
	defer cancel()
	if ctx.Err() != nil {
		return timeout(ctx)
	}
	done := make(chan error, 1)
	go func() {
		var stale *libvirt.Connect
		for try := 0; ; try++ {
			conn, err := h.connect(stale)
			if err == nil {
				err = f(conn)
				conn.Close()
			}
			if stale = conn; try == 1 || conn == nil || !disconnected(err) || ctx.Err() != nil {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		return translate(err, what)
	case <-ctx.Done():
		return timeout(ctx)
	}
}

// change is call for what changes something. Once begun it is waited for, whatever
// becomes of ctx: left behind, it could still happen after it was undone.
func (h *Host) change(ctx context.Context, what string, f func(*libvirt.Connect) error) error {
	if ctx.Err() != nil {
		return timeout(ctx)
	}
	return h.call(context.WithoutCancel(ctx), what, f)
}

// domain runs f with the domain of an id.
func (h *Host) domain(ctx context.Context, id string, f func(*libvirt.Domain) error) error {
	return h.call(ctx, id, withDomain(id, f))
}

// changeDomain is change for the domain of an id.
func (h *Host) changeDomain(ctx context.Context, id string, f func(*libvirt.Domain) error) error {
	return h.change(ctx, id, withDomain(id, f))
}

func withDomain(id string, f func(*libvirt.Domain) error) func(*libvirt.Connect) error {
	return func(conn *libvirt.Connect) error {
		dom, err := conn.LookupDomainByUUIDString(id)
		if err != nil {
			return err
		}
		defer dom.Free()
		return f(dom)
	}
}

// isCode says whether an error is libvirt's of that code.
func isCode(err error, code libvirt.ErrorNumber) bool {
	var lv libvirt.Error
	return errors.As(err, &lv) && lv.Code == code
}

// CanLimitSwap says why a container cannot be given swap; nil when it can.
func (h *Host) CanLimitSwap() error {
	for _, file := range []string{"/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "/sys/fs/cgroup/machine.slice/memory.swap.max", "/sys/fs/cgroup/system.slice/memory.swap.max"} {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
	}
	return errors.New("this host's kernel does not count swap (swapaccount=1 on its command line, where it can)")
}
