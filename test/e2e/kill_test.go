//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/test/host"
)

// An operation is a command that is killed and interrupted at each point that it
// reaches. What it needs is done before each run; what is compared is the state
// before that.
type operation struct {
	name   string
	before [][]string
	args   []string
	// undone says that an interrupt is answered by undoing: with exit code 130 all
	// is as it was, without a delete.
	undone bool
}

var (
	bootArgs = []string{"boot", "--flavor", "m1.tiny", "--nic", "none",
		"--block-device", "source=image,id=busybox,dest=volume,size=1,shutdown=remove,bootindex=0",
		"--block-device", "source=volume,id=data,dest=volume,shutdown=preserve",
		"--block-device", "source=blank,dest=volume,size=1,shutdown=remove", "NAME"}
	operations = []operation{
		{name: "boot", args: bootArgs, undone: true},
		{name: "delete", before: [][]string{bootArgs}, args: []string{"delete", "NAME"}},
		{name: "stop", before: [][]string{bootArgs}, args: []string{"stop", "NAME"}},
		{name: "start", before: [][]string{bootArgs, {"stop", "NAME"}}, args: []string{"start", "NAME"}},
	}
)

// hidden are the store's directories while an object is made or deleted, and an
// instance's before it has a record and after it had one.
var hidden = regexp.MustCompile(`^\+ /((images|volumes|snapshots)/\.(new|old)-|instances/[0-9a-f-]{36}(/(lock|console\.log))? )`)

// TestKillAnywhere kills lxcboot with SIGKILL at every point between two effects,
// then deletes the instance: host and store are exactly as before the boot.
// What an object of the store that was half made leaves is removed by repair.
func TestKillAnywhere(t *testing.T) {
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "kill-"+op.name)
			for _, point := range w.points(op) {
				t.Run(point, func(t *testing.T) {
					w.t = t
					w.setUp(op)
					if code, out := w.faulty(point+"=kill", op.args...); code != -int(syscall.SIGKILL) {
						t.Errorf("not killed at %s: exit code %d\n%s", point, code, out)
					}
					w.delete()
					w.asBefore()
				})
			}
		})
	}
}

// TestInterruptAnywhere sends SIGINT at every point. A boot that is interrupted
// undoes everything itself; one that was too far on to be interrupted is whole.
func TestInterruptAnywhere(t *testing.T) {
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "int-"+op.name)
			for _, point := range w.points(op) {
				t.Run(point, func(t *testing.T) {
					w.t = t
					w.setUp(op)
					code, out := w.faulty(point+"=int", op.args...)
					switch {
					case code == 130 && op.undone:
						if code, _ := w.run("show", w.name); code != 3 {
							t.Errorf("interrupted, and the instance is still there: %s", out)
						}
					case code == 130 || code == 0:
						w.delete()
					default:
						t.Errorf("exit code %d\n%s", code, out)
						w.delete()
					}
					w.asBefore()
				})
			}
		})
	}
}

// A world is a state directory with an image and a volume in it.
type world struct {
	*holder
	t      *testing.T
	name   string
	before []string // the files of the state directory
}

