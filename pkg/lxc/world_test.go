package lxc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/proc"
)

// box is a container and what its init is told.
type box struct {
	Config
	Init       string
	InitArgs   []string
	InitEnv    map[string]string
	Hostname   string
	Privileged bool
	Unfiltered bool
}

// mount mounts the launch of the box, which is not held.
func (b box) mount(t *testing.T) {
	t.Helper()
	l := Launch{Group: b.groups(t), Program: initProgram, Init: b.Init, Args: b.InitArgs, Env: b.InitEnv, Hostname: b.Hostname, Privileged: b.Privileged, Unfiltered: b.Unfiltered}
	must(t, l.Mount(b.Launch))
	must(t, ReleaseInit(limited(t), b.Launch))
}

// groups makes the box's control groups.
func (b box) groups(t *testing.T) string {
	t.Helper()
	owner := 0
	if b.IDMap != nil {
		owner = int(b.IDMap.HostID)
	}
	own, err := cgroup.Make(limited(t), b.UUID, owner, cgroup.Limits{MemoryMiB: b.MemoryMiB, VCPUs: b.VCPUs, Processes: 4096})
	must(t, err)
	return own
}

// up starts a defined container and waits for its init.
func up(t *testing.T, h *Host, cfg box) {
	t.Helper()
	must(t, tryUp(t, h, cfg))
}

func tryUp(t *testing.T, h *Host, cfg box) error {
	t.Helper()
	cfg.mount(t)
	info, err := h.Start(limited(t), cfg.UUID)
	if err == nil {
		_, err = h.WaitInit(limited(t), info)
	}
	return err
}

var applets = "sh ls cat ps mount umount sleep echo grep id tty reboot poweroff halt stty env pwd dd true false kill test hostname printf head wc seq mkdir touch chmod find tail"

const inittab = `::sysinit:/etc/rc
::respawn:/bin/sleep 1000
::shutdown:/bin/echo last words
`

// testIDs is the range of host ids of the containers of these tests.
const testIDs = 800_000

// makeRoot makes a root filesystem with busybox as init, owned by the container's
// root. rc is the script that its init runs first, on the console.
func makeRoot(t *testing.T, owner int, rc string) string {
	t.Helper()
	root := filepath.Join(searchable(t, owner), "root")
	for _, d := range []string{"bin", "sbin", "etc", "dev", "proc", "sys", "tmp", "root", "run", "home/bob", "data"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	busybox, err := os.ReadFile("/usr/bin/busybox")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755))
	for _, a := range strings.Fields(applets) {
		must(t, os.Symlink("busybox", filepath.Join(root, "bin", a)))
	}
	must(t, os.Symlink("../bin/busybox", filepath.Join(root, "sbin/init")))
	for name, text := range map[string]string{
		"etc/inittab": inittab,
		"etc/passwd":  "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001:Bob:/home/bob:/bin/sh\n",
		"etc/group":   "root:x:0:\nbob:x:1001:\nwheel:x:10:alice,bob\n",
		"etc/rc":      "#!/bin/sh\nexport PATH=/bin\n" + rc,
	} {
		must(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o755))
	}
	must(t, filepath.Walk(root, func(p string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, owner, owner)
	}))
	must(t, os.Chown(filepath.Join(root, "home/bob"), owner+1000, owner+1001))
	return root
}

// searchable makes a directory that the container's root may pass through, and
// other users may not: libvirt reaches a root by its path from inside the user
// namespace.
func searchable(t *testing.T, owner int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lxcboot-ut-")
	must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	must(t, os.Chown(dir, 0, owner))
	must(t, os.Chmod(dir, 0o710))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// limited is the test's context, with an end long before that of the whole suite.
func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T) *Host {
	t.Helper()
	return dialTo(t, "")
}

// dialTo connects to a libvirtd, which must be there.
func dialTo(t *testing.T, uri string) *Host {
	t.Helper()
	h := Dial(limited(t), uri)
	t.Cleanup(h.Close)
	must(t, h.Ready(limited(t)))
	return h
}

// config is a container in a user namespace whose root is made here.
func config(t *testing.T, rc string) box {
	t.Helper()
	return boxOf(t, makeRoot(t, testIDs, rc), &IDMap{HostID: testIDs, Count: 65536})
}

// privileged is one without a user namespace.
func privileged(t *testing.T, rc string) box {
	t.Helper()
	b := boxOf(t, makeRoot(t, 0, rc), nil)
	b.Privileged = true
	return b
}

