package lxc

import (
	"context"
	"errors"
	"fmt"
	"github.com/lxcboot/lxcboot/pkg/wait"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/proc"
)

func (c *container) waitEnd(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(time.Minute); c.console.Alive(); time.Sleep(poll) {
		if time.Now().After(end) {
			t.Fatal("the console process does not end with the container")
		}
	}
	if _, err := os.Lstat(c.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the console's socket is left: %v", err)
	}
}

// waitSleep waits until a container's init has started the program sleep.
func waitSleep(t *testing.T, h *Host, cfg box) {
	t.Helper()
	info, err := h.State(limited(t), cfg.UUID)
	must(t, err)
	for ctx := limited(t); ; must(t, wait.For(ctx, poll)) {
		for _, pid := range children(info.InitPID) {
			if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(comm) == "sleep\n" {
				return
			}
		}
	}
}

// What is printed before anyone listens, and what is printed last, is in the log.
func TestConsoleIsWhole(t *testing.T) {
	h := open(t)
	var all strings.Builder
	fmt.Fprintln(&all, "first line")
	for n := range 3000 {
		fmt.Fprintln(&all, n+1)
	}
	fmt.Fprintln(&all, "very last")
	want := all.String()
	for name, end := range map[string]string{
		"at rest":     "until [ -e /go ]; do /bin/sleep 0.1; done; echo very last",
		"amid output": "echo very last",
	} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				cfg := config(t, "")
				cfg.Init = "/bin/sh"
				cfg.InitArgs = []string{"-c", "echo first line; /bin/seq 1 400; until [ -e /on ]; do /bin/sleep 0.1; done; /bin/seq 401 3000; " + end}
				define(t, h, cfg)
				up(t, h, cfg)
				waitSleep(t, h, cfg) // what comes first is printed by then
				c := serve(t, h, cfg)
				must(t, os.WriteFile(cfg.Root+"/on", nil, 0o644))
				if name == "at rest" {
					c.waitLog(t, "\n3000\n")
					must(t, os.WriteFile(cfg.Root+"/go", nil, 0o644))
				}
				c.waitEnd(t)
				got := c.readLog(t)
				if got != want {
					t.Errorf("%d bytes instead of %d, ending in %q", len(got), len(want), got[max(0, len(got)-60):])
				}
				if st, err := os.Stat(c.log); err != nil || st.Mode() != 0o600 {
					t.Errorf("the log: %v, %v", st.Mode(), err)
				}
				must(t, h.Destroy(limited(t), cfg.UUID))
			}
		})
	}
}

func TestAttachConsole(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	must(t, os.WriteFile(filepath.Join(cfg.Root, "etc/inittab"), []byte("console::respawn:/bin/sh\n"), 0o644))
	c := start(t, h, cfg)
	c.waitLog(t, "/ #")
	if st, err := os.Stat(c.socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", st.Mode(), err)
	}
	var seen [2]buffer
	var ends [2]*io.PipeWriter
	done := make(chan error, 2)
	for i := range seen {
		r, w := io.Pipe()
		ends[i] = w
		go func() { done <- console.Attach(limited(t), c.socket, r, &seen[i], 0x1d) }()
	}
	sees := func(client int, text string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !strings.Contains(seen[client].String(), text); time.Sleep(poll) {
			if time.Now().After(end) {
				t.Fatalf("client %d saw %q, and not %q", client, seen[client].String(), text)
			}
		}
	}
	for i := range seen { // each is there once it has an answer
		fmt.Fprintf(ends[i], "echo $((%d+5)) joined\n", i)
		sees(i, fmt.Sprint(i+5, " joined"))
	}
	fmt.Fprint(ends[0], "echo $((6*7)) answered\n")
	for i := range seen {
		sees(i, "42 answered")
	}
	c.waitLog(t, "42 answered")
	// The detach key ends one, and nothing after it is typed.
	fmt.Fprint(ends[0], "echo be$((1))fore\n\x1decho af$((1))ter\n")
	must(t, <-done)
	c.waitLog(t, "be1fore")
	// The size is the container's.
	ptmx, tty, err := pty.Open()
	must(t, err)
	defer ptmx.Close()
	defer tty.Close()
	must(t, pty.Setsize(ptmx, &pty.Winsize{Rows: 33, Cols: 99}))
	ctx, leave := context.WithCancel(limited(t))
	go func() { done <- console.Attach(ctx, c.socket, tty, io.Discard, 0) }()
	for end := time.Now().Add(time.Minute); !strings.Contains(c.readLog(t), "33 99"); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the size is not passed on: %q", c.readLog(t))
		}
		fmt.Fprint(ends[1], "stty size\n")
	}
	leave()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if strings.Contains(c.readLog(t), "af1ter") {
		t.Error("what came after the detach key was typed")
	}
	// The other ends with the container.
	must(t, h.Destroy(limited(t), c.UUID))
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("a client does not end with the container")
	}
	c.waitEnd(t)
	if err := console.Attach(limited(t), c.socket, strings.NewReader(""), io.Discard, 0); !errors.Is(err, console.ErrNotServed) {
		t.Errorf("attach after the end: %v", err)
	}
}

