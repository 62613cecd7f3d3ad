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

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirt"

	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

func TestLifecycle(t *testing.T) {
	h := open(t)
	cfg := config(t, "echo up")
	if _, err := h.State(t.Context(), cfg.UUID); !errors.Is(err, ErrNotFound) {
		t.Fatalf("state of an unknown container: %v", err)
	}
	must(t, h.Destroy(t.Context(), cfg.UUID))
	must(t, h.Undefine(t.Context(), cfg.UUID))
	define(t, h, cfg)
	info, err := h.State(t.Context(), cfg.UUID)
	must(t, err)
	if info.State != Shutoff || info.Active() || !info.Persistent || info.Autostart || info.Name != cfg.Name {
		t.Errorf("defined: %+v", info)
	}
	must(t, h.Define(t.Context(), cfg.Config)) // again is no error
	must(t, h.SetAutostart(t.Context(), cfg.UUID, true))
	if on, err := h.Autostart(t.Context(), cfg.UUID); err != nil || !on {
		t.Errorf("autostart: %v, %v", on, err)
	}

	up(t, h, cfg)
	up(t, h, cfg) // runs already
	info, err = h.ByName(t.Context(), cfg.Name)
	must(t, err)
	if info.ID != cfg.UUID || info.State != Running || info.Reason != "booted" || info.PID == 0 || !info.Autostart {
		t.Errorf("started: %+v", info)
	}
	if st, err := readStatus(info.InitPID); err != nil || st["PPid"] != fmt.Sprint(info.PID) || !strings.HasSuffix(st["NSpid"], "\t1") {
		t.Errorf("init %d: %v %v", info.InitPID, st, err)
	}
	list, err := h.List(t.Context())
	must(t, err)
	found := false
	for _, i := range list {
		found = found || i == info
	}
	if !found {
		t.Errorf("%+v is not in the list %+v", info, list)
	}

	r := remainsOf(info)
	defer r.Close()
	if len(r.fds) != 2 || len(r.cgroups) < 2 {
		t.Fatalf("a running container has %d processes and the groups %q", len(r.fds), r.cgroups)
	}
	must(t, h.Destroy(t.Context(), cfg.UUID))
	for _, f := range r.fds {
		if proc.Alive(f) {
			t.Error("a process is left after Destroy")
		}
	}
	for _, dir := range r.cgroups {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left after Destroy: %v", dir, err)
		}
	}
	info, err = h.State(t.Context(), cfg.UUID)
	must(t, err)
	if info.State != Shutoff || info.Reason != "destroyed" {
		t.Errorf("destroyed: %+v", info)
	}
	must(t, h.Destroy(t.Context(), cfg.UUID))
	must(t, h.Undefine(t.Context(), cfg.UUID))
	must(t, h.Undefine(t.Context(), cfg.UUID))
	if _, err := h.Start(t.Context(), cfg.UUID); !errors.Is(err, ErrNotFound) {
		t.Errorf("start of an unknown container: %v", err)
	}
}

func TestTaken(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	define(t, h, cfg)
	name, id := cfg, cfg
	name.UUID = uuid.NewString()
	id.Name += "x"
	for _, c := range []box{name, id} {
		err := h.Define(t.Context(), c.Config)
		if !errors.Is(err, ErrExists) {
			t.Errorf("%v", err)
		}
		t.Log(err)
	}
}

