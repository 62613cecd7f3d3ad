package lxc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestExec(t *testing.T) {
	h := open(t)
	c := start(t, h, config(t, ""))
	t.Run("exit codes", func(t *testing.T) {
		for _, tt := range []struct {
			argv []string
			want int
			err  error
		}{
			{[]string{"true"}, 0, nil},
			{[]string{"/bin/false"}, 1, nil},
			{[]string{"sh", "-c", "exit 37"}, 37, nil},
			{[]string{"sh", "-c", "kill -15 $$"}, 128 + 15, nil},
			{[]string{"sh", "-c", "kill -9 $$"}, 128 + 9, nil},
			{[]string{"no-such-program"}, ExitNotFound, ErrNoProgram},
			{[]string{"/etc/passwd/x"}, ExitNotFound, ErrNoProgram},
			{[]string{"/etc"}, ExitNotExecutable, ErrNoProgram},
		} {
			code, out, errs, err := c.try(t, ExecOptions{}, tt.argv...)
			if code != tt.want || !errors.Is(err, tt.err) || (tt.err == nil) != (err == nil) {
				t.Errorf("%q: %d instead of %d, %v (%q %q)", tt.argv, code, tt.want, err, out, errs)
			}
		}
	})
	t.Run("streams", func(t *testing.T) {
		code, out, errs := c.run(t, ExecOptions{Stdin: strings.NewReader("typed")}, "sh", "-c", "cat; echo wrong >&2; exit 3")
		if code != 3 || out != "typed" || errs != "wrong\n" {
			t.Errorf("%d %q %q", code, out, errs)
		}
		big := strings.Repeat("0123456789abcdef", 1<<16)
		if _, out, _ := c.run(t, ExecOptions{Stdin: strings.NewReader(big)}, "cat"); out != big {
			t.Errorf("%d bytes of %d came back", len(out), len(big))
		}
		if _, out, _ := c.run(t, ExecOptions{}, "cat"); out != "" {
			t.Errorf("no input gave %q", out)
		}
		// What a program leaves behind holds its output open; it is not waited for.
		began := time.Now()
		if _, out, _ := c.run(t, ExecOptions{}, "sh", "-c", "sleep 60 & echo done"); out != "done\n" || time.Since(began) > 20*time.Second {
			t.Errorf("%q after %s", out, time.Since(began))
		}
	})
	t.Run("place", func(t *testing.T) {
		_, out, _ := c.run(t, ExecOptions{}, "sh", "-c", "cat /proc/self/cgroup; ls -l /proc/self/ns; echo $PPID; ls /proc/self/fd; cat /proc/self/limits")
		_, init, _ := c.run(t, ExecOptions{}, "sh", "-c", "cat /proc/1/cgroup; ls -l /proc/1/ns; echo 0; ls /proc/self/fd; cat /proc/1/limits")
		drop := func(s string) (kept []string) { // dates, and the process's own number
			for line := range strings.Lines(s) {
				f := strings.Fields(line)
				if len(f) > 3 && f[len(f)-2] == "->" {
					f = f[len(f)-3:]
				}
				kept = append(kept, strings.Join(f, " "))
			}
			return kept
		}
		if diff := cmp.Diff(drop(init), drop(out)); diff != "" {
			t.Errorf("-init +exec:\n%s", diff)
		}
		if !strings.Contains(out, ":memory:/\n") || !strings.Contains(out, "user:[") {
			t.Errorf("%s", out)
		}
		// Pipes: nothing else comes along.
		if _, out, _ := c.run(t, ExecOptions{}, "sh", "-c", "ls -l /proc/$$/fd"); strings.Count(out, "->") != 3 || strings.Count(out, "pipe:") != 3 {
			t.Errorf("open files: %s", out)
		}
	})
	t.Run("user", func(t *testing.T) {
		for want, user := range map[string]string{
			"uid=0(root) gid=0(root) groups=0(root)":                  "",
			"uid=0(root) gid=0(root) groups=0(root) ":                 "root",
			"uid=1000(bob) gid=1001(bob) groups=10(wheel),1001(bob)":  "bob",
			"uid=1000(bob) gid=1001(bob) groups=10(wheel),1001(bob) ": "1000",
			"uid=1000(bob) gid=10(wheel) groups=10(wheel)":            "bob:wheel",
			"uid=1000(bob) gid=77 groups=77":                          "1000:77",
			"uid=4000 gid=0(root) groups=0(root)":                     "4000",
		} {
			_, out, errs := c.run(t, ExecOptions{User: user}, "id")
			if strings.TrimSpace(out) != strings.TrimSpace(want) {
				t.Errorf("user %q: %q %q", user, out, errs)
			}
		}
		for _, user := range []string{"nobody-here", "bob:nogroup", "70000", "4294967295", "-1"} {
			if code, _, _, err := c.try(t, ExecOptions{User: user}, "id"); err == nil || code != -1 {
				t.Errorf("user %q: %d, %v", user, code, err)
			} else {
				t.Log(err)
			}
		}
		if code, _, _ := c.run(t, ExecOptions{User: "bob"}, "touch", "/etc/x"); code == 0 {
			t.Error("bob may write /etc")
		}
	})
	t.Run("environment", func(t *testing.T) {
		t.Setenv("LXCBOOT_SECRET", "x")
		_, out, _ := c.run(t, ExecOptions{User: "bob", Env: map[string]string{"A": "b c", "HOME": "/tmp"}}, "env")
		if want := "A=b c\nHOME=/tmp\nLOGNAME=bob\nPATH=" + defaultPath + "\nSHELL=/bin/sh\nUSER=bob\n"; out != want {
			t.Errorf("%q", out)
		}
		if _, _, _, err := c.try(t, ExecOptions{Env: map[string]string{"A=B": ""}}, "env"); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
	})
	t.Run("directory", func(t *testing.T) {
		for dir, want := range map[string]string{"": "/home/bob\n", "/etc": "/etc\n"} {
			if _, out, _ := c.run(t, ExecOptions{User: "bob", Dir: dir}, "pwd"); out != want {
				t.Errorf("%q: %q", dir, out)
			}
		}
		_, _, _, err := c.try(t, ExecOptions{Dir: "/none"}, "pwd")
		if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), `"/none"`) {
			t.Error(err)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		for _, argv := range [][]string{{"sleep", "60"}, {"sh", "-c", "trap '' TERM; while true; do sleep 1; done"}} {
			ctx, cancel := context.WithTimeout(limited(t), 500*time.Millisecond)
			began := time.Now()
			_, err := h.Exec(ctx, c.UUID, ExecOptions{Program: initProgram, Argv: argv})
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
				t.Errorf("%v after %s", err, time.Since(began))
			}
		}
		if _, out, _ := c.run(t, ExecOptions{}, "ps"); strings.Contains(out, "trap") {
			t.Errorf("left: %s", out)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		errs := make(chan error)
		for i := range 16 {
			go func() {
				var out buffer
				code, err := h.Exec(limited(t), c.UUID, ExecOptions{Program: initProgram, Argv: []string{"sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)}, Stdout: &out})
				if code != i || out.String() != fmt.Sprintln(i) {
					err = fmt.Errorf("%d: %d %q %v", i, code, out.String(), err)
				}
				errs <- err
			}()
		}
		for range 16 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestExecTerminal(t *testing.T) {
	h := open(t)
	c := start(t, h, config(t, ""))
	// The user's terminal, whose other end the test holds.
	master, slave, err := pty.Open()
	must(t, err)
	defer master.Close()
	defer slave.Close()
	must(t, pty.Setsize(master, &pty.Winsize{Rows: 41, Cols: 132}))
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(t, err)
	var out buffer
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := h.Exec(limited(t), c.UUID, ExecOptions{
			Program: initProgram, Argv: []string{"sh", "-c", "tty; ls -l $(tty); stty size; echo ready; read x; echo got $x; n=0; until [ \"$(stty size)\" = '20 60' ] || [ $n = 100 ]; do n=$((n+1)); sleep 0.1; done; stty size; exit 5"},
			User: "bob", TTY: true, Stdin: slave, Stdout: &out, Env: map[string]string{"TERM": "vt100"},
		})
		done <- result{code, err}
	}()
	wait := func(text string) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), text); time.Sleep(poll) {
			if time.Now().After(end) {
				t.Fatalf("no %q in %q", text, out.String())
			}
		}
	}
	wait("ready")
	must(t, pty.Setsize(master, &pty.Winsize{Rows: 20, Cols: 60}))
	unix.Kill(os.Getpid(), unix.SIGWINCH)
	fmt.Fprint(master, "hello\r")
	r := <-done
	must(t, r.err)
	got := strings.ReplaceAll(out.String(), "\r\n", "\n")
	for _, want := range []string{"/dev/pts/", "bob", "41 132\n", "got hello\n", "20 60\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if r.code != 5 {
		t.Errorf("exit code %d", r.code)
	}
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the terminal was left changed: %s", diff)
	}
	// The end of input that is no terminal is passed on.
	code, text, _ := c.run(t, ExecOptions{TTY: true, Stdin: strings.NewReader("typed\n")}, "sh", "-c", "cat; echo over")
	if code != 0 || !strings.Contains(text, "typed\r\ntyped\r\nover") {
		t.Errorf("%d %q", code, text)
	}
}

