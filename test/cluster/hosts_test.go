//go:build cluster

package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
)

// A Cluster is some hosts on one bridge. On this machine they are namespaces, processes,
// control groups and files, which go with the test.
//
// A host sees what the machine has installed, and over it the product as make install
// installs it; what it writes to /etc, /usr and /var is its own, and is there again after
// the plug. /srv/shared is the same directory on all. It has an address, a name, a machine
// id, a boot id that changes with each start, and processes of its own.
type Cluster struct {
	Hosts []*Host // n1, n2, …

	t   *testing.T
	dir string
	hub *exec.Cmd // has the bridge in its network namespace
}

// A Host of a cluster.
type Host struct {
	Name    string // n1
	Address string // 10.77.0.1

	c        *Cluster
	services []string
	mu       sync.Mutex // at the plug
	init     *exec.Cmd  // its process 1; nil: it is off
}

// limit is how long a host may take to do what takes a moment, on a slow machine.
const limit = 3 * time.Minute

// Up starts n hosts, each with the services in their order, and waits until all are up. They
// are files beside this one, in services/, run by bash as root on the host; what is started
// there has to go to the background by itself. The test's end takes all away again.
func Up(t *testing.T, n int, services ...string) *Cluster {
	t.Helper()
	if groups, err := hierarchies(); err != nil || len(groups) == 0 {
		t.Skipf("this machine has no control groups of version 1, of which hosts are made: %v", err)
	}
	c := &Cluster{t: t, dir: filepath.Join(work, fmt.Sprintf("c%d", clusters.Add(1)))}
	for _, dir := range []string{"", "power", "shared"} {
		if err := os.Mkdir(filepath.Join(c.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	here, err := filepath.Abs("services")
	if err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"services": here, "install": filepath.Join(work, "install")} {
		if err := os.Symlink(to, filepath.Join(c.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	names := "127.0.0.1 localhost\n"
	for i := 1; i <= n; i++ {
		h := &Host{Name: fmt.Sprintf("n%d", i), Address: fmt.Sprintf("10.77.0.%d", i), c: c, services: services}
		names += h.Address + " " + h.Name + "\n"
		c.Hosts = append(c.Hosts, h)
		if err := os.Mkdir(h.path(), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(c.dir, "hosts"), []byte(names), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.down)
	if slices.Contains(services, "cloud") {
		if err := c.serveCloud(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.plugHub(); err != nil {
		t.Fatal(err)
	}
	if err := c.servePower(); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	for _, h := range c.Hosts {
		go func() { errs <- h.on() }()
	}
	for range c.Hosts {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Host is the one of that name.
func (c *Cluster) Host(name string) *Host {
	for _, h := range c.Hosts {
		if h.Name == name {
			return h
		}
	}
	c.t.Fatalf("there is no host %q", name)
	return nil
}

// Shared is where /srv/shared of the hosts is on this machine.
func (c *Cluster) Shared() string { return filepath.Join(c.dir, "shared") }

// Image gives the hosts an image of busybox, at /srv/shared/busybox.raw.
func (c *Cluster) Image() {
	c.t.Helper()
	if out, err := exec.Command("../setup/busybox-image", filepath.Join(c.Shared(), "busybox.raw")).CombinedOutput(); err != nil {
		c.t.Fatalf("busybox-image: %v\n%s", err, out)
	}
}

// Run runs a program on the host, as root, and gives its exit code, or the signal's negative
// number, and what it printed on stdout and stderr. A host that is off is -1.
func (h *Host) Run(ctx context.Context, argv ...string) (code int, output string) {
	cmd, err := h.Command(ctx, argv...)
	if err != nil {
		return -1, err.Error()
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case !errors.As(err, &exit):
		return -1, string(out) + err.Error()
	case exit.Sys().(syscall.WaitStatus).Signaled():
		return -int(exit.Sys().(syscall.WaitStatus).Signal()), string(out)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// Must is Run of what has to end with 0 and in time. It gives stdout and stderr without the
// line's end.
func (h *Host) Must(argv ...string) string {
	h.c.t.Helper()
	ctx, cancel := context.WithTimeout(h.c.t.Context(), limit)
	defer cancel()
	code, out := h.Run(ctx, argv...)
	if code != 0 {
		h.c.t.Fatalf("%s: %s: exit code %d\n%s", h.Name, strings.Join(argv, " "), code, out)
	}
	return strings.TrimSuffix(out, "\n")
}

// Command is a command that will run on the host, in its control groups and namespaces.
func (h *Host) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.init == nil {
		return nil, fmt.Errorf("%s is off", h.Name)
	}
	const enter = `while read -r group; do echo 0 >"$group/cgroup.procs"; done <"$1"; shift; exec nsenter "$@"`
	cmd := exec.CommandContext(ctx, "bash", append([]string{"-euc", enter, "bash", h.path("groups"),
		"--target", fmt.Sprint(h.init.Process.Pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--wd=/",
		"setpriv", "--pdeathsig", "KILL", // nsenter's child, which does not end with it by itself
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "HOST=" + h.Name}, argv...)...)
	cmd.WaitDelay = 10 * time.Second
	return cmd, nil
}

// Write writes a file of the host; its directories are made.
func (h *Host) Write(path, content string, mode os.FileMode) {
	h.c.t.Helper()
	cmd, err := h.Command(h.c.t.Context(), "sh", "-euc", `mkdir -p "$(dirname "$1")"; cat >"$1"; chmod "$2" "$1"`, "sh", path, fmt.Sprintf("%o", mode))
	if err != nil {
		h.c.t.Fatal(err)
	}
	cmd.Stdin = strings.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		h.c.t.Fatalf("%s: writing %s: %v\n%s", h.Name, path, err, out)
	}
}

// Console is what the host's start and its services said.
func (h *Host) Console() string {
	data, err := os.ReadFile(h.path("console"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Wait looks again and again until what is so, and fails the test when it is not within
// what a moment may take. saw is what to say then.
func (c *Cluster) Wait(what string, is func() (ok bool, saw string)) {
	c.t.Helper()
	c.WaitFor(limit, what, is)
}

// WaitFor is Wait with a limit of its own.
func (c *Cluster) WaitFor(limit time.Duration, what string, is func() (ok bool, saw string)) {
	c.t.Helper()
	var saw string
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var ok bool
		if ok, saw = is(); ok {
			return
		}
	}
	c.t.Fatalf("after %v still not: %s\n%s", limit, what, saw)
}

// path is of a file on this machine that belongs to the host.
func (h *Host) path(name ...string) string {
	return filepath.Join(append([]string{h.c.dir, h.Name}, name...)...)
}

// groups makes the host's control groups, anew, and notes them for who enters them.
func (h *Host) groups() error {
	if err := removeGroups(h.c.dir, h.Name); err != nil {
		return err
	}
	hierarchies, err := hierarchies()
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, top := range hierarchies {
		dir := filepath.Join(top, filepath.Base(work), filepath.Base(h.c.dir), h.Name)
		for at := top; at != dir; {
			rest, _ := filepath.Rel(at, dir)
			first, _, _ := strings.Cut(rest, "/")
			below := filepath.Join(at, first)
			if err := os.Mkdir(below, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			// A new group of cpuset has none of either, and takes no process.
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				if data, err := os.ReadFile(filepath.Join(at, file)); err == nil {
					if err := os.WriteFile(filepath.Join(below, file), data, 0); err != nil {
						return err
					}
				}
			}
			at = below
		}
		fmt.Fprintln(&list, dir)
	}
	return os.WriteFile(h.path("groups"), []byte(list.String()), 0o644)
}

// hierarchies are this process's groups in each hierarchy of cgroup v1.
func hierarchies() ([]string, error) {
	own, err := cgroup.Of(os.Getpid())
	if err != nil {
		return nil, err
	}
	groups, err := cgroup.Dirs(own)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, g := range groups {
		if !g.V2() {
			dirs = append(dirs, g.Dir)
		}
	}
	return dirs, nil
}

// removeGroups removes the groups of a cluster or of a host of it, which have no process.
func removeGroups(names ...string) error {
	tops, err := hierarchies()
	for _, top := range tops {
		dir := filepath.Join(top, filepath.Base(work))
		for _, name := range names {
			dir = filepath.Join(dir, filepath.Base(name))
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		err = errors.Join(err, cgroup.RemoveTree(ctx, dir))
		cancel()
	}
	return err
}

// spawn starts a process that is killed when this one ends, however that comes: the kernel
// does it when the thread ends that started it, so that is one which does not.
func spawn(cmd *exec.Cmd) error {
	spawner.Do(func() {
		go func() {
			runtime.LockOSThread()
			for start := range starts {
				start()
			}
		}()
	})
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig, cmd.SysProcAttr.Setsid = unix.SIGKILL, true
	done := make(chan error)
	starts <- func() { done <- cmd.Start() }
	return <-done
}

var (
	spawner sync.Once
	starts  = make(chan func())
)

// plugHub makes the bridge, in a network namespace that has no other use.
func (c *Cluster) plugHub() error {
	c.hub = exec.Command("sh", "-euc", "ip link add br0 type bridge; ip link set br0 up; ip link set lo up; echo up; exec sleep infinity")
	c.hub.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	c.hub.Stderr = os.Stderr
	out, err := c.hub.StdoutPipe()
	if err != nil {
		return err
	}
	if err := spawn(c.hub); err != nil {
		return err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		return fmt.Errorf("the bridge is not there: %w", err)
	}
	return nil
}

// ip changes the network beside the hosts.
func (c *Cluster) ip(argv ...string) error {
	argv = append([]string{"--target", fmt.Sprint(c.hub.Process.Pid), "--net", "ip"}, argv...)
	if out, err := exec.Command("nsenter", argv...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}

// down takes all away, and says what cannot be.
func (c *Cluster) down() {
	var err error
	for _, h := range c.Hosts {
		err = errors.Join(err, h.off())
		if c.t.Failed() {
			c.t.Logf("console of %s:\n%s", h.Name, h.Console())
		}
	}
	if c.hub != nil && c.hub.Process != nil {
		_ = c.hub.Process.Kill()
		_ = c.hub.Wait()
	}
	err = errors.Join(err, removeGroups(c.dir), detachLoops(c.dir))
	if err == nil {
		err = os.RemoveAll(c.dir)
	}
	if err != nil {
		c.t.Errorf("taking the hosts away: %v", err)
	}
}

// boot starts the host's first process, with its cable in, and gives what it says.
func (h *Host) boot() (said io.ReadCloser, err error) {
	if err := h.groups(); err != nil {
		return nil, err
	}
	console, err := os.OpenFile(h.path("console"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	script, err := filepath.Abs("host")
	if err != nil {
		return nil, err
	}
	init := exec.Command(script, append([]string{"start", h.c.dir, h.Name, h.Address}, h.services...)...)
	init.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"}
	init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWPID}
	init.Stdout, init.Stderr = console, console
	plugged, err := init.StdinPipe()
	if err != nil {
		return nil, err
	}
	said, end, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer end.Close()
	init.ExtraFiles = []*os.File{end}
	if err := spawn(init); err != nil {
		said.Close()
		return nil, err
	}
	h.init = init
	defer plugged.Close()
	if err := h.c.ip("link", "add", h.port(), "type", "veth",
		"peer", "name", "eth0", "address", h.mac(), "netns", fmt.Sprint(init.Process.Pid)); err != nil {
		return said, err
	}
	if err := h.c.ip("link", "set", h.port(), "master", "br0", "up"); err != nil {
		return said, err
	}
	_, err = plugged.Write([]byte("\n"))
	return said, err
}

// mac is the host's hardware address, which stays: others remember it.
func (h *Host) mac() string {
	ip := net.ParseIP(h.Address).To4()
	return net.HardwareAddr{2, 0, ip[0], ip[1], ip[2], ip[3]}.String()
}

// port is the bridge's end of the host's cable.
func (h *Host) port() string { return "port-" + h.Name }