func TestStartFails(t *testing.T) {
	h := open(t)
	for _, tt := range []struct {
		name   string
		change func(*box)
		want   string
	}{
		{"no init", func(c *box) { c.Init = "/sbin/none" }, "not in the root"},
		{"init not executable", func(c *box) { c.Init = "/etc/passwd"; must(t, os.Chmod(c.Root+"/etc/passwd", 0o644)) }, "not executable"},
		{"init is a directory", func(c *box) { c.Init = "/etc" }, "not a regular file"},
		{"init of another machine", func(c *box) {
			c.Init = "/odd"
			must(t, os.WriteFile(c.Root+"/odd", []byte("\x7fELF rubbish"), 0o755))
		}, "this machine"},
		{"no interpreter", func(c *box) {
			c.Init = "/script"
			must(t, os.WriteFile(c.Root+"/script", []byte("#!/none\n"), 0o755))
		}, "interpreter"},
		{"no root", func(c *box) { c.Root += "-none" }, "root"},
		{"no bridge", func(c *box) { c.Interfaces = []Interface{{Bridge: "lxcboot-none0"}} }, "bridge"},
		{"no network", func(c *box) { c.Interfaces = []Interface{{Network: "lxcboot-none"}} }, "network"},
		{"no disk", func(c *box) { c.Disks = []Disk{{Source: "/dev/lxcboot-none", Target: "vdb"}} }, "/dev/lxcboot-none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config(t, "")
			tt.change(&cfg)
			define(t, h, cfg)
			err := tryUp(t, h, cfg)
			var failed *StartError
			if !errors.As(err, &failed) || !strings.Contains(failed.Reason, tt.want) {
				t.Errorf("%v\nof %q", err, failed)
			}
			if failed != nil {
				t.Logf("%v\nof %q", err, failed.Detail)
			}
			info, err := h.State(t.Context(), cfg.UUID)
			if err != nil || info.State != Shutoff {
				t.Errorf("afterwards: %+v, %v", info, err)
			}
			if left, err := filepath.Glob("/sys/class/net/" + hostInterfaces(cfg.UUID) + "*"); len(left) > 0 || err != nil {
				t.Errorf("left on the host: %q, %v", left, err)
			}
		})
	}
}

// The init's own signal ends and restarts the container, and nothing else would.
func TestShutdownAndReboot(t *testing.T) {
	h := open(t)
	c := start(t, h, config(t, "echo up"))
	c.waitLog(t, "up")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	must(t, h.Reboot(ctx, c.UUID))
	for {
		info, err := h.State(ctx, c.UUID)
		must(t, err)
		if info.Active() && info.InitPID != 0 && info.InitPID != c.InitPID {
			break
		}
		must(t, wait.For(ctx, poll))
	}
	again := serve(t, h, c.box)
	again.waitLog(t, "up")
	must(t, h.Shutdown(ctx, c.UUID))
	info, err := h.State(ctx, c.UUID)
	if err != nil || info.State != Shutoff || info.Reason != "shutdown" {
		t.Errorf("%+v, %v", info, err)
	}
	again.waitEnd(t)
	if log := again.readLog(t); !strings.Contains(log, "last words") {
		t.Errorf("the init did not end in order:\n%s", log)
	}
	must(t, h.Shutdown(ctx, c.UUID)) // is off
	if err := h.Reboot(ctx, c.UUID); !errors.Is(err, ErrNotRunning) {
		t.Errorf("reboot of a container that is off: %v", err)
	}
}

// An init that has no handler would leave the caller waiting: it hears at once.
func TestShutdownUnheard(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	cfg.Init, cfg.InitArgs = "/bin/sleep", []string{"1000"}
	c := start(t, h, cfg)
	if err := h.Shutdown(t.Context(), c.UUID); !errors.Is(err, ErrUnheard) {
		t.Errorf("shutdown: %v", err)
	}
	if err := h.Reboot(t.Context(), c.UUID); !errors.Is(err, ErrUnheard) {
		t.Errorf("reboot: %v", err)
	}
	must(t, h.Signal(t.Context(), c.UUID, unix.SIGKILL))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := h.WaitState(ctx, c.UUID, Shutoff); err != nil {
		t.Error(err)
	}
}

// The container ends with its controller, however that ends.
func TestControllerKilled(t *testing.T) {
	h := open(t)
	c := start(t, h, config(t, ""))
	must(t, unix.Kill(c.PID, unix.SIGKILL))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	info, err := h.WaitState(ctx, c.UUID, Shutoff)
	must(t, err)
	t.Log(info.Reason)
	c.waitEnd(t)
}

