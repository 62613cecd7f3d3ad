//go:build e2e

// Package e2e runs the built binary against this host's libvirt, loop devices and
// filesystems. docs/testing.md says how to run one script and what the commands
// in the scripts are.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/lxcboot/lxcboot/test/host"
)

// work holds all that the run makes: bin/ with the binaries, and a directory for
// each script. unique is part of each name that this run gives to a container.
var work, unique string

// holders counts those that a share of the host was given to.
var holders atomic.Int32

// ownName is what the names of one share of the host begin with. Of two shares neither's
// is the beginning of the other's, as "life-run" is of "life-run-codes": one would take
// the other's container for its own.
func ownName(name string) string {
	return fmt.Sprintf("%s-%03d-%s", unique, holders.Add(1), name)
}

func TestNamesApart(t *testing.T) {
	whole := func(name string) string { return "domain " + name + "-b" }
	first, second := ownName("run"), ownName("run-codes")
	if h := (&holder{work: "/nowhere", prefix: first}); len(h.pick(host.State{whole(first), whole(second)})) != 1 {
		t.Errorf("a share named %s takes what belongs to %s for its own", first, second)
	}
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 0, fmt.Errorf("needs root, a libvirtd that answers at lxc:///, and what test/setup/install test installs")
	}
	ctx := context.Background()
	before, err := host.Look(ctx)
	if err != nil {
		return 0, err
	}
	work, err = os.MkdirTemp("", "lxcboot-e2e-")
	if err != nil {
		return 0, err
	}
	// A container's root, who is nobody here, has to get through to its mountpoint.
	if err := os.Chmod(work, 0o711); err != nil {
		return 0, err
	}
	unique = "e2e" + work[len(work)-4:]
	if err := build(filepath.Join(work, "bin")); err != nil {
		return 0, err
	}
	// Only what a script says itself counts.
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "LXCBOOT_") || strings.HasPrefix(name, "OS_") {
			os.Unsetenv(name)
		}
	}
	os.Setenv("PATH", filepath.Join(work, "bin")+":"+os.Getenv("PATH"))

	code := m.Run()

	mine := func(s host.State) host.State { return s.Of(work+"/", unique, "/run/lxcboot/") }
	left, err := host.Settle(ctx, mine(before), mine, 20*time.Second)
	if err != nil {
		return code, err
	}
	if len(left) > 0 {
		return code, fmt.Errorf("the tests left this behind; %s is kept:\n%s", work, strings.Join(left, "\n"))
	}
	if os.Getenv("E2E_KEEP") != "" {
		fmt.Println("kept:", work)
		return code, nil
	}
	return code, os.RemoveAll(work) // no mount is left in it
}

