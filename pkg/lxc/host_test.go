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
	if _, err := h.State(limited(t), cfg.UUID); !errors.Is(err, ErrNotFound) {
		t.Fatalf("state of an unknown container: %v", err)
	}
	must(t, h.Destroy(limited(t), cfg.UUID))
	must(t, h.Undefine(limited(t), cfg.UUID))
	define(t, h, cfg)
	info, err := h.State(limited(t), cfg.UUID)
	must(t, err)
	if info.State != Shutoff || info.Active() || info.Name != cfg.Name {
		t.Errorf("defined: %+v", info)
	}
	must(t, h.Define(limited(t), cfg.Config)) // again is no error

	up(t, h, cfg)
	up(t, h, cfg) // runs already
	info, err = h.ByName(limited(t), cfg.Name)
	must(t, err)
	if info.ID != cfg.UUID || info.State != Running || info.Reason != "booted" || info.PID == 0 {
		t.Errorf("started: %+v", info)
	}
	if st, err := readStatus(info.InitPID); err != nil || st["PPid"] != fmt.Sprint(info.PID) || !strings.HasSuffix(st["NSpid"], "\t1") {
		t.Errorf("init %d: %v %v", info.InitPID, st, err)
	}
	r := remainsOf(info)
	defer r.Close()
	if len(r.fds) != 2 || len(r.cgroups) < 2 {
		t.Fatalf("a running container has %d processes and the groups %q", len(r.fds), r.cgroups)
	}
	must(t, h.Destroy(limited(t), cfg.UUID))
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
	info, err = h.State(limited(t), cfg.UUID)
	must(t, err)
	// Where libvirt was slow, the init was killed before, and ended by itself to libvirt.
	if info.State != Shutoff || info.Reason != "destroyed" && info.Reason != "shutdown" {
		t.Errorf("destroyed: %+v", info)
	}
	must(t, h.Destroy(limited(t), cfg.UUID))
	must(t, h.Undefine(limited(t), cfg.UUID))
	must(t, h.Undefine(limited(t), cfg.UUID))
	if _, err := h.Start(limited(t), cfg.UUID); !errors.Is(err, ErrNotFound) {
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
		err := h.Define(limited(t), c.Config)
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
		{"no init", func(c *box) { c.Init = "/sbin/none" }, "init /sbin/none cannot be run: it is not in the root"},
		{"init not executable", func(c *box) { c.Init = "/etc/passwd"; must(t, os.Chmod(c.Root+"/etc/passwd", 0o644)) }, "not executable"},
		{"init is a directory", func(c *box) { c.Init = "/etc" }, "not a regular file"},
		{"init of another machine", func(c *box) {
			c.Init = "/odd"
			must(t, os.WriteFile(c.Root+"/odd", []byte("\x7fELF rubbish"), 0o755))
		}, "this machine"},
		{"interpreter of another machine", func(c *box) {
			c.Init = "/script"
			must(t, os.WriteFile(c.Root+"/script", []byte("#!/odd -x\n"), 0o755))
			must(t, os.WriteFile(c.Root+"/odd", []byte("\x7fELF rubbish"), 0o755))
		}, "its interpreter /odd cannot be run"},
		{"root out of reach", func(c *box) { must(t, os.Chmod(filepath.Dir(c.Root), 0o700)) }, "must be searchable"},
		{"root is empty", func(c *box) {
			c.Root = filepath.Join(filepath.Dir(c.Root), "empty")
			must(t, os.Mkdir(c.Root, 0o755))
		}, "is empty"},
		{"disk is a file", func(c *box) { c.Disks = []Disk{{Source: c.Root + "/etc/passwd", Target: "vdb"}} }, "not a block device"},
		{"no directory", func(c *box) { c.Filesystems = []Filesystem{{"/lxcboot-none", "/data", false}} }, "/data is not there: /lxcboot-none"},
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
			// Whatever libvirt says, and if it is nothing.
			text, err := cfg.XML()
			must(t, err)
			d, err := ParseDomain(text)
			must(t, err)
			silent := startError(cfg.UUID, "internal error: guest failed to start: Timed out while reading log output: ")
			silent.found(d.obstacle())
			if seen := len(cfg.Interfaces) == 0; seen && !strings.Contains(silent.Reason, tt.want) || silent.Reason == "" {
				t.Errorf("without libvirt's word: %q", silent.Reason)
			}
			info, err := h.State(limited(t), cfg.UUID)
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
	ctx, cancel := context.WithTimeout(limited(t), 30*time.Second)
	defer cancel()
	c.run(t, ExecOptions{}, "kill", "-TERM", "1")
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
}

