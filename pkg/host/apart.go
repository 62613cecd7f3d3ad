package host

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
)

// Variables for the tests' sake.
var (
	systemdDir = "/run/systemd/system" // is there where systemd is the init: sd_booted(3)
	scopeLimit = 10 * time.Second      // until systemd has made a scope
)

// Service is the unit that ends the containers when the host goes down.
const Service = "lxcboot.service"

// Scope is where a process that outlives its command lives under systemd: a unit of its
// own.
type Scope struct {
	Name   string // unique among those that live; what a unit's name cannot hold becomes _
	Before string // a unit that is stopped first when the host goes down
}

// CloseOnExec keeps what this process inherited, but for stdin, stdout and stderr, from
// every program that it starts: a lock that its caller holds would else live as long as
// those. It is for the start of a program. os/exec passes on what it is told to.
func CloseOnExec() error {
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keeping inherited descriptors from other programs: %w", err)
	}
	return nil
}

// StartApart starts a process that is to outlive this one, and takes it out of this
// one's control groups, which others may end as a whole: into a scope of its own under
// systemd, and elsewhere to the top of each hierarchy, where nothing has to be removed
// after it. The number of the process does not change, and its descriptors stay. command
// makes the command, and is called again when systemd refuses. warning is not nil when
// the process runs and is not apart.
func StartApart(scope Scope, command func() *exec.Cmd) (cmd *exec.Cmd, warning, err error) {
	defer func() {
		if cmd != nil {
			slog.Debug("started", "argv", cmd.Args, "pid", cmd.Process.Pid)
		}
	}()
	if _, e := os.Stat(systemdDir); e == nil {
		if cmd, warning = scope.start(command()); warning == nil {
			return cmd, nil, nil
		}
	}
	cmd = command()
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return cmd, errors.Join(warning, leaveGroups(cmd.Process.Pid)), nil
}

// start has systemd-run make the scope, which then becomes the program itself.
func (s Scope) start(cmd *exec.Cmd) (*exec.Cmd, error) {
	run, err := exec.LookPath("systemd-run")
	if err != nil {
		return nil, err
	}
	argv := append([]string{cmd.Path}, cmd.Args[1:]...)
	cmd.Path = run
	cmd.Args = append([]string{run, "--scope", "--quiet", "--unit=" + s.unit(),
		"--property=CollectMode=inactive-or-failed", "--property=Before=" + s.Before, "--"}, argv...)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", run, err)
	}
	if err := becomes(cmd.Process.Pid, argv); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("systemd made no scope for %s: %w", filepath.Base(argv[0]), err)
	}
	return cmd, nil
}

// unit is the name of the scope.
func (s Scope) unit() string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune(":-_.", r)) {
			return r
		}
		return '_'
	}, s.Name) + ".scope"
}

// becomes waits until a child of ours has executed the program of argv.
func becomes(pid int, argv []string) error {
	want := strings.Join(argv, "\x00") + "\x00"
	for end := time.Now().Add(scopeLimit); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if now, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && string(now) == want {
			return nil
		}
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || strings.Contains(string(stat), ") Z ") {
			return errors.New("systemd-run failed")
		}
	}
	return fmt.Errorf("systemd-run took longer than %v", scopeLimit)
}

// leaveGroups moves a process to the top of each hierarchy that is mounted here.
func leaveGroups(pid int) error {
	groups, err := cgroup.Of(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended
	}
	tops, e := cgroup.Tops()
	if err := errors.Join(err, e); err != nil {
		return fmt.Errorf("taking a process out of its control groups: %w", err)
	}
	var errs []error
	for _, top := range tops {
		path := groups[strings.Join(top.Controllers, ",")]
		if path == top.Path {
			continue
		}
		if err := top.Join(pid); err != nil {
			errs = append(errs, fmt.Errorf("process %d stays in the control group %s%s, and ends when that is ended: %w", pid, top.Dir, path, err))
		}
	}
	return errors.Join(errs...)
}
