package lxc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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
