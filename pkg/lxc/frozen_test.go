package lxc

import (
	"bytes"
	"context"
	"errors"
	"github.com/lxcboot/lxcboot/pkg/wait"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// A libvirtd that is there and does not answer is given up, also by Close.
func TestFrozenDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	was := openLimit
	openLimit = 300 * time.Millisecond
	defer func() { openLimit = was }()
	done := make(chan error, 1)
	go func() {
		h := Dial(t.Context(), "lxc:///?socket="+path)
		defer h.Close()
		done <- h.Ready(t.Context())
	}()
	select {
	case err := <-done:
		if !errors.Is(err, ErrNoDaemon) {
			t.Errorf("%v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it is waited for without a limit")
	}
}

// holdingBack passes connections on to libvirtd, whose answers it holds back from hold()
// on until pass().
func holdingBack(t *testing.T) (uri string, hold, pass func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	var answers sync.Mutex
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", "/run/libvirt/libvirt-sock")
			if err != nil {
				t.Error(err)
				return
			}
			go func() { io.Copy(server, client); server.Close() }()
			go func() {
				defer client.Close()
				for b := make([]byte, 1<<16); ; {
					n, err := server.Read(b)
					if err != nil {
						return
					}
					answers.Lock()
					client.Write(b[:n])
					answers.Unlock()
				}
			}()
		}
	}()
	return "lxc:///?socket=" + path, answers.Lock, answers.Unlock
}

// A call that was left behind comes to its end later, and nobody reads what it found: the
// race detector sees whether anybody could.
func TestLeftBehind(t *testing.T) {
	uri, hold, pass := holdingBack(t)
	h := dialTo(t, uri)
	cfg := config(t, "")
	define(t, h, cfg)
	hold()
	var all sync.WaitGroup
	for what, call := range map[string]func(context.Context) (any, error){
		"State":   func(ctx context.Context) (any, error) { return h.State(ctx, cfg.UUID) },
		"ByName":  func(ctx context.Context) (any, error) { return h.ByName(ctx, cfg.Name) },
		"Network": func(ctx context.Context) (any, error) { return h.Network(ctx, "default") },
		"Usage":   func(ctx context.Context) (any, error) { return h.Usage(ctx, cfg.UUID) },
	} {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if got, err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %+v, %v", what, got, err)
			}
		})
	}
	all.Wait()
	pass()
	// Nothing is asked of libvirt until they are over: to the race detector, each of its
	// calls is after the earlier ones.
	left := func() bool {
		stacks := make([]byte, 1<<20)
		return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("pkg/lxc.do["))
	}
	for ctx := limited(t); left(); {
		must(t, wait.For(ctx, poll))
	}
}