// An init that has no handler would leave the caller waiting: it hears soon, and at once
// of one that had the time to come to one.
func TestShutdownUnheard(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	cfg.Init, cfg.InitArgs = "/bin/sleep", []string{"1000"}
	define(t, h, cfg)
	up(t, h, cfg)
	if err := h.Shutdown(limited(t), cfg.UUID); !errors.Is(err, ErrUnheard) {
		t.Errorf("just started: %v", err)
	}
	defer func(was, limit time.Duration) { young, deafLimit = was, limit }(young, deafLimit)
	young, deafLimit = 0, time.Hour
	if err := h.Shutdown(limited(t), cfg.UUID); !errors.Is(err, ErrUnheard) {
		t.Errorf("started long ago: %v", err)
	}
	if info, err := h.State(limited(t), cfg.UUID); err != nil || info.State != Running {
		t.Errorf("%+v, %v", info, err)
	}
}

// The container ends with its controller, however that ends.
func TestControllerKilled(t *testing.T) {
	h := open(t)
	c := start(t, h, config(t, ""))
	must(t, unix.Kill(c.PID, unix.SIGKILL))
	must(t, h.waitOff(limited(t), c.UUID))
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
	u, err := h.Usage(limited(t), c.UUID)
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
	must(t, h.Destroy(limited(t), c.UUID))
	if _, err := h.Usage(limited(t), c.UUID); !errors.Is(err, ErrNotRunning) {
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
	h := Dial(limited(t), "lxc+unix:///?socket=/nonexistent/libvirt-sock")
	defer h.Close()
	err := h.Ready(limited(t))
	if !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), "libvirtd -d") {
		t.Errorf("%v", err)
	}
}

// Where the driver is not there, opening the connection says so; the same word of another
// call is about something else.
func TestNoDriver(t *testing.T) {
	for _, uri := range []string{"lxcboot-none:///", "test:///default"} {
		h := Dial(limited(t), uri)
		defer h.Close()
		if err := h.Ready(limited(t)); !errors.Is(err, ErrNoDriver) {
			t.Errorf("%s: %v", uri, err)
		}
	}
	h := open(t)
	cfg := config(t, "")
	define(t, h, cfg)
	_, err := change(limited(t), h, cfg.Name, valueless(func(conn *libvirt.Connect) error {
		text := fmt.Sprintf("<domain type='lxc'><uuid>%s</uuid><name>%s</name><memory>65536</memory><os><type>exe</type><init>/bin/sh</init></os>"+
			"<devices><console type='file'><source path='/dev/null'/></console></devices></domain>", cfg.UUID, cfg.Name)
		dom, err := conn.DomainDefineXML(text)
		if err != nil {
			return err
		}
		defer dom.Free()
		return dom.Create()
	}))
	if err == nil || errors.Is(err, ErrNoDriver) || !strings.Contains(err.Error(), "PTY") {
		t.Errorf("something that libvirt does not support: %v", err)
	}
}

// After libvirtd was restarted the next call connects anew, once.
func TestReconnect(t *testing.T) {
	h := open(t)
	h.mu.Lock()
	first := h.conn
	h.mu.Unlock()
	calls := 0
	connected, err := ask(limited(t), h, "x", func(conn *libvirt.Connect) (bool, error) {
		if calls++; conn == first {
			return false, libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Domain: libvirt.FROM_RPC, Message: "client socket is closed"}
		}
		return true, nil
	})
	if err != nil || !connected || calls != 2 {
		t.Errorf("%v after %d calls", err, calls)
	}
	gone := libvirt.Error{Code: libvirt.ERR_SYSTEM_ERROR, Domain: libvirt.FROM_RPC, Message: "Cannot recv data: Connection reset by peer"}
	calls = 0
	_, err = ask(limited(t), h, "x", func(*libvirt.Connect) (int, error) { calls++; return calls, gone })
	if !errors.Is(err, ErrNoDaemon) || calls != 2 {
		t.Errorf("%v after %d calls", err, calls)
	}
	if _, err := h.ByName(limited(t), "lxcboot-none"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestCallHonoursContext(t *testing.T) {
	h := open(t)
	ctx, cancel := context.WithTimeout(limited(t), 50*time.Millisecond)
	defer cancel()
	stuck := make(chan struct{})
	defer close(stuck)
	_, err := ask(ctx, h, "x", func(*libvirt.Connect) (int, error) { <-stuck; return 0, nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// What changes something is waited for once it is begun, and not begun with a context
// that has ended.
func TestChangeIsWaitedFor(t *testing.T) {
	h := open(t)
	ctx, cancel := context.WithCancel(limited(t))
	set := func(*libvirt.Connect) (bool, error) {
		cancel()
		time.Sleep(100 * time.Millisecond)
		return true, nil
	}
	if changed, err := change(ctx, h, "x", set); err != nil || !changed {
		t.Errorf("changed: %v, %v", changed, err)
	}
	if changed, err := change(ctx, h, "x", set); !errors.Is(err, context.Canceled) || changed {
		t.Errorf("begun too late: %v, %v", changed, err)
	}
}