func dial(t *testing.T, socket string) io.Closer {
	t.Helper()
	dir, err := os.Open(filepath.Dir(socket)) // the path may be longer than a socket's may be
	must(t, err)
	defer dir.Close()
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket)))
	must(t, err)
	return conn
}

// A client that reads nothing holds up neither the log nor the container.
func TestSlowClient(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	cfg.Init = "/bin/sh"
	cfg.InitArgs = []string{"-c", "/bin/sleep 0.5; /bin/seq 1 200000; echo very last; /bin/sleep 100"}
	c := start(t, h, cfg)
	defer dial(t, c.socket).Close()
	c.waitLog(t, "very last")
}

// The console process outlives the command that started it, alone.
func TestConsoleProcess(t *testing.T) {
	h := open(t)
	c := start(t, h, config(t, "echo up"))
	if sid, err := unix.Getsid(c.console.PID); err != nil || sid != c.console.PID {
		t.Errorf("session %d, %v", sid, err)
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", c.console.PID)); err != nil || cwd != "/" {
		t.Errorf("directory %q, %v", cwd, err)
	}
	other := c.console
	other.Start++
	if other.Alive() {
		t.Error("a process with another start time is taken for it")
	}
	must(t, console.Stop(limited(t), other))
	if !c.console.Alive() {
		t.Fatal("another process was stopped")
	}
	must(t, console.Stop(limited(t), c.console))
	must(t, console.Stop(limited(t), c.console))
	must(t, console.Stop(limited(t), proc.Process{}))
	// One that was killed is replaced by the next.
	again := serve(t, h, c.box)
	if info, err := h.State(limited(t), c.UUID); err != nil || info.State != Running {
		t.Errorf("the container ended with its console process: %+v, %v", info, err)
	}
	must(t, unix.Kill(again.console.PID, unix.SIGKILL))
	for again.console.Alive() {
		must(t, wait.For(limited(t), poll))
	}
	third, err := again.keep(t)
	must(t, err)
	must(t, console.Stop(limited(t), third))
}

// What releases a container that has ended is run then, and not when only the process that
// keeps its console is stopped.
func TestConsoleEnded(t *testing.T) {
	h := open(t)
	for _, byItself := range []bool{true, false} {
		cfg := config(t, "")
		cfg.Init, cfg.InitArgs = "/bin/sh", []string{"-c", "echo up; /bin/sleep 100"}
		if byItself {
			cfg.InitArgs[1] = "echo up; until [ -e /go ]; do /bin/sleep 0.1; done"
		}
		c := start(t, h, cfg)
		c.waitLog(t, "up")
		if byItself {
			must(t, os.WriteFile(cfg.Root+"/go", nil, 0o644))
		} else {
			must(t, console.Stop(limited(t), c.console))
		}
		for end := time.Now().Add(time.Minute); c.console.Alive(); time.Sleep(poll) {
			if time.Now().After(end) {
				t.Fatal("the console process goes on")
			}
		}
		if _, err := os.Stat(c.log + ".ended"); (err == nil) != byItself {
			t.Errorf("ended by itself %t: %v", byItself, err)
		}
	}
}

// How a container's init ended is handed to what follows the end, also when the container
// powered itself off, for which the kernel kills its init.
func TestExitStatus(t *testing.T) {
	h := open(t)
	for _, tt := range []struct{ name, script, want string }{
		{"failed", "exit 7", "--status 1792"},
		{"powered off", "/bin/poweroff -f & while :; do /bin/sleep 1; done", "--status 0"},
		{"destroyed", "/bin/sleep 1000", "--status 9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config(t, "")
			cfg.Init, cfg.InitArgs = "/bin/sh", []string{"-c", "until [ -e /go ]; do /bin/sleep 0.1; done; " + tt.script}
			define(t, h, cfg)
			up(t, h, cfg)
			info, err := h.State(t.Context(), cfg.UUID)
			must(t, err)
			terminal, err := console.Open(info.PID)
			must(t, err)
			defer terminal.Close()
			dir := t.TempDir()
			o := console.Options{
				LogPath: filepath.Join(dir, "log"), SocketPath: filepath.Join(dir, "sock"),
				Ended: []string{"/bin/sh", "-c", "echo $0 $* >" + dir + "/ended"},
			}
			must(t, h.withInit(t.Context(), cfg.UUID, func(p *initProc) error { return terminal.HoldInit(p.pid) }))
			keeper, err := console.Start([]string{os.Args[0], "console-serve"}, terminal, o)
			must(t, err)
			must(t, os.WriteFile(cfg.Root+"/go", nil, 0o644))
			if tt.name == "destroyed" {
				must(t, h.Destroy(t.Context(), cfg.UUID))
			}
			for end := time.Now().Add(time.Minute); keeper.Alive(); time.Sleep(poll) {
				if time.Now().After(end) {
					t.Fatal("the console process goes on")
				}
			}
			if got, err := os.ReadFile(filepath.Join(dir, "ended")); strings.TrimSpace(string(got)) != tt.want {
				t.Errorf("%q is handed on instead of %q: %v", got, tt.want, err)
			}
		})
	}
}
