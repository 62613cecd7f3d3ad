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
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/test/host"
)

// A world is a state directory with an image in it, and two volumes: "data", which is
// blank, and "shelf" with a filesystem.
type world struct {
	*holder
	t      *testing.T
	name   string
	before []string // the files of the state directory
	count  *tally
	again  func() // brings back what cleanUp ends
	store  bool   // no container runs in it: the host is compared after each operation only
}

// newStoreWorld is a world in which no container was ever started.
func newStoreWorld(t *testing.T, name string, count *tally) *world {
	return newWorldWith(t, name, count, func(w *world) {
		w.must("repair")
		w.store = true
	})
}

// newWorld is a world with the lock files and directories that the first boot makes
// and that stay.
func newWorld(t *testing.T, name string, count *tally) *world {
	return newWorldWith(t, name, count, func(w *world) {
		w.must(smallArgs...)
		w.must("delete", "NAME")
	})
}

func newWorldWith(t *testing.T, name string, count *tally, begin func(*world)) *world {
	dir := filepath.Join(work, name)
	if err := os.Mkdir(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	prefix := ownName(name)
	w := &world{
		holder: &holder{work: dir, prefix: prefix, state: filepath.Join(dir, "state"), runDir: filepath.Join(dir, "run")},
		t:      t, name: prefix, count: count,
	}
	t.Cleanup(func() {
		for _, line := range w.cleanUp() {
			t.Errorf("left behind: %s", line)
		}
	})
	w.must("image", "import", "IMAGE", "--name", "busybox")
	w.must("volume", "create", "--size", "1", "data")
	w.must("volume", "create", "--size", "1", "shelf")
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", w.dataOf("shelf")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	begin(w)
	w.before = w.files()
	return w
}

// images makes the image of all worlds, as IMAGE and as QCOW2.
var images = sync.OnceValues(func() (dir string, err error) {
	dir = filepath.Join(work, "images")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return dir, err
	}
	out, err := exec.Command("sh", "-c", `busybox-image "$1/disk.raw" && qemu-img convert -O qcow2 "$1/disk.raw" "$1/disk.qcow2"`, "sh", dir).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return dir, err
})

// words puts the world's own names for those of an operation.
func (w *world) words(args []string) []string {
	dir, err := images()
	if err != nil {
		w.t.Fatal(err)
	}
	args = slices.Clone(args)
	for i, a := range args {
		switch {
		case a == "IMAGE":
			args[i] = filepath.Join(dir, "disk.raw")
		case a == "QCOW2":
			args[i] = filepath.Join(dir, "disk.qcow2")
		case strings.HasPrefix(a, "NAME"):
			args[i] = w.name + strings.TrimPrefix(a, "NAME")
		}
	}
	return args
}

// run runs lxcboot.
func (w *world) run(args ...string) (int, string) {
	return w.command("lxcboot", nil, args...)
}

// faulty runs the build that stops at points.
func (w *world) faulty(fault string, args ...string) (int, string) {
	return w.command("lxcboot-faults", []string{"LXCBOOT_FAULT=" + fault}, args...)
}

// kill runs lxcboot until it is killed at the point.
func (w *world) kill(point string, args ...string) {
	w.t.Helper()
	if code, out := w.faulty(point+"=kill", args...); code != -int(syscall.SIGKILL) {
		w.t.Errorf("%s is not killed at %s: exit code %d\n%s", args[0], point, code, out)
	}
}

// commandLimit is how long a command may take before it counts as hanging.
const commandLimit = 2 * time.Minute

// command returns the exit code, or the signal's negative number.
func (w *world) command(program string, env []string, args ...string) (int, string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, w.words(args)...)
	cmd.Env = append(w.env(), env...)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		w.t.Fatalf("%s %s hangs: it has not ended after %v\n%s", program, strings.Join(args, " "), commandLimit, out)
	}
	code, err := exitCode(err)
	if err != nil {
		w.t.Fatalf("%s %s: %v", program, strings.Join(args, " "), err)
	}
	return code, string(out)
}

func (w *world) env() []string {
	env := append(os.Environ(), "LXCBOOT_STATE_DIR="+w.state, "LXCBOOT_RUN_DIR="+w.runDir)
	if w.connect != "" {
		env = append(env, "LXCBOOT_CONNECT="+w.connect)
	}
	return env
}

// exitCode is what a program ended with: its code, or the signal's negative number.
func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 0, err
	case exit.Sys().(syscall.WaitStatus).Signaled():
		return -int(exit.Sys().(syscall.WaitStatus).Signal()), nil
	}
	return exit.ExitCode(), nil
}

