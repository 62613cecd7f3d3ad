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

// openLimit is the same for the first call.
var openLimit = 30 * time.Second

var errNoAnswer = errors.New("no answer")

func noAnswer(limit time.Duration) error { return fmt.Errorf("%w within %s", errNoAnswer, limit) }

// Host is a connection to libvirt. It is safe for use by several goroutines, and
// connects anew when libvirtd was restarted.
type Host struct {
	uri    string
	ready  chan struct{} // closed when Dial has come to an end
	failed error         // then: why it failed

	mu   sync.Mutex // not held while libvirt is waited for
	conn *libvirt.Connect
}

// Dial connects to libvirt; an empty uri is DefaultURI. It does not wait: whatever is
// asked of the Host first waits for the connection, and fails with ErrNoDaemon or
// ErrNoDriver when there is none.
func Dial(ctx context.Context, uri string) *Host {
	if uri == "" {
		uri = DefaultURI
	}
	h := &Host{uri: uri, ready: make(chan struct{})}
	go func() {
		defer close(h.ready)
		ctx, cancel := context.WithTimeoutCause(ctx, openLimit, noAnswer(openLimit))
		defer cancel()
		_, h.failed = do(ctx, h, uri, valueless(func(conn *libvirt.Connect) error {
			if strings.HasPrefix(uri, "lxc:") {
				return nil // libvirtd has chosen the driver by it
			}
			if kind, err := conn.GetType(); err != nil || kind != "LXC" {
				return errors.Join(err, fmt.Errorf("%w (%s is a connection to %s)", ErrNoDriver, uri, kind))
			}
			return nil
		}))
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
	// Of another call, the same would say that something else is not supported.
	var lv libvirt.Error
	if errors.As(err, &lv) && (lv.Code == libvirt.ERR_NO_CONNECT || lv.Code == libvirt.ERR_CONFIG_UNSUPPORTED) {
		return nil, fmt.Errorf("%w (%s)", ErrNoDriver, cause(lv.Message))
	}
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != nil { // another call was faster
		return conn, nil
	}
	h.conn = conn
	return conn, conn.Ref()
}

// ask runs f with the connection, and gives what it returns, until ctx ends; libvirt's
// calls know no context, so that f may go on by itself after that: it writes nothing that
// its caller reads. When libvirtd was restarted since, f runs a second time: it must bear
// that. what names in errors the thing that is meant.
func ask[T any](ctx context.Context, h *Host, what string, f func(*libvirt.Connect) (T, error)) (T, error) {
	if err := h.Ready(ctx); err != nil {
		var none T
		return none, err
	}
	return do(ctx, h, what, f)
}

// do is ask, also for Dial itself.
func do[T any](ctx context.Context, h *Host, what string, f func(*libvirt.Connect) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	ctx, cancel := context.WithTimeoutCause(ctx, callLimit, noAnswer(callLimit))
	defer cancel()
	if ctx.Err() != nil {
		return answer{}.value, timeout(ctx)
	}
	done := make(chan answer, 1)
	go func() {
		var stale *libvirt.Connect
		for try := 0; ; try++ {
			var a answer
			var conn *libvirt.Connect
			if conn, a.err = h.connect(stale); a.err == nil {
				a.value, a.err = f(conn)
				conn.Close()
			}
			if stale = conn; try == 1 || conn == nil || !disconnected(a.err) || ctx.Err() != nil {
				done <- a
				return
			}
		}
	}()
	select {
	case a := <-done:
		return a.value, translate(a.err, what)
	case <-ctx.Done():
		return answer{}.value, timeout(ctx)
	}
}

// change is ask for what changes something. Once begun it is waited for, whatever
// becomes of ctx: left behind, it could still happen after it was undone.
func change[T any](ctx context.Context, h *Host, what string, f func(*libvirt.Connect) (T, error)) (T, error) {
	if ctx.Err() != nil {
		var none T
		return none, timeout(ctx)
	}
	return ask(context.WithoutCancel(ctx), h, what, f)
}

// domain runs f with the domain of an id.
func (h *Host) domain(ctx context.Context, id string, f func(*libvirt.Domain) error) error {
	_, err := ask(ctx, h, id, withDomain(id, valueless(f)))
	return err
}

// changeDomain is domain for what changes something.
func (h *Host) changeDomain(ctx context.Context, id string, f func(*libvirt.Domain) error) error {
	_, err := change(ctx, h, id, withDomain(id, valueless(f)))
	return err
}

// withDomain makes a call of what wants the domain of an id.
func withDomain[T any](id string, f func(*libvirt.Domain) (T, error)) func(*libvirt.Connect) (T, error) {
	return func(conn *libvirt.Connect) (value T, err error) {
		dom, err := conn.LookupDomainByUUIDString(id)
		if err != nil {
			return value, err
		}
		defer dom.Free()
		return f(dom)
	}
}

// valueless gives what only succeeds or fails a value.
func valueless[A any](f func(A) error) func(A) (struct{}, error) {
	return func(a A) (struct{}, error) { return struct{}{}, f(a) }
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