// What the container has under the names that are looked at is not what they
// promise: nothing outside is read or opened, and nothing hangs.
func TestExecHostile(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("mallory:x:4711:4711::/:/bin/sh\n"), 0o644))
	must(t, os.Remove(cfg.Root+"/etc/passwd"))
	must(t, os.Symlink(strings.Repeat("../", 20)+secret, cfg.Root+"/etc/passwd"))
	must(t, os.Remove(cfg.Root+"/etc/group"))
	must(t, unix.Mkfifo(cfg.Root+"/etc/group", 0o666))
	c := start(t, h, cfg)
	if _, _, _, err := c.try(t, ExecOptions{User: "mallory"}, "id"); !errors.Is(err, ErrInvalid) {
		t.Errorf("a file outside was read: %v", err)
	}
	if _, out, _ := c.run(t, ExecOptions{}, "echo", "ok"); out != "ok\n" {
		t.Errorf("%q", out)
	}
	c.run(t, ExecOptions{}, "umount", "/dev/pts")
	if _, _, _, err := c.try(t, ExecOptions{TTY: true}, "tty"); err == nil {
		t.Error("a terminal was made of what is none")
	} else {
		t.Log(err)
	}
	// A container that has ended cannot be entered, nor can what has its number.
	must(t, h.Destroy(limited(t), c.UUID))
	for _, pid := range []int{c.InitPID, os.Getpid()} {
		if _, err := openInit(pid); !errors.Is(err, ErrNotRunning) {
			t.Error(err)
		}
	}
	if _, err := h.Exec(limited(t), c.UUID, ExecOptions{Program: initProgram, Argv: []string{"true"}}); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
}
