package cmd

import (
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// TestProgress holds that a terminal sees how far it is, and nothing of it afterwards.
func TestProgress(t *testing.T) {
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	defer tty.Close()
	step, finish := (&App{Err: tty}).progress("importing a\x1bb")
	step(1, 2)
	step(1, 2)
	step(0, 0)
	finish()
	const clear, end = "\r\x1b[K", "end"
	tty.WriteString(end)
	ptmx.SetReadDeadline(time.Now().Add(10 * time.Second))
	var got strings.Builder
	for buf := make([]byte, 1024); !strings.HasSuffix(got.String(), end); {
		n, err := ptmx.Read(buf)
		if err != nil {
			t.Fatalf("%q: %v", got.String(), err)
		}
		got.Write(buf[:n])
	}
	what := "importing a\\x1bb"
	if want := clear + what + ": 50%" + clear + what + ": 0 MiB" + clear + end; got.String() != want || strings.Contains(what, "\x1b") {
		t.Errorf("got %q, want %q", got.String(), want)
	}
	if step, _ := (&App{Err: tty, quiet: true}).progress("x"); step != nil {
		t.Error("quiet, and there is progress")
	}
}
