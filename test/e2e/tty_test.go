//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
)

// A terminal is one that a script's user sits at.
type terminal struct {
	cmd  *exec.Cmd
	ptmx *os.File
	done chan struct{} // closed when the program has ended

	mu    sync.Mutex
	shown []byte
	seen  int // how much of it was expected already
}

func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shown = append(t.shown, p...)
	return len(p), nil
}

// rest is what was shown and not yet expected.
func (t *terminal) rest() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.shown[t.seen:])
}

// wait says whether the program ends in time.
func (t *terminal) wait(limit time.Duration) bool {
	select {
	case <-t.done:
		return true
	case <-time.After(limit):
		return false
	}
}

// tty NAME PROGRAM ARGS...: starts the program on a terminal of its own, which ends
// with the script.
func tty(ts *testscript.TestScript, neg bool, args []string) {
	t := &terminal{cmd: exec.Command(args[1], args[2:]...), done: make(chan struct{})}
	t.cmd.Dir = ts.MkAbs(".")
	t.cmd.Env = os.Environ()
	for _, name := range []string{"LXCBOOT_STATE_DIR", "LXCBOOT_RUN_DIR", "LXCBOOT_CONNECT", "LXCBOOT_CONFIG"} {
		t.cmd.Env = append(t.cmd.Env, name+"="+ts.Getenv(name))
	}
	if ts.Getenv("LXCBOOT_CONNECT") == "" {
		t.cmd.Env = append(t.cmd.Env, "LXCBOOT_CONNECT=lxc:///")
	}
	var err error
	t.ptmx, err = pty.StartWithSize(t.cmd, &pty.Winsize{Rows: 33, Cols: 101})
	ts.Check(err)
	go func() {
		defer close(t.done)
		buf := make([]byte, 4096)
		for {
			n, err := t.ptmx.Read(buf)
			t.Write(buf[:n])
			if err != nil { // the last one that had the terminal open has ended
				break
			}
		}
		_ = t.cmd.Wait()
		t.ptmx.Close()
	}()
	h := of(ts)
	h.terminals[args[0]] = t
	h.undo = append(h.undo, func() {
		if !t.wait(0) {
			_ = t.cmd.Process.Kill()
			t.wait(5 * time.Second)
		}
	})
}

func terminalOf(ts *testscript.TestScript, name string) *terminal {
	t := of(ts).terminals[name]
	if t == nil {
		ts.Fatalf("there is no terminal %s", name)
	}
	return t
}

// type NAME TEXT: types the text, in which Go's escapes stand for keys: \r is Enter.
func typeIn(ts *testscript.TestScript, neg bool, args []string) {
	text, err := strconv.Unquote(`"` + strings.ReplaceAll(args[1], `"`, `\"`) + `"`)
	ts.Check(err)
	_, err = terminalOf(ts, args[0]).ptmx.WriteString(text)
	ts.Check(err)
}

// expect NAME PATTERN: waits until the terminal shows it, after what was expected
// before.
func expect(ts *testscript.TestScript, neg bool, args []string) {
	t := terminalOf(ts, args[0])
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	for range 300 {
		if at := pattern.FindStringIndex(t.rest()); at != nil {
			t.mu.Lock()
			t.seen += at[1]
			t.mu.Unlock()
			return
		}
		if t.wait(100 * time.Millisecond) {
			if !pattern.MatchString(t.rest()) {
				break
			}
		}
	}
	ts.Fatalf("terminal %s does not show it, but %q", args[0], t.rest())
}

// ended NAME N: the program of the terminal ends with exit code N, or with one of
// N|M|…; -1 is by a signal.
func ended(ts *testscript.TestScript, neg bool, args []string) {
	t := terminalOf(ts, args[0])
	if !t.wait(30 * time.Second) {
		ts.Fatalf("%s does not end; its terminal shows %q", args[0], t.rest())
	}
	if got := strconv.Itoa(t.cmd.ProcessState.ExitCode()); !slices.Contains(strings.Split(args[1], "|"), got) {
		ts.Fatalf("%s: exit code %s, not %s: %q", args[0], got, args[1], t.rest())
	}
}
