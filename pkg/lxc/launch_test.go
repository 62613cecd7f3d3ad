package lxc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"github.com/lxcboot/lxcboot/pkg/cgroup"
	"github.com/lxcboot/lxcboot/pkg/wait"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// compile builds a program of testdata, static, into a root.
func compile(t *testing.T, root, name string) {
	t.Helper()
	if out, err := exec.Command("gcc", "-static", "-O1", "-o", filepath.Join(root, "bin", name), "testdata/"+name+".c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// within gives a context for what must come soon on any machine.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(limited(t), d)
	t.Cleanup(cancel)
	return ctx
}

// ofInit reads a file of /proc of the container's first process.
func (c *container) ofInit(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", c.InitPID, name))
	must(t, err)
	return string(data)
}

// The init gets what it was given, to the byte, and nothing of ours is left to it.
func TestLaunch(t *testing.T) {
	h := open(t)
	for _, private := range []bool{true, false} {
		t.Run(fmt.Sprint("user namespace ", private), func(t *testing.T) {
			cfg := config(t, "")
			if !private {
				cfg = privileged(t, "")
			}
			cfg.Init = "/bin/sh"
			cfg.InitArgs = []string{"-c", "trap 'exit 0' TERM; while :; do /bin/sleep 1; done", "", "<a>&b;]]>", "\xff\x01\t\n", `"'$(x)`, ""}
			cfg.InitEnv = map[string]string{"EMPTY": "", "ODD": "<&]]>\n\xff", "not.a-name": "x", "PATH": "/mine", "TERM": ""}
			c := start(t, h, cfg)
			if got := strings.Split(c.ofInit(t, "cmdline"), "\x00"); !slices.Equal(got, append(append([]string{"/bin/sh"}, cfg.InitArgs...), "")) {
				t.Errorf("arguments: %q", got)
			}
			env := map[string]string{}
			for _, v := range strings.Split(strings.TrimSuffix(c.ofInit(t, "environ"), "\x00"), "\x00") {
				name, value, _ := strings.Cut(v, "=")
				if _, twice := env[name]; twice {
					t.Errorf("%s is there twice", name)
				}
				env[name] = value
			}
			want := map[string]string{
				"HOME": "/", "container": "lxc-libvirt", "container_uuid": cfg.UUID, "LIBVIRT_LXC_UUID": cfg.UUID, "LIBVIRT_LXC_NAME": cfg.Name,
				"EMPTY": "", "ODD": "<&]]>\n\xff", "not.a-name": "x", "PATH": "/mine", "TERM": "",
			}
			if diff := cmp.Diff(want, env); diff != "" {
				t.Errorf("environment, -want +got:\n%s", diff)
			}
			if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.InitPID)); err != nil || filepath.Base(exe) != "busybox" {
				t.Errorf("it runs %q, %v", exe, err)
			}
			// A shell that reads no script has no others of its own.
			files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.InitPID))
			if err != nil || len(files) != 3 {
				t.Errorf("open files %v, %v", files, err)
			}
			if mounts := c.ofInit(t, "mountinfo"); strings.Contains(mounts, "lxcboot-init") || strings.Contains(mounts, "/dev/.") {
				t.Errorf("mounts:\n%s", mounts)
			}
			if _, out, _ := c.run(t, ExecOptions{}, "ls", "-A", "/dev"); strings.Contains(out, ".") {
				t.Errorf("/dev: %q", out)
			}
			if name := c.ofInit(t, "comm"); name != "sh\n" {
				t.Errorf("its name is %q", name)
			}
		})
	}
}