func TestHostname(t *testing.T) {
	h := open(t)
	c := start(t, h, config(t, ""))
	if _, out, _ := c.run(t, ExecOptions{}, "hostname"); out != "web1\n" {
		t.Errorf("host name %q", out)
	}
	if ours, _ := os.Hostname(); ours == "web1" {
		t.Error("the host has the container's name")
	}
}

// What the flavor promises is what the kernel holds to.
func TestLimits(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	cfg.VCPUs, cfg.MemoryMiB = 2, 96
	c := start(t, h, cfg)
	u, err := h.Usage(t.Context(), c.UUID)
	must(t, err)
	t.Logf("%+v", u)
	if u.MemoryLimit != 96<<20 || u.CPULimit != 2 {
		t.Errorf("limits: %+v", u)
	}
	if u.MemoryBytes <= 0 || u.CPUTime <= 0 || u.Processes < 1 || u.Processes > 5 || u.BlockReadBytes < 0 || u.BlockWriteBytes < 0 {
		t.Errorf("usage: %+v", u)
	}
	_, out, _ := c.run(t, ExecOptions{}, "head", "-n", "1", "/proc/meminfo")
	if !strings.Contains(out, "MemTotal:          98304 kB") {
		t.Errorf("the container sees %s", out)
	}
	// What is run in it is in its groups: it cannot take more memory either.
	code, _, _ := c.run(t, ExecOptions{}, "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1")
	if code != 128+9 && code != 1 {
		t.Errorf("200 MiB in 96: exit code %d", code)
	}
	must(t, h.Destroy(t.Context(), c.UUID))
	if _, err := h.Usage(t.Context(), c.UUID); !errors.Is(err, ErrNotRunning) {
		t.Errorf("usage when off: %v", err)
	}
}

// The container has the capabilities that the XML names, and no way to others; what
// is run in it has no more.
func TestPrivileges(t *testing.T) {
	h := open(t)
	for name, want := range map[string]uint64{"user namespace": 0xb5ecfdfb, "privileged": 0xb4e4fdfb} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, "")
			if name == "privileged" {
				cfg = privileged(t, "")
			}
			c := start(t, h, cfg)
			zero, all := fmt.Sprintf("%016x", 0), fmt.Sprintf("%016x", want)
			status := func(pid string, o ExecOptions) map[string]string {
				_, out, _ := c.run(t, o, "cat", "/proc/"+pid+"/status")
				st := map[string]string{}
				for line := range strings.Lines(out) {
					k, v, _ := strings.Cut(line, ":")
					st[k] = strings.TrimSpace(v)
				}
				return st
			}
			for _, tt := range []struct {
				what               string
				st                 map[string]string
				inh, eff, prm, bnd string
			}{
				{"init", status("1", ExecOptions{}), all, all, all, all},
				{"exec", status("self", ExecOptions{}), zero, all, all, all},
				{"exec as bob", status("self", ExecOptions{User: "bob"}), zero, zero, zero, all},
			} {
				if tt.st["CapInh"] != tt.inh || tt.st["CapEff"] != tt.eff || tt.st["CapPrm"] != tt.prm || tt.st["CapBnd"] != tt.bnd || tt.st["CapAmb"] != zero {
					t.Errorf("%s: Inh %s Eff %s Prm %s Bnd %s Amb %s", tt.what, tt.st["CapInh"], tt.st["CapEff"], tt.st["CapPrm"], tt.st["CapBnd"], tt.st["CapAmb"])
				}
			}
			if _, out, _ := c.run(t, ExecOptions{}, "ls", "/dev"); strings.Join(strings.Fields(out), " ") != "console fd full null ptmx pts random stderr stdin stdout tty tty1 urandom zero" {
				t.Errorf("devices: %s", out)
			}
		})
	}
}