func (w *world) must(args ...string) string {
	w.t.Helper()
	code, out := w.run(args...)
	if code != 0 {
		w.t.Fatalf("lxcboot %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

func (w *world) setUp(op operation) {
	w.t.Helper()
	for _, args := range op.before {
		w.must(args...)
	}
}

// reached are the points of each operation, once they are known.
var reached sync.Map

// points are those that the operation reaches when nothing stops it.
func (w *world) points(op operation) []string {
	if points, ok := reached.Load(op.name); ok {
		return points.([]string)
	}
	w.setUp(op)
	points := w.logged(op.args...)
	w.tidy(op)
	w.asBefore()
	w.t.Logf("%s has %d points", op.name, len(points))
	reached.Store(op.name, points)
	return points
}

// logged runs lxcboot to its end, and gives the points that it reached, but for the one of
// what another process did at the same time.
func (w *world) logged(args ...string) []string {
	w.t.Helper()
	log := filepath.Join(w.work, "points")
	if err := os.RemoveAll(log); err != nil {
		w.t.Fatal(err)
	}
	if code, out := w.command("lxcboot-faults", []string{"LXCBOOT_FAULT_LOG=" + log}, args...); code != 0 && code != 3 {
		w.t.Fatalf("%s fails without a fault: exit code %d\n%s", args[0], code, out)
	}
	data, err := os.ReadFile(log)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(string(data), "\n"), func(s string) bool { return s == "" || strings.HasPrefix(s, "door/changed meanwhile#") })
}

// tidy deletes what the operation may have made, as far as it is there.
func (w *world) tidy(op operation) {
	w.t.Helper()
	for _, args := range op.after {
		if code, out := w.run(args...); code != 0 && code != 3 {
			w.t.Errorf("%s: exit code %d\n%s", strings.Join(args, " "), code, out)
		}
	}
}

// view is what a user sees of all that the operation may change.
func (w *world) view(op operation) string {
	if !op.undone {
		return ""
	}
	w.t.Helper()
	// Without what is kept of an image to be quick, which comes and goes by itself.
	lists := [][]string{{"volume", "list"}, {"image", "list", "-c", "ID", "-c", "Name", "-c", "Status", "-c", "Size"}, {"snapshot", "list"}}
	if !op.store {
		lists = [][]string{{"list", "--all"}, {"volume", "list"}}
	}
	var all string
	for _, args := range lists {
		all += w.must(append(args, "-f", "value")...)
	}
	return all
}

// works sees that nothing is half there, that containers which run run, and that the
// others can be started.
func (w *world) works() {
	w.t.Helper()
	for _, list := range [][]string{{"volume", "list"}, {"image", "list"}, {"snapshot", "list"}} {
		out := w.must(append(list, "-f", "value", "-c", "Name", "-c", "Status")...)
		for line := range strings.Lines(out) {
			if !regexp.MustCompile(` (available|in-use|active)\n`).MatchString(line) {
				w.t.Errorf("after repair, %s says: %s", list[0], line)
			}
		}
	}
	for line := range strings.Lines(w.must("list", "--all", "-f", "value", "-c", "Name", "-c", "Status")) {
		name, status, _ := strings.Cut(strings.TrimSpace(line), " ")
		args := []string{"exec", name, "--", "true"}
		if status == "SHUTOFF" {
			args = []string{"start", name}
		}
		if code, out := w.run(args...); code != 0 {
			w.t.Errorf("after repair the instance is %s, and %s ends with exit code %d\n%s", status, args[0], code, out)
		}
	}
}

// host sees that the host holds nothing for the world.
func (w *world) host() {
	w.t.Helper()
	left, err := w.left(15 * time.Second)
	if err != nil {
		w.t.Fatal(err)
	}
	w.count.compared(len(left) > 0)
	if len(left) > 0 {
		w.t.Errorf("left on the host:\n%s", strings.Join(left, "\n"))
	}
}

// asBefore compares the host and the state directory with what they were.
func (w *world) asBefore() {
	w.t.Helper()
	if !w.store {
		w.host()
	}
	if entries, err := os.ReadDir(w.runDir); len(entries) > 0 {
		w.t.Errorf("%s is not empty: %v %v", w.runDir, entries, err)
	}
	diff := host.Compare(w.before, w.files())
	// Objects that were never seen as such, or not any more, are for repair.
	if len(diff) > 0 && !slices.ContainsFunc(diff, func(line string) bool { return !hidden.MatchString(line) }) {
		if out := w.must("repair"); out == "" {
			w.t.Errorf("repair says nothing of\n%s", strings.Join(diff, "\n"))
		}
		diff = host.Compare(w.before, w.files())
	}
	w.count.compared(len(diff) > 0)
	if len(diff) > 0 {
		w.t.Errorf("the state directory is not as before:\n%s", strings.Join(diff, "\n"))
	}
	if w.t.Failed() {
		w.cleanUp() // so that the next point starts from nothing
		if w.again != nil {
			w.again()
		}
	}
}

// halfWritten is a record on its way into its place. Beside a command that was killed
// there can be one of the hook, which libvirt calls when the container's end comes to it.
var halfWritten = regexp.MustCompile(`/\.(record|seed)\.json-[0-9]+$`)

// names is files without what can change while nothing is done.
func (w *world) names() host.State {
	var names host.State
	for _, line := range w.files() {
		if name, _, _ := strings.Cut(line, " "); !halfWritten.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// former is what a volume's record says of attachments that it had: a detach adds to it.
var former = regexp.MustCompile(`,\s*"former": \[[^]]*\]`)

// files is one line for each file of the state directory: its name and mode and,
// but for the large ones, its content.
func (w *world) files() host.State {
	var lines host.State
	err := filepath.WalkDir(w.state, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) && halfWritten.MatchString(path) {
			return nil
		}
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v", strings.TrimPrefix(path, w.state), info.Mode())
		if info.Mode().IsRegular() {
			if info.Size() >= 1<<20 {
				lines = append(lines, fmt.Sprintf("%s %d", line, info.Size()))
				return nil
			}
			data, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) && halfWritten.MatchString(path) {
				return nil
			}
			if err != nil {
				return err
			}
			data = former.ReplaceAll(bytes.TrimSpace(data), nil)
			line += fmt.Sprintf(" %d %x", len(data), sha256.Sum256(data))[:17]
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