func TestLaunchInvalid(t *testing.T) {
	for want, l := range map[string]Launch{
		"absolute path": {Init: "sbin/init"},
		"zero byte":     {Init: "/init", Args: []string{"a\x00b"}},
		`"A=B"`:         {Init: "/init", Env: map[string]string{"A=B": ""}},
		`""`:            {Init: "/init", Env: map[string]string{"": "x"}},
		"host name":     {Init: "/init", Hostname: strings.Repeat("x", 65)},
	} {
		l.Program = initProgram
		if err := l.Mount(t.TempDir()); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	// A failed Mount leaves nothing, and says what it missed.
	dir := t.TempDir()
	if err := (Launch{Program: dir + "/none", Init: "/init"}).Mount(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	must(t, os.Remove(dir))
	must(t, UnmountLaunch(dir))
	must(t, ReleaseInit(limited(t), dir))
}

// A second Mount takes the place of the first, and one Unmount takes all away.
func TestLaunchMountedAgain(t *testing.T) {
	dir := t.TempDir()
	for _, init := range []string{"/one", "/two"} {
		must(t, Launch{Program: initProgram, Init: init}.Mount(dir))
		if got := launchedInit(dir); got != init {
			t.Errorf("the launch is of %q instead of %q", got, init)
		}
	}
	for name, want := range map[string]os.FileMode{programName: 0o555, ordersName: 0o444, holdName: 0o444 | os.ModeNamedPipe} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	must(t, UnmountLaunch(dir))
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What is said of the mode of files holds with any umask.
func TestLaunchUmask(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	h := open(t)
	cfg := config(t, "echo up")
	start(t, h, cfg).waitLog(t, "up")
}

// held starts a container whose init is held, and waits until it is lxcboot-init.
func held(t *testing.T, h *Host, cfg box, hold func()) (Info, *initProc) {
	t.Helper()
	define(t, h, cfg)
	must(t, Launch{Group: cfg.groups(t), Program: initProgram, Init: cfg.Init, Args: cfg.InitArgs}.Mount(cfg.Launch))
	hold()
	info, err := h.Start(limited(t), cfg.UUID)
	must(t, err)
	for ctx := within(t, 20*time.Second); ; {
		if p, err := findInit(info.PID); err == nil {
			if p.launching() {
				t.Cleanup(p.Close)
				return info, p
			}
			p.Close()
		}
		must(t, wait.For(ctx, time.Millisecond))
	}
}

// The init does not run before it is let go: by its holder, by its holder's end, or by
// who comes without having held it.
func TestHold(t *testing.T) {
	h := open(t)
	for name, tt := range map[string]func(t *testing.T, dir string) (hold, release func()){
		"holder": func(t *testing.T, dir string) (func(), func()) {
			var hold *Hold
			return func() {
					var err error
					hold, err = HoldInit(dir)
					must(t, err)
				}, func() {
					hold.Release()
					hold.Release()
				}
		},
		"holder killed": func(t *testing.T, dir string) (func(), func()) {
			cmd := exec.Command(os.Args[0], "hold-init", dir)
			return func() {
					_, err := cmd.StdinPipe() // it ends with this process
					must(t, err)
					out, err := cmd.StdoutPipe()
					must(t, err)
					must(t, cmd.Start())
					if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
						t.Fatalf("%q, %v", line, err)
					}
				}, func() {
					cmd.Process.Kill()
					cmd.Wait()
				}
		},
		"nobody": func(t *testing.T, dir string) (func(), func()) {
			return func() {}, func() { must(t, ReleaseInit(limited(t), dir)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, "echo up")
			hold, release := tt(t, cfg.Launch)
			info, p := held(t, h, cfg, hold)
			if _, err := h.WaitInit(within(t, 300*time.Millisecond), info); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("an init that is held: %v", err)
			}
			if k := p.kind(); k != Other || !p.launching() {
				t.Errorf("it is taken for %s", k)
			}
			release()
			up, err := h.WaitInit(within(t, 15*time.Second), info)
			if err != nil || up.InitPID != p.pid || p.launching() {
				t.Errorf("let go: %+v, %v", up, err)
			}
			must(t, ReleaseInit(limited(t), cfg.Launch)) // has gone
			must(t, UnmountLaunch(cfg.Launch))
			must(t, ReleaseInit(limited(t), cfg.Launch))
			serve(t, h, cfg).waitLog(t, "up")
		})
	}
}

// A request to power off waits for the init that it is meant for.
func TestShutdownOfHeld(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	cfg.Init, cfg.InitArgs = "/bin/sh", []string{"-c", "trap 'exit 0' TERM; while :; do /bin/sleep 0.1; done"}
	var hold *Hold
	info, p := held(t, h, cfg, func() {
		var err error
		hold, err = HoldInit(cfg.Launch)
		must(t, err)
	})
	done := make(chan error, 1)
	go func() { done <- h.Shutdown(within(t, 30*time.Second), cfg.UUID) }()
	select {
	case err := <-done:
		t.Fatalf("shutdown of a container that is held: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if !p.launching() {
		t.Fatal("it is not held")
	}
	hold.Release()
	if _, err := h.WaitInit(within(t, 15*time.Second), info); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, ErrUnheard) { // heard before the shell had set its trap
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("shutdown does not end")
	}
}

// What libvirt's own driver cannot do to a container is done.
func TestConfined(t *testing.T) {
	h := open(t)
	for _, tt := range []struct {
		name     string
		box      func() box
		filtered bool
		masked   bool
	}{
		{"user namespace", func() box { return config(t, "") }, true, true},
		{"privileged", func() box { return privileged(t, "") }, false, false},
		{"unfiltered", func() box { b := config(t, ""); b.Unfiltered = true; return b }, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := tt.box()
			compile(t, cfg.Root, "calls")
			c := start(t, h, cfg)
			_, self, _ := c.run(t, ExecOptions{}, "cat", "/proc/self/status", "/proc/self/limits", "/proc/self/cgroup")
			for who, text := range map[string]string{"init": c.ofInit(t, "status") + c.ofInit(t, "limits"), "exec": self} {
				f := map[string]string{}
				for line := range strings.Lines(text) {
					name, value, _ := strings.Cut(line, ":")
					f[name] = strings.TrimSpace(value)
				}
				if (f["Seccomp"] == "2") != tt.filtered || f["NoNewPrivs"] != "0" {
					t.Errorf("%s: Seccomp %q, NoNewPrivs %q", who, f["Seccomp"], f["NoNewPrivs"])
				}
				for name, check := range map[string]func(soft, hard string) bool{
					"Max core file size": func(soft, hard string) bool { return soft == "0" && hard == "0" },
					"Max processes":      func(soft, hard string) bool { return soft == hard && len(hard) <= len("16384") },
					"Max open files":     func(soft, hard string) bool { return soft == hard && len(hard) <= len("1048576") },
				} {
					_, rest, ok := strings.Cut(text, name)
					if values := strings.Fields(rest); !ok || !check(values[0], values[1]) {
						t.Errorf("%s: %s %q", who, name, values[:2])
					}
				}
			}
			_, out, _ := c.run(t, ExecOptions{User: "bob"}, "/bin/calls")
			if !strings.Contains(out, "native add_key ") {
				t.Fatalf("calls: %q", out)
			}
			for line := range strings.Lines(out) {
				f := strings.Fields(line)
				want := map[string]unix.Errno{"add_key": unix.EPERM, "io_uring_setup": unix.ENOSYS, "getpid": 0}[f[1]]
				switch refused := f[2] == fmt.Sprint(int(want)); {
				case f[1] == "getpid" && !refused, tt.filtered && !refused, f[1] == "add_key" && !tt.filtered && refused:
					t.Errorf("filtered %v: %s", tt.filtered, line)
				}
			}
			t.Log(strings.ReplaceAll(out, "\n", ", "))

			mounts := c.ofInit(t, "mountinfo")
			for path, options := range map[string]string{
				"/proc/kcore": "", "/proc/keys": "", "/proc/timer_list": "", "/sys/dev/block": "ro,", "/sys/firmware": "ro,",
				"/proc/bus": "ro,", "/proc/fs": "ro,", "/proc/irq": "ro,", "/proc/sysrq-trigger": "ro,",
			} {
				if _, err := os.Stat(path); err == nil && strings.Contains(mounts, " "+path+" "+options) != tt.masked {
					t.Errorf("%s: masked %v", path, !tt.masked)
				}
			}
			if tt.masked {
				if code, out, errs := c.run(t, ExecOptions{}, "sh", "-c", "cat /proc/timer_list; ls -A /sys/dev/block"); code != 0 || out != "" {
					t.Errorf("masked: %d %q %q", code, out, errs)
				}
			}
		})
	}
}

