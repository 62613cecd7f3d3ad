package proc

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// started starts a program, reaps it at its end, and takes hold of it.
func started(t *testing.T, name string, args ...string) *os.File {
	t.Helper()
	cmd := exec.Command(name, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		f.Close()
	})
	if name == "sh" { // it says when its traps are set
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestEnd(t *testing.T) {
	const hear, deaf = `trap "exit 0" TERM; echo; while :; do sleep 0.01; done`, `trap "" TERM; echo; while :; do sleep 0.01; done`
	kill := Push{unix.SIGKILL, 30 * time.Second}
	for name, c := range map[string]struct {
		script string
		pushes []Push
		want   error
	}{
		"heard":           {hear, []Push{{unix.SIGTERM, 30 * time.Second}}, nil},
		"by itself":       {"echo; exit", []Push{{0, 30 * time.Second}}, nil},
		"killed at last":  {deaf, []Push{{unix.SIGTERM, 50 * time.Millisecond}, kill}, nil},
		"stays":           {deaf, []Push{{0, 0}, {unix.SIGTERM, 50 * time.Millisecond}}, ErrStays},
		"without a push":  {deaf, nil, ErrStays},
		"only looked for": {deaf, []Push{{0, time.Millisecond}}, ErrStays},
	} {
		t.Run(name, func(t *testing.T) {
			f := started(t, "sh", "-c", c.script)
			if err := End(t.Context(), f, c.pushes...); err != c.want {
				t.Fatalf("%v instead of %v", err, c.want)
			}
			if Alive(f) != (c.want != nil) {
				t.Errorf("alive: %v", Alive(f))
			}
			if c.want == nil { // once more is done
				if err := End(t.Context(), f, kill); err != nil {
					t.Error(err)
				}
				if err := WaitEnd(t.Context(), f); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	f := started(t, "sleep", "1000")
	if err := WaitEnd(ctx, f); err != why {
		t.Errorf("wait: %v", err)
	}
	if err := End(ctx, f, Push{0, time.Hour}, Push{unix.SIGKILL, time.Hour}); err != why || !Alive(f) {
		t.Errorf("end: %v", err)
	}
}

func TestOpenAndSignal(t *testing.T) {
	for _, pid := range []int{0, -1, 1 << 30} {
		if f, err := Open(pid); err != os.ErrProcessDone {
			f.Close()
			t.Errorf("process %d: %v", pid, err)
		}
	}
	f := started(t, "sleep", "1000")
	if err := Signal(f, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	limited, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := WaitEnd(limited, f); err != nil {
		t.Fatal(err)
	}
}

// Where no descriptor is to be had, a process is not taken for one that has ended.
func TestOutOfDescriptors(t *testing.T) {
	self, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	none := old
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, err = self.Open()
	alive := self.Alive()
	if e := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(err, unix.EMFILE) || !alive {
		t.Errorf("%v, alive: %v", err, alive)
	}
}