func TestFilesystemsAndDisks(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	data := filepath.Join(searchable(t, testIDs), "data")
	must(t, os.Mkdir(data, 0o755))
	must(t, os.WriteFile(filepath.Join(data, "file"), []byte("hello"), 0o644))
	must(t, os.Chown(data, testIDs, testIDs))
	// As a read-only volume is mounted on the host: so it stays in the container.
	ro := filepath.Join(filepath.Dir(data), "ro")
	must(t, os.Mkdir(ro, 0o755))
	// Made read-only before it is attached: a remount does not reach libvirtd.
	tree, err := unix.OpenTree(unix.AT_FDCWD, data, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	must(t, err)
	defer unix.Close(tree)
	must(t, unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}))
	must(t, unix.MoveMount(tree, "", unix.AT_FDCWD, ro, unix.MOVE_MOUNT_F_EMPTY_PATH))
	t.Cleanup(func() { must(t, unix.Unmount(ro, 0)) })
	must(t, os.Mkdir(filepath.Join(data, "ro"), 0o755))
	cfg.Filesystems = []Filesystem{{ro, "/data/ro", true}, {data, "/data", false}}
	c := start(t, h, cfg)
	if _, out, errs := c.run(t, ExecOptions{}, "cat", "/data/ro/file", "/data/file"); out != "hellohello" {
		t.Errorf("%q %q", out, errs)
	}
	if code, _, _ := c.run(t, ExecOptions{}, "touch", "/data/new"); code != 0 {
		t.Error("a filesystem that is not read-only is")
	}
	if code, _, _ := c.run(t, ExecOptions{}, "touch", "/data/ro/new"); code == 0 {
		t.Error("a read-only filesystem can be written")
	}
	if code, _, _ := c.run(t, ExecOptions{}, "mount", "-o", "remount,rw,bind", "/data/ro"); code == 0 {
		t.Error("a read-only filesystem can be made writable")
	}
}

func TestRootReadOnly(t *testing.T) {
	h := open(t)
	cfg := config(t, "echo up")
	cfg.RootReadOnly = true
	c := start(t, h, cfg)
	c.waitLog(t, "up")
	if code, _, _ := c.run(t, ExecOptions{}, "touch", "/new"); code == 0 {
		t.Error("a read-only root can be written")
	}
}

// A libvirtd that is not there is told with how to start it.
func TestNoDaemon(t *testing.T) {
	_, err := Open(t.Context(), "lxc+unix:///?socket=/nonexistent/libvirt-sock")
	if !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), "libvirtd -d") {
		t.Errorf("%v", err)
	}
}

// After libvirtd was restarted the next call connects anew, once.
func TestReconnect(t *testing.T) {
	h := open(t)
	h.mu.Lock()
	first := h.conn
	h.mu.Unlock()
	calls := 0
	err := h.call(t.Context(), "x", func(conn *libvirt.Connect) error {
		if calls++; conn == first {
			return libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Domain: libvirt.FROM_RPC, Message: "client socket is closed"}
		}
		return nil
	})
	if err != nil || calls != 2 {
		t.Errorf("%v after %d calls", err, calls)
	}
	gone := libvirt.Error{Code: libvirt.ERR_SYSTEM_ERROR, Domain: libvirt.FROM_RPC, Message: "Cannot recv data: Connection reset by peer"}
	calls = 0
	err = h.call(t.Context(), "x", func(*libvirt.Connect) error { calls++; return gone })
	if !errors.Is(err, ErrNoDaemon) || calls != 2 {
		t.Errorf("%v after %d calls", err, calls)
	}
	if _, err := h.List(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCallHonoursContext(t *testing.T) {
	h := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	stuck := make(chan struct{})
	defer close(stuck)
	err := h.call(ctx, "x", func(*libvirt.Connect) error { <-stuck; return nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// What changes something is waited for once it is begun, and not begun with a context
// that has ended.
func TestChangeIsWaitedFor(t *testing.T) {
	h := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	changed := false
	change := func(*libvirt.Connect) error {
		cancel()
		time.Sleep(100 * time.Millisecond)
		changed = true
		return nil
	}
	if err := h.change(ctx, "x", change); err != nil || !changed {
		t.Errorf("changed: %v, %v", changed, err)
	}
	changed = false
	if err := h.change(ctx, "x", change); !errors.Is(err, context.Canceled) || changed {
		t.Errorf("begun too late: %v, %v", changed, err)
	}
}
