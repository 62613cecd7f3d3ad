package lxc

import (
	"context"
	"errors"
	"fmt"
	"github.com/lxcboot/lxcboot/pkg/wait"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A home or working directory that is a name for what lxcboot has open leads nowhere.
func TestExecStaysInside(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	var passwd strings.Builder
	// Open in this process, as it is in a script that has a lock, and not closed on exec.
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "secret"), "of the host")
	dir, err := os.Open(host)
	must(t, err)
	defer dir.Close()
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD, 20) // without FD_CLOEXEC
	must(t, err)
	defer unix.Close(fd)
	for n := 3; n <= fd; n++ {
		fmt.Fprintf(&passwd, "fd%d:x:0:0::/proc/self/fd/%d:/bin/sh\n", n, n)
	}
	fmt.Fprint(&passwd, "out:x:0:0::/proc/self/fd/3/../../..:/bin/sh\n")
	must(t, os.WriteFile(cfg.Root+"/etc/passwd", []byte(passwd.String()), 0o644))
	c := start(t, h, cfg)
	for n := 3; n <= fd; n++ {
		if _, out, errs := c.run(t, ExecOptions{User: fmt.Sprint("fd", n)}, "sh", "-c", "pwd; cat secret"); out != "/\n" {
			t.Errorf("home /proc/self/fd/%d: %q %q", n, out, errs)
		}
		if _, out, _, err := c.try(t, ExecOptions{Dir: fmt.Sprint("/proc/self/fd/", n)}, "cat", "secret"); err == nil {
			t.Errorf("directory /proc/self/fd/%d: %q", n, out)
		}
	}
	if _, out, _ := c.run(t, ExecOptions{}, "sh", "-c", "ls -l /proc/$$/fd"); strings.Count(out, "->") != 3 {
		t.Errorf("open files: %s", out)
	}
}

// getcwd is asked even where a name leads to what is still open: cut off here by the
// container's own mounts, as nothing of the host's is.
func TestExecUnreachable(t *testing.T) {
	h := open(t)
	c := start(t, h, config(t, ""))
	// A process of the container in a directory that is no more below its root.
	if code, _, errs := c.run(t, ExecOptions{}, "sh", "-c", `mkdir -p /tmp/gone && mount -t tmpfs none /tmp/gone && mkdir /tmp/gone/in && cd /tmp/gone/in &&
		{ sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >/tmp/pid; } && cd / && umount -l /tmp/gone`); code != 0 {
		t.Fatal(errs)
	}
	_, pid, _ := c.run(t, ExecOptions{}, "cat", "/tmp/pid")
	_, out, _, err := c.try(t, ExecOptions{Dir: "/proc/" + strings.TrimSpace(pid) + "/cwd"}, "ls", "-la")
	if err == nil || !strings.Contains(err.Error(), "out of the container") {
		t.Errorf("%q, %v", out, err)
	}
}

// A container without a user namespace gets hold of what enters it, by having it run
// itself; it can change neither the host's file nor the copy.
func TestExecSealed(t *testing.T) {
	h := open(t)
	cfg := privileged(t, "")
	compile(t, cfg.Root, "writer")
	must(t, os.Symlink("/proc/self/exe", cfg.Root+"/bin/trap"))
	c := start(t, h, cfg)
	before, err := os.ReadFile(initProgram)
	must(t, err)
	writer := make(chan string, 1)
	var out buffer
	go func() {
		_, err := h.Exec(limited(t), c.UUID, ExecOptions{Program: initProgram, Argv: []string{"/bin/writer"}, Stdout: &out})
		writer <- fmt.Sprint(out.String(), err)
	}()
	ends := time.After(45 * time.Second)
	for {
		select {
		case said := <-writer:
			if said != "looking\nOperation not permitted\n<nil>" && said != "looking\nText file busy\n<nil>" {
				t.Errorf("%q", said)
			}
			if after, err := os.ReadFile(initProgram); err != nil || string(after) != string(before) {
				t.Errorf("the host's program was changed: %v", err)
			}
			return
		case <-ends:
			t.Fatal("the writer does not end")
		default:
			// What is run is the program that enters, which does not know what it is to do.
			if code, _, errs := c.run(t, ExecOptions{}, "/bin/trap"); code != 126 || !strings.Contains(errs, programName) {
				t.Fatalf("%d %q", code, errs)
			}
		}
	}
}

