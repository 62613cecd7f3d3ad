package cmd

import (
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// TestProgress holds that a terminal sees how far something is that takes long, how fast it
// goes and how long it takes, and nothing of it afterwards; and nothing at all of what is done
// at once.
func TestProgress(t *testing.T) {
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	defer tty.Close()
	const mib, end = 1 << 20, "end"
	at := time.Now()
	m := &meter{a: &App{Err: tty}, what: "importing a", now: func() time.Time { return at }, began: at}
	m.step(mib, 100*mib) // at once: not shown
	at = at.Add(2 * time.Second)
	m.step(21*mib, 100*mib)
	at = at.Add(time.Millisecond)
	m.step(22*mib, 100*mib) // too soon
	at = at.Add(3 * time.Second)
	m.step(51*mib, 0)
	m.finish()
	step, finish := (&App{Err: tty}).progress("quick")
	step(1, 2)
	finish()
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
	want := clearLine + "importing a: 21% of 100.0 MiB, 10.0 MiB/s, 8s left" + clearLine + "importing a: 51.0 MiB, 10.0 MiB/s" + clearLine + end
	if got.String() != want {
		t.Errorf("got %q, want %q", got.String(), want)
	}
	if step, _ := (&App{Err: tty, quiet: true}).progress("x"); step != nil {
		t.Error("quiet, and there is progress")
	}
}
