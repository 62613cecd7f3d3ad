package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/local"
)

// TestExitCodeShown holds that show tells how the init ended, and not while it runs again.
func TestExitCodeShown(t *testing.T) {
	var v instance.View
	v.Exit = &state.Exit{Status: 3 << 8}
	for pid, want := range map[int]any{0: 3, 1: nil} {
		v.Domain.PID = pid
		for _, f := range instanceRecord(v) {
			if f.Name == "exit_code" && f.Value != want {
				t.Errorf("pid %d: exit code %v", pid, f.Value)
			}
		}
	}
}

func TestExitCodes(t *testing.T) {
	for want, errs := range map[int][]error{
		exitFailure:     {errors.New("something"), &volume.StateError{Status: volume.StatusError}},
		exitUsage:       {failure.Invalid("x"), fmt.Errorf("a: %w", failure.Invalid("x"))},
		exitNotFound:    {&volume.NotFoundError{Kind: "volume"}, state.ErrNotFound, volume.ErrNotFound, fmt.Errorf("a: %w", lxc.ErrNotFound)},
		exitConflict:    {state.ErrExists, state.ErrBusy, failure.Of(state.ErrState, "x"), failure.Of(lxc.ErrInitUnknown, "x"), failure.Of(lxc.ErrNotRunning, "x"), lxc.ErrExists, volume.ErrInUse, volume.Gone("a", volume.Volume{}), volume.ErrConflict, &volume.AmbiguousError{}, &volume.StateError{}, volume.ErrQuota},
		exitUnreachable: {lxc.ErrNoDaemon, volume.ErrUnreachable},
		exitUnfit:       {&local.DirError{}, lxc.ErrNoDriver, errNotRoot, volume.ErrAuth, os.ErrPermission},
		exitIncomplete:  {&madeError{"a", os.ErrPermission}, &instance.RollbackError{Instance: "i", Cause: volume.ErrInUse, Undo: errors.New("y")}},
		130:             {&interruptedError{syscall.SIGINT}, fmt.Errorf("cannot boot: %w", &interruptedError{syscall.SIGINT})},
		143:             {&interruptedError{syscall.SIGTERM}},
	} {
		for _, err := range errs {
			if got, _ := classify(err); got != want {
				t.Errorf("%v: exit code %d, want %d", err, got, want)
			}
		}
	}
}