// Nothing in the container may look into what enters it, also where no user namespace is in
// between and it has no capability left that the container has not: here that looks for its
// program for a while.
func TestExecNotDumpable(t *testing.T) {
	h := open(t)
	c := start(t, h, privileged(t, ""))
	looks := make(chan string, 1)
	var out buffer
	go func() {
		_, err := h.Exec(limited(t), c.UUID, ExecOptions{Program: initProgram, Stdout: &out, Stderr: &out, Argv: []string{"sh", "-c", `until [ -e /tmp/over ]; do
			for p in /proc/[0-9]*; do
				case $(cat $p/cmdline 2>/dev/null) in ` + programName + `*) cat $p/exe 2>&1 >/dev/null && echo LOOKED ;; esac
			done
		done`}})
		looks <- fmt.Sprint(out.String(), err)
	}()
	for ctx := limited(t); strings.Count(out.String(), "ermission denied") < 20 && !strings.Contains(out.String(), "LOOKED"); {
		must(t, context.Cause(ctx))
		o := ExecOptions{Program: initProgram, Argv: []string{"nowhere"}, Env: map[string]string{"PATH": strings.Repeat("/n:", 40_000)}}
		if _, err := h.Exec(ctx, c.UUID, o); !errors.Is(err, ErrNoProgram) {
			t.Fatal(err)
		}
	}
	c.run(t, ExecOptions{}, "touch", "/tmp/over")
	if said := <-looks; strings.Contains(said, "LOOKED") || !strings.HasSuffix(said, "<nil>") {
		t.Errorf("%s", said)
	}
}

func TestSealed(t *testing.T) {
	f, err := sealed(initProgram)
	must(t, err)
	defer f.Close()
	for what, change := range map[string]func() error{
		"write":    func() error { _, err := f.WriteAt([]byte("x"), 0); return err },
		"append":   func() error { _, err := f.Write([]byte("x")); return err },
		"truncate": func() error { return f.Truncate(0) },
		"grow":     func() error { return f.Truncate(1 << 30) },
		"reopen": func() error {
			w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer w.Close()
			_, err = w.Write([]byte("x"))
			return err
		},
		"unseal": func() error { _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, 0); return err },
	} {
		if err := change(); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A container that ends or has no memory while it is entered is not running, in words.
func TestExecConflict(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	cfg.MemoryMiB = 16
	c := start(t, h, cfg)
	conflict := func(what string, err error, words string) {
		t.Helper()
		if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), ErrNotRunning.Error()) {
			t.Errorf("%s: %v", what, err)
		}
	}
	p, err := findInit(c.PID)
	must(t, err)
	defer p.Close()
	for errno, words := range map[unix.Errno]string{unix.ENOMEM: "no memory", unix.EAGAIN: "as many processes", unix.ESRCH: "ended or was started anew", unix.ENODEV: "ended or was started anew"} {
		conflict(errno.Error(), p.explain(&enterError{enterNamespaces, errno, &entry{}}), words)
	}
	if err := p.explain(&enterError{enterUser, unix.EINVAL, &entry{}}); errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
	// The program that enters is killed before it has come to run anything.
	script := filepath.Join(t.TempDir(), "killed")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\nkill -9 $$\n"), 0o755))
	_, err = h.Exec(limited(t), c.UUID, ExecOptions{Program: script, Argv: []string{"true"}})
	conflict("killed", err, "no memory")
	// The init ends while it is entered.
	in := make(chan error, 1)
	slow := filepath.Join(t.TempDir(), "slow")
	must(t, os.WriteFile(slow, fmt.Appendf(nil, "#!/bin/sh\necho on >%s.up\nwhile [ -d /proc/%d ]; do sleep 0.02; done\nexec %s enter\n", slow, c.InitPID, initProgram), 0o755))
	go func() {
		_, err := h.Exec(limited(t), c.UUID, ExecOptions{Program: slow, Argv: []string{"true"}})
		in <- err
	}()
	for ctx := within(t, 20*time.Second); ; {
		if _, err := os.Stat(slow + ".up"); err == nil {
			break
		}
		must(t, wait.For(ctx, poll))
	}
	must(t, h.Destroy(limited(t), c.UUID))
	select {
	case err := <-in:
		conflict("ended", err, "ended or was started anew")
	case <-time.After(20 * time.Second):
		t.Error("it does not end")
	}
}