// A container sees its own control groups, and none of the host's: in what is mounted,
// in what it mounts itself, and in what is run in it.
func TestControlGroups(t *testing.T) {
	h := open(t)
	for _, private := range []bool{true, false} {
		t.Run(fmt.Sprint("user namespace ", private), func(t *testing.T) {
			cfg := config(t, "")
			if !private {
				cfg = privileged(t, "")
			}
			c := start(t, h, cfg)
			ours, err := os.Stat("/proc/self/ns/cgroup")
			must(t, err)
			if theirs, err := os.Stat(fmt.Sprintf("/proc/%d/ns/cgroup", c.InitPID)); err != nil || os.SameFile(ours, theirs) {
				t.Errorf("it is in the host's namespace: %v", err)
			}
			for _, pid := range []string{"1", "self"} {
				_, out, _ := c.run(t, ExecOptions{}, "cat", "/proc/"+pid+"/cgroup")
				for line := range strings.Lines(out) {
					if !strings.HasSuffix(line, ":/\n") {
						t.Errorf("%s: %s", pid, line)
					}
				}
			}
			groups, err := containerCgroups(c.PID, c.InitPID)
			must(t, err)
			if len(groups) == 0 {
				t.Fatal("the container has no groups")
			}
			// What is mounted is the container's own: a group that the host makes below it is
			// seen, and the host's own are not.
			_, tree, _ := c.run(t, ExecOptions{}, "ls", "-R", "/sys/fs/cgroup")
			for _, word := range []string{"machine", "libvirt-lxc", "system.slice", "lxcboot"} {
				if strings.Contains(tree, word) {
					t.Errorf("%s is seen", word)
				}
			}
			for _, g := range groups {
				at := "/sys/fs/cgroup"
				if len(g.Controllers) > 0 {
					at += "/" + strings.Join(g.Controllers, ",")
				}
				own := filepath.Join(g.Dir, "seen")
				must(t, os.Mkdir(own, 0o755))
				if code, _, errs := c.run(t, ExecOptions{}, "ls", at+"/seen"); code != 0 {
					t.Errorf("%s does not show the container's own group: %s", at, errs)
				}
				must(t, os.Remove(own))
				if len(g.Controllers) > 0 {
					_, out, errs := c.run(t, ExecOptions{}, "sh", "-c", "mkdir -p /tmp/g && mount -t cgroup -o "+strings.Join(g.Controllers, ",")+" x /tmp/g && ls /tmp/g && umount /tmp/g")
					if !strings.Contains(out, "cgroup.procs") || strings.Contains(out, "machine") {
						t.Errorf("mounted anew: %q %q", out, errs)
					}
				}
			}
		})
	}
}

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