// build makes what scripts find in PATH: the programs, and scripts of test/setup. A host
// without Go has them ready in the directory that E2E_BIN names.
func build(bin string) error {
	if made := os.Getenv("E2E_BIN"); made != "" {
		return os.Symlink(made, bin)
	}
	if err := host.Build(bin); err != nil {
		return err
	}
	for _, name := range []string{"busybox-image", "private-libvirtd"} {
		script, err := filepath.Abs("../setup/" + name)
		if err != nil {
			return err
		}
		if err := os.Symlink(script, filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	return nil
}

// TestScripts runs testdata/*.txtar, several at a time.
// quiet is a test that shows only the section of a script that failed, also where all
// tests are run with -v to be counted.
type quiet struct{ *testing.T }

func (q quiet) Run(name string, f func(testscript.T)) {
	q.T.Run(name, func(t *testing.T) { f(quiet{t}) })
}

func (quiet) Verbose() bool { return false }

func runScripts(t *testing.T, p testscript.Params) { testscript.RunT(quiet{t}, p) }

func TestScripts(t *testing.T) {
	root := filepath.Join(work, "s")
	if err := os.Mkdir(root, 0o711); err != nil {
		t.Fatal(err)
	}
	runScripts(t, testscript.Params{
		Dir:                 "testdata",
		WorkdirRoot:         root,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Cmds:                commands,
		Condition:           condition,
	})
}

// condition is what a line of a script may depend on.
func condition(name string) (bool, error) {
	switch name {
	case "freezer": // libvirt suspends containers by version 1 of control groups alone
		_, err := os.Stat("/sys/fs/cgroup/freezer")
		return err == nil, nil
	case "squashfs-ids": // Linux 6.2 maps those of squashfs
		return linux(6, 2)
	case "btrfs-twins": // Linux 6.7 mounts two btrfs of one UUID
		return linux(6, 7)
	}
	return false, fmt.Errorf("%q is no condition", name)
}

// linux says whether the kernel is of this version or a later one.
func linux(major, minor int) (bool, error) {
	var x, y int
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err == nil {
		_, err = fmt.Sscanf(string(release), "%d.%d", &x, &y)
	}
	return x > major || x == major && y >= minor, err
}

// setup gives a script a state directory and a prefix for names of its own, and
// sees at its end that it left nothing behind.
func setup(env *testscript.Env) error {
	return setupNamed(env, strings.TrimPrefix(filepath.Base(env.WorkDir), "script-"))
}

func setupNamed(env *testscript.Env, name string) error {
	h := &holder{terminals: map[string]*terminal{}, work: env.WorkDir, prefix: ownName(name), state: filepath.Join(env.WorkDir, "state"), runDir: filepath.Join(env.WorkDir, "run")}
	silent, err := listenSilently()
	if err != nil {
		return err
	}
	env.Defer(func() { silent.Close() })
	h.silent = silent
	env.Setenv("SILENT", silent.Addr().String())
	env.Setenv("N", h.prefix)
	env.Setenv("STATE", h.state)
	env.Setenv("LXCBOOT_STATE_DIR", h.state)
	env.Setenv("LXCBOOT_RUN_DIR", h.runDir)
	if err := os.Chmod(env.WorkDir, 0o711); err != nil {
		return err
	}
	env.Values[holderKey{}] = h
	t := env.T()
	env.Defer(func() {
		if left := h.cleanUp(); len(left) > 0 {
			t.Fatal("left behind at the end:\n" + strings.Join(left, "\n"))
		}
	})
	return nil
}

type holderKey struct{}

// A holder is one script's share of the host.
type holder struct {
	work, prefix, state, runDir string
	connect                     string     // its libvirt, when that is not the host's
	base                        host.State // what the script itself made with smallfs
	small                       []string   // where
	undo                        []func()
	terminals                   map[string]*terminal
	silent                      *silent
}

// pick is the script's share of a state. Another script's libvirtd, which comes and goes,
// has what smallfs mounted before it was started.
func (h *holder) pick(s host.State) host.State {
	return slices.DeleteFunc(s.Of(h.work+"/", h.prefix), func(line string) bool {
		return slices.ContainsFunc(h.small, func(dir string) bool { return strings.HasPrefix(line, "libvirtd-mount "+dir+" ") })
	})
}

// left is what the script's lxcboot holds on the host.
func (h *holder) left(limit time.Duration) ([]string, error) {
	return host.Settle(context.Background(), h.base, h.pick, limit)
}

// cleanUp deletes the instances that the script left, as a user would, and then
// says what is left all the same; the last resort makes room for other scripts.
func (h *holder) cleanUp() []string {
	var left []string
	entries, _ := os.ReadDir(filepath.Join(h.state, "instances"))
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		out, err := h.lxcboot("delete", "--force", e.Name())
		if err != nil {
			left = append(left, fmt.Sprintf("delete of instance %s: %v: %s", e.Name(), err, out))
		}
	}
	for i := len(h.undo) - 1; i >= 0; i-- {
		h.undo[i]()
	}
	h.base = nil
	held, err := h.left(15 * time.Second)
	if err != nil {
		return append(left, err.Error())
	}
	for _, line := range held {
		left = append(left, line)
		purge(strings.Fields(line))
	}
	return left
}

func (h *holder) lxcboot(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "lxcboot", args...)
	cmd.Env = append(os.Environ(), "LXCBOOT_STATE_DIR="+h.state, "LXCBOOT_RUN_DIR="+h.runDir)
	if h.connect != "" {
		cmd.Env = append(cmd.Env, "LXCBOOT_CONNECT="+h.connect)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// purge takes one line of a difference off the host, by force.
func purge(line []string) {
	if len(line) < 3 || line[0] != "+" {
		return
	}
	switch kind, what := line[1], line[2]; kind {
	case "domain":
		exec.Command("virsh", "-c", "lxc:///", "destroy", what).Run()
		exec.Command("virsh", "-c", "lxc:///", "undefine", what).Run()
	case "process":
		exec.Command("kill", "-KILL", what).Run()
	case "mount":
		exec.Command("umount", "--lazy", what).Run()
	case "loop":
		exec.Command("losetup", "--detach", "/dev/"+what).Run()
	}
}