func newWorld(t *testing.T, name string) *world {
	dir := filepath.Join(work, name)
	if err := os.Mkdir(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	w := &world{
		holder: &holder{work: dir, prefix: unique + "-" + name, state: filepath.Join(dir, "state"), runDir: filepath.Join(dir, "run")},
		t:      t, name: unique + "-" + name,
	}
	t.Cleanup(func() {
		for _, line := range w.cleanUp() {
			t.Errorf("left behind: %s", line)
		}
	})
	image := filepath.Join(dir, "disk.raw")
	if out, err := exec.Command("busybox-image", image).CombinedOutput(); err != nil {
		t.Fatalf("busybox-image: %v\n%s", err, out)
	}
	w.must("image", "import", image, "--name", "busybox")
	w.must("volume", "create", "--size", "1", "data")
	// The first boot makes lock files and directories that stay.
	w.must(bootArgs...)
	w.must("delete", "NAME")
	w.before = w.files()
	return w
}

// run runs lxcboot; the name NAME stands for the world's instance.
func (w *world) run(args ...string) (int, string) {
	return w.command("lxcboot", nil, args...)
}

// faulty runs the build that stops at points.
func (w *world) faulty(fault string, args ...string) (int, string) {
	return w.command("lxcboot-faults", []string{"LXCBOOT_FAULT=" + fault}, args...)
}

// command returns the exit code, or the signal's negative number.
func (w *world) command(program string, env []string, args ...string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	args = slices.Clone(args)
	for i := range args {
		if args[i] == "NAME" {
			args[i] = w.name
		}
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(append(os.Environ(), "LXCBOOT_STATE_DIR="+w.state, "LXCBOOT_RUN_DIR="+w.runDir), env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, string(out)
	case !errors.As(err, &exit):
		w.t.Fatalf("%s %s: %v", program, strings.Join(args, " "), err)
	case exit.Sys().(syscall.WaitStatus).Signaled():
		return -int(exit.Sys().(syscall.WaitStatus).Signal()), string(out)
	}
	return exit.ExitCode(), string(out)
}

func (w *world) must(args ...string) {
	w.t.Helper()
	if code, out := w.run(args...); code != 0 {
		w.t.Fatalf("lxcboot %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
}

func (w *world) setUp(op operation) {
	w.t.Helper()
	for _, args := range op.before {
		w.must(args...)
	}
}

// points are those that the operation reaches when nothing stops it.
func (w *world) points(op operation) []string {
	w.setUp(op)
	log := filepath.Join(w.work, "points")
	if code, out := w.command("lxcboot-faults", []string{"LXCBOOT_FAULT_LOG=" + log}, op.args...); code != 0 {
		w.t.Fatalf("%s fails without a fault: exit code %d\n%s", op.name, code, out)
	}
	w.delete()
	w.asBefore()
	data, err := os.ReadFile(log)
	if err != nil {
		w.t.Fatal(err)
	}
	points := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(points) < 3 {
		w.t.Fatalf("%s reaches the points %q only", op.name, points)
	}
	w.t.Logf("%d points", len(points))
	return points
}

// delete deletes the instance if there is one.
func (w *world) delete() {
	w.t.Helper()
	if code, out := w.run("delete", w.name); code != 0 && code != 3 {
		w.t.Errorf("delete: exit code %d\n%s", code, out)
	}
}

// asBefore compares the host and the state directory with what they were.
func (w *world) asBefore() {
	w.t.Helper()
	left, err := w.left(15 * time.Second)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(left) > 0 {
		w.t.Errorf("left on the host:\n%s", strings.Join(left, "\n"))
	}
	if entries, err := os.ReadDir(w.runDir); len(entries) > 0 {
		w.t.Errorf("%s is not empty: %v %v", w.runDir, entries, err)
	}
	// Objects that were never seen as such, or not any more, are for repair.
	if diff := host.Compare(w.before, w.files()); slices.ContainsFunc(diff, func(line string) bool { return !hidden.MatchString(line) }) {
		w.t.Errorf("the state directory is not as before:\n%s", strings.Join(diff, "\n"))
	} else if len(diff) > 0 {
		w.must("repair")
		if diff := host.Compare(w.before, w.files()); len(diff) > 0 {
			w.t.Errorf("repair leaves in the state directory:\n%s", strings.Join(diff, "\n"))
		}
	}
	if w.t.Failed() {
		w.cleanUp() // so that the next point starts from nothing
	}
}

// files is one line for each file of the state directory: its name and mode and,
// but for the large ones, its content.
func (w *world) files() host.State {
	var lines host.State
	err := filepath.WalkDir(w.state, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v", strings.TrimPrefix(path, w.state), info.Mode())
		if info.Mode().IsRegular() {
			line += fmt.Sprintf(" %d", info.Size())
			if info.Size() < 1<<20 {
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %x", sha256.Sum256(bytes.TrimSpace(data)))[:17]
			}
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}