// Where libvirt makes no group for systemd in a container, the container has one of its
// own, which neither its start nor its end shares with another's.
func TestOwnGroup(t *testing.T) {
	h := open(t)
	first := config(t, "")
	if first.groups(t) == "" {
		must(t, cgroup.Remove(limited(t), first.UUID))
		return // libvirt makes one for each
	}
	running := []*container{start(t, h, first)}
	makes := func(c *container, group string) {
		t.Helper()
		if code, _, errs := c.run(t, ExecOptions{}, "mkdir", "-p", "/sys/fs/cgroup/systemd/"+group); code != 0 {
			t.Errorf("no group can be made: %s", errs)
		}
	}
	makes(running[0], "a/b")
	// libvirt gives the next container what is right below its own group.
	running = append(running, start(t, h, boxOf(t, makeRoot(t, testIDs+65536, ""), &IDMap{HostID: testIDs + 65536, Count: 65536})))
	group := func(c *container) string {
		t.Helper()
		paths, err := cgroup.Of(c.InitPID)
		must(t, err)
		dirs, err := cgroup.Dirs(map[string]string{"name=systemd": paths["name=systemd"]})
		must(t, err)
		if len(dirs) != 1 || !strings.HasSuffix(dirs[0].Dir, c.UUID) {
			t.Fatalf("it is in %v of %v", dirs, paths)
		}
		return dirs[0].Dir
	}
	groups := []string{group(running[0]), group(running[1])}
	for _, c := range running {
		makes(c, "later")
	}
	for i, c := range running {
		must(t, h.Destroy(limited(t), c.UUID))
		must(t, cgroup.Remove(limited(t), c.UUID))
		for j, dir := range groups {
			if _, err := os.Stat(dir); (err == nil) != (j > i) {
				t.Errorf("the group of container %d after the end of %d: %v", j, i, err)
			}
		}
	}
}