func boxOf(t *testing.T, root string, ids *IDMap) box {
	t.Helper()
	launch := filepath.Join(filepath.Dir(root), "launch")
	must(t, os.Mkdir(launch, 0o755))
	t.Cleanup(func() { must(t, UnmountLaunch(launch)) })
	return box{
		Config: Config{
			UUID: uuid.NewString(), Name: "lxcboot-ut-" + uuid.NewString()[:8],
			MemoryMiB: 64, VCPUs: 1, Root: root, Launch: launch, IDMap: ids,
		},
		Init: "/sbin/init", Hostname: "web1",
	}
}

// define defines a container and sees that nothing of it stays.
func define(t *testing.T, h *Host, cfg box) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := h.Destroy(ctx, cfg.UUID); err != nil {
			t.Errorf("clean-up: %v", err)
		}
		if err := h.Undefine(ctx, cfg.UUID); err != nil {
			t.Errorf("clean-up: %v", err)
		}
		if err := cgroup.Remove(ctx, cfg.UUID); err != nil {
			t.Errorf("clean-up: %v", err)
		}
	})
	must(t, h.Define(limited(t), cfg.Config))
}

// container is one that runs, with its console served.
type container struct {
	*Host
	box
	Info
	console proc.Process
	log     string
	socket  string
}

func start(t *testing.T, h *Host, cfg box) *container {
	t.Helper()
	define(t, h, cfg)
	up(t, h, cfg)
	return serve(t, h, cfg)
}

func serve(t *testing.T, h *Host, cfg box) *container {
	t.Helper()
	dir := t.TempDir()
	c := &container{Host: h, box: cfg, log: filepath.Join(dir, "console.log"), socket: filepath.Join(dir, "console.sock")}
	var err error
	c.Info, err = h.State(limited(t), cfg.UUID)
	must(t, err)
	c.console, err = c.keep(t)
	must(t, err)
	t.Cleanup(func() {
		if err := h.Destroy(context.Background(), cfg.UUID); err != nil {
			t.Error(err)
		}
		if err := console.Stop(context.Background(), c.console); err != nil {
			t.Error(err)
		}
	})
	return c
}

// TestMain lets the test's own program be the process that keeps a console, or one that
// holds an init.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "console-serve" {
		if err := console.Keep(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 2 && os.Args[1] == "hold-init" {
		if _, err := HoldInit(os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(run(m))
}

// initProgram is lxcboot-init, built for these tests.
var initProgram string

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "lxcboot-ut-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	initProgram = filepath.Join(dir, programName)
	if out, err := exec.Command("../../cmd/lxcboot-init/build", initProgram).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "cannot build %s: %v\n%s", programName, err, out)
		return 1
	}
	return m.Run()
}

// keep starts the process that keeps the container's console.
func (c *container) keep(t *testing.T) (proc.Process, error) {
	t.Helper()
	terminal, err := console.Open(c.PID)
	if err != nil {
		return proc.Process{}, err
	}
	defer terminal.Close()
	return console.Start([]string{os.Args[0], "console-serve"}, terminal, console.Options{LogPath: c.log, SocketPath: c.socket, Ended: []string{"/usr/bin/touch", c.log + ".ended"}})
}

// waitLog waits until the log holds a text, and gives it.
func (c *container) waitLog(t *testing.T, text string) string {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		log := c.readLog(t)
		if strings.Contains(log, text) {
			return log
		}
		if time.Now().After(end) {
			t.Fatalf("the console log has no %q:\n%s", text, log)
		}
	}
}

func (c *container) readLog(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	must(t, console.ReadLog(c.log, 0, &b))
	return strings.ReplaceAll(b.String(), "\r\n", "\n")
}

// run executes a program and gives its exit code and outputs.
func (c *container) run(t *testing.T, o ExecOptions, argv ...string) (int, string, string) {
	t.Helper()
	code, out, errs, err := c.try(t, o, argv...)
	if err != nil {
		t.Fatalf("%q: %v", argv, err)
	}
	return code, out, errs
}

func (c *container) try(t *testing.T, o ExecOptions, argv ...string) (int, string, string, error) {
	t.Helper()
	var out, errs buffer
	o.Argv, o.Stdout, o.Stderr, o.Program = argv, &out, &errs, initProgram
	code, err := c.Exec(limited(t), c.UUID, o)
	return code, out.String(), errs.String(), err
}

// buffer is one that several goroutines may use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

var _ io.Writer = (*buffer)(nil)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

// closeLimit is how long libvirt may take for the last call.
var closeLimit = 5 * time.Second

// Close ends the connection, which commands leave to the end of their process. What still waits for libvirt is left behind, and so is
// the connection when libvirtd does not answer any more.
func (h *Host) Close() {
	h.mu.Lock()
	conn := h.conn
	h.conn = nil
	h.mu.Unlock()
	if conn == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn.Close()
	}()
	select {
	case <-done:
	case <-time.After(closeLimit):
	}
}