// TestUserWords holds that nothing is cut out of what a message holds of its user.
func TestUserWords(t *testing.T) {
	clean(t)
	for _, words := range []string{"invalid request: ", "wrong state: ", "x: conflict", "instance exists: ", "context canceled", "context deadline exceeded"} {
		path := filepath.Join(t.TempDir(), words)
		for _, args := range [][]string{{"image", "import", path}, {"volume", "show", words}, {"boot", "--flavor", words, "n"}, {"boot", "--flavor", "m1.tiny", "--image", "i", "--user-data", path, "n"}} {
			if _, _, stderr := run(t, args...); !strings.Contains(stderr, words) {
				t.Errorf("%q: %q lacks %q", args, stderr, words)
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(&interruptedError{syscall.SIGINT})
		err := interruption(ctx, fmt.Errorf("cannot read %q: %w", words, context.Canceled))
		if code, _ := classify(err); code != 130 || !strings.HasPrefix(message(err), "interrupted: ") || !strings.Contains(message(err), words) {
			t.Errorf("%d, %q lacks %q", code, message(err), words)
		}
	}
}

// TestMade holds that what was made and cannot be told is told apart from a failure, and
// that nothing is made for a column that there is not.
func TestMade(t *testing.T) {
	clean(t)
	file := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ make, list, one []string }{
		{[]string{"image", "import", file, "--name", "i"}, []string{"image", "list", "-f", "value"}, []string{"image", "show", "i"}},
		{[]string{"volume", "create", "--size", "1", "v"}, []string{"volume", "list", "-f", "value"}, []string{"volume", "show", "v"}},
		{[]string{"volume", "extend", "v", "--size", "2"}, []string{"volume", "list", "-f", "value"}, []string{"volume", "show", "v"}},
		{[]string{"volume", "set", "v", "--bootable"}, []string{"volume", "list", "-f", "value"}, []string{"volume", "show", "v"}},
		{[]string{"snapshot", "create", "s", "--volume", "v"}, []string{"snapshot", "list", "-f", "value"}, []string{"snapshot", "show", "s"}},
	} {
		_, before, _ := run(t, c.list...)
		if code, _, stderr := run(t, append(c.make, "-c", "nonsense")...); code != exitUsage {
			t.Errorf("%v with a wrong column: exit code %d, %s", c.make, code, stderr)
		}
		if _, now, _ := run(t, c.list...); now != before {
			t.Errorf("%v with a wrong column made %q of %q", c.make, now, before)
		}
		code, stderr := full(t, c.make...)
		if code != exitIncomplete || !strings.Contains(stderr, "its description could not be written") || !strings.Contains(stderr, "no space left") || !strings.Contains(stderr, "hint: lxcboot "+c.one[0]+" show") {
			t.Errorf("%v >/dev/full: exit code %d, %s", c.make, code, stderr)
		}
		if _, now, _ := run(t, c.list...); now == before {
			t.Errorf("%v >/dev/full made nothing", c.make)
		}
		if code, stderr := full(t, c.one...); code != exitFailure {
			t.Errorf("%v >/dev/full: exit code %d, %s", c.one, code, stderr)
		}
	}
}

// full runs a command line whose output takes nothing.
func full(t *testing.T, args ...string) (code int, stderr string) {
	t.Helper()
	out, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	errs, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer errs.Close()
	code = (&App{In: os.Stdin, Out: out, Err: errs}).Run(args)
	data, err := os.ReadFile(errs.Name())
	if err != nil {
		t.Fatal(err)
	}
	return code, string(data)
}

// TestRunCodes holds that what run itself fails at is 125, so that it is not taken for
// an exit code of the container.
func TestRunCodes(t *testing.T) {
	clean(t)
	for _, args := range [][]string{{}, {"a", "b"}, {"--nonsense", "n"}, {"--flavor", "nosuch", "n"}, {"--flavor", "m1.tiny", "--image", "i", "--min-count", "2", "n"}, {"--backend", "s3", "n"}} {
		if code, _, stderr := run(t, append([]string{"run"}, args...)...); code != exitRun || stderr == "" {
			t.Errorf("run %v: exit code %d, %s", args, code, stderr)
		}
	}
	if code, _, _ := run(t, "run", "--help"); code != 0 {
		t.Errorf("run --help: %d", code)
	}
}

// TestOver holds that run goes on while it cannot be told whether its container runs.
func TestOver(t *testing.T) {
	var runs, ended instance.View
	runs.Domain.PID = 1
	for _, c := range []struct {
		v    instance.View
		err  error
		want bool
	}{{runs, nil, false}, {ended, nil, true}, {ended, lxc.ErrNoDaemon, false}, {ended, context.DeadlineExceeded, false}, {ended, fmt.Errorf("a: %w", state.ErrNotFound), true}} {
		if got := over(c.v, c.err); got != c.want {
			t.Errorf("pid %d, %v: %v", c.v.Domain.PID, c.err, got)
		}
	}
}

func TestOutput(t *testing.T) {
	clean(t)
	if _, out, _ := run(t, "flavor", "show", "1"); out != `+-----------+---------+
| Field     | Value   |
+-----------+---------+
| id        | 1       |
| name      | m1.tiny |
| ram       | 512     |
| disk      | 1       |
| ephemeral | 0       |
| vcpus     | 1       |
| swap      | 0       |
+-----------+---------+
` {
		t.Errorf("table:\n%s", out)
	}
	if _, out, _ := run(t, "flavor", "list", "-f", "value", "-c", "name", "-c", "ID"); out != "m1.tiny 1\nm1.small 2\nm1.medium 3\nm1.large 4\nm1.xlarge 5\n" {
		t.Errorf("value: %q", out)
	}
	if _, out, _ := run(t, "flavor", "show", "m1.tiny", "-f", "yaml"); out != "id: \"1\"\nname: m1.tiny\nram: 512\ndisk: 1\nephemeral: 0\nvcpus: 1\nswap: 0\n" {
		t.Errorf("yaml: %q", out)
	}
	var o map[string]any
	if _, out, _ := run(t, "flavor", "show", "m1.tiny", "-f", "json"); json.Unmarshal([]byte(out), &o) != nil || o["ram"] != 512.0 {
		t.Errorf("json: %q", out)
	}
}

// TestHelp holds that every command says what it is, and can be asked.
func TestHelp(t *testing.T) {
	app := &App{Out: os.Stdout, Err: os.Stderr}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" && !c.Hidden {
			t.Errorf("%s has no description", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(app.newRootCmd())
	if _, out, _ := run(t, "help", "exit-codes"); !strings.Contains(out, "130") {
		t.Errorf("help exit-codes: %q", out)
	}
}

func TestCompletion(t *testing.T) {
	clean(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"boot", "--flavor", ""}, "m1.tiny"},
		{[]string{"boot", "--block-device", "sou"}, "source="},
		{[]string{"boot", "--block-device", "source="}, "source=image"},
		{[]string{"boot", "--block-device", "source=image,shut"}, "source=image,shutdown="},
		{[]string{"list", "--format", ""}, "yaml"},
	} {
		if _, out, _ := run(t, append([]string{"__complete"}, c.args...)...); !strings.Contains(out, c.want) {
			t.Errorf("%v: %q lacks %q", c.args, out, c.want)
		}
	}
}

func codeOf(err error) int {
	code, _ := classify(err)
	return code
}

func TestQuiet(t *testing.T) {
	clean(t)
	code, _, stderr := run(t, "volume", "show", "nosuch", "-q")
	if code != exitNotFound || strings.Contains(stderr, "hint") {
		t.Errorf("%d, %q", code, stderr)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	app := &App{Err: w, quiet: true}
	app.say("progress")
	app.warn("beware of %s", "it")
	w.Close()
	if data, err := io.ReadAll(r); err != nil || string(data) != "warning: beware of it\n" {
		t.Errorf("%q, %v", data, err)
	}
}