// cgroupV2 is where the hierarchy of cgroup v2 is mounted: by the host, or for this test.
func cgroupV2(t *testing.T) string {
	t.Helper()
	dirs, err := cgroup.Dirs(map[string]string{"": "/"})
	must(t, err)
	if len(dirs) > 0 {
		return dirs[0].Dir
	}
	dir := t.TempDir()
	must(t, unix.Mount("none", dir, "cgroup2", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// byHand runs lxcboot-init without libvirt, in a group of cgroup v2 and with that mounted
// as libvirt does it where there is no other, on the root of this host.
func byHand(t *testing.T, l Launch, group, mounted string) (string, error) {
	t.Helper()
	launch := t.TempDir()
	must(t, l.Mount(launch))
	defer func() { must(t, UnmountLaunch(launch)) }()
	must(t, ReleaseInit(limited(t), launch))
	out, err := exec.CommandContext(within(t, 30*time.Second), "sh", "-ec", `echo $$ >"$1/cgroup.procs"
exec unshare --mount --pid --fork --uts sh -ec '
mount --bind "$2" "$3"
umount -l /sys/fs/cgroup
mount --move "$3" /sys/fs/cgroup
mount -t tmpfs none /dev
mkdir /dev/.lxcboot
mount --bind "$1" /dev/.lxcboot
mount -t proc none /proc
exec /dev/.lxcboot/lxcboot-init' sh "$2" "$3" "$4"`, "sh", group, launch, mounted, t.TempDir()).CombinedOutput()
	return string(out), err
}

// An init that cannot be run is told of in one line, with the exit code of a shell.
func TestInitCannotRun(t *testing.T) {
	mounted := cgroupV2(t)
	for init, want := range map[string]struct {
		code int
		line string
	}{
		"/none/such":  {127, "lxcboot: cannot run /none/such: No such file or directory\n"},
		"/etc/passwd": {126, "lxcboot: cannot run /etc/passwd: Permission denied\n"},
		"/etc":        {126, "lxcboot: cannot run /etc: Permission denied\n"},
	} {
		out, err := byHand(t, Launch{Program: initProgram, Init: init, Privileged: true}, mounted, mounted)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != want.code || out != want.line {
			t.Errorf("%s: %q, %v", init, out, err)
		}
	}
	h := open(t)
	cfg := config(t, "")
	cfg.Init = "/sbin/none"
	var hold *Hold
	info, _ := held(t, h, cfg, func() {
		var err error
		hold, err = HoldInit(cfg.Launch)
		must(t, err)
	})
	c := serve(t, h, cfg)
	hold.Release()
	if _, err := h.WaitInit(within(t, 20*time.Second), info); err == nil || !strings.Contains(err.Error(), "/sbin/none cannot be run") {
		t.Errorf("%v", err)
	}
	if log := c.waitLog(t, "lxcboot: cannot run /sbin/none: No such file or directory\n"); strings.Count(log, "\n") != 1 {
		t.Errorf("%q", log)
	}
}

// With cgroup v2 libvirt mounts the host's tree as a whole: here by hand, as no host has
// both. The init sees its own group alone.
func TestControlGroupsV2(t *testing.T) {
	mounted := cgroupV2(t)
	own := filepath.Join(mounted, fmt.Sprint("lxcboot-ut-", os.Getpid()))
	must(t, os.MkdirAll(filepath.Join(own, "in", "below"), 0o755))
	t.Cleanup(func() {
		for _, dir := range []string{"in/below", "in", ""} {
			must(t, cgroup.RemoveTree(filepath.Join(own, dir)))
		}
	})
	out, err := byHand(t, Launch{
		Program: initProgram, Init: "/bin/sh", Privileged: true,
		Args: []string{"-c", "cat /proc/self/cgroup; echo :; ls -R /sys/fs/cgroup; echo :; grep ' - cgroup' /proc/self/mountinfo"},
	}, own+"/in", mounted)
	parts := strings.Split(out, "\n:\n")
	if err != nil || len(parts) != 3 {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.HasSuffix(parts[0], "0::/") || strings.Contains(parts[1], filepath.Base(own)) || !strings.Contains(parts[1], "/below:") || strings.Count(parts[2], "\n") != 1 {
		t.Errorf("%s", out)
	}
}
