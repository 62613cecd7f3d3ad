package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"syscall"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/flavor"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/inuse"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/tty"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/imagefile"
	"github.com/lxcboot/lxcboot/pkg/volume/local"
	"github.com/lxcboot/lxcboot/pkg/volume/openstack"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitUnreachable = 5
	exitUnfit       = 6
	exitIncomplete  = 7
	exitRun         = 125 // run's own failures, of any kind, as docker run has it
	exitKilled      = exitSignal + int(syscall.SIGKILL)
	exitSignal      = 128 // and the signal's number
)

// interruptedError is the cause of a context that a signal cancelled.
type interruptedError struct{ signal syscall.Signal }

func (e *interruptedError) Error() string {
	switch e.signal {
	case syscall.SIGTERM:
		return "terminated"
	case syscall.SIGHUP:
		return "interrupted by the end of the terminal"
	}
	return "interrupted"
}

// interruption is the error of a command as it is told when a signal has cancelled
// it: whatever that made fail, it was the signal.
func interruption(ctx context.Context, err error) error {
	cause, ok := errors.AsType[*interruptedError](context.Cause(ctx))
	if _, already := errors.AsType[*interruptedError](err); !ok || already {
		return err
	}
	if err == context.Canceled {
		return cause
	}
	return failure.Of(cause, "%v: %w", cause, err)
}

// exitError ends the command with a code and prints nothing.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// madeError says that something was done, and that it could not be told.
type madeError struct {
	done string
	err  error
}

func (e *madeError) Error() string {
	return fmt.Sprintf("%s, and its description could not be written: %v", e.done, e.err)
}

func (e *madeError) Unwrap() error { return e.err }

// hintError adds how to mend it.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }

func (e *hintError) Unwrap() error { return e.err }

var errNotRoot = errors.New("this needs root")

// report prints an error with its hint and returns the exit code. Of several that
// are joined each has its line; the code is that of the first, unless one of them
// left something behind. ours says whether it is a failure of lxcboot.
func (a *App) report(err error) (code int, ours bool) {
	if exit, ok := errors.AsType[exitError](err); ok {
		return int(exit), false
	}
	var hints []string
	for _, one := range split(err) {
		c, hint := classify(one)
		if code == 0 || c == exitIncomplete {
			code = c
		}
		fmt.Fprintf(a.Err, "lxcboot: %s\n", tty.Lines(message(one)))
		if h, ok := errors.AsType[*hintError](one); ok {
			hint = h.hint
		}
		if hint != "" && !slices.Contains(hints, hint) {
			hints = append(hints, hint)
		}
	}
	for _, hint := range hints {
		if !a.quiet {
			fmt.Fprintf(a.Err, "hint: %s\n", tty.Lines(hint))
		}
	}
	return code, true
}

// split takes apart what errors.Join put together, and nothing else: another error
// that wraps several has words of its own.
func split(err error) []error {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		if parts := several.Unwrap(); errors.Join(parts...).Error() == err.Error() {
			var all []error
			for _, p := range parts {
				all = append(all, split(p)...)
			}
			return all
		}
	}
	return []error{err}
}

// message is what a person is told of an error. Nothing is taken out of it: it may hold
// words of theirs.
func message(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "it took too long: " + err.Error()
	}
	return err.Error()
}

// classes are the kinds of errors there are, the most telling first.
var classes = []struct {
	target error
	code   int
	hint   string
}{
	{lxc.ErrNoDaemon, exitUnreachable, "lxcboot doctor looks at all that a boot needs"},
	{lxc.ErrNoDriver, exitUnfit, "lxcboot doctor looks at all that a boot needs"},
	{openstack.ErrTLS, exitUnreachable, "cacert (or OS_CACERT) names the authority's certificate; verify: false (or OS_INSECURE=true) trusts anybody; and only an address that speaks TLS begins with https"},
	{imagefile.ErrFetch, exitUnreachable, ""},
	{volume.ErrUnreachable, exitUnreachable, "is the cloud up? lxcboot doctor says which one is used; --backend local uses none"},
	{volume.ErrAuth, exitUnfit, "look at clouds.yaml and the OS_* variables"},
	{errNoState, exitNotFound, "a boot or an import makes it; --state-dir and LXCBOOT_STATE_DIR say which one is meant"},
	{state.ErrNotFound, exitNotFound, "lxcboot list --all shows what there is"},
	{flavor.ErrNotFound, exitNotFound, "lxcboot flavor list shows what there is"},
	{volume.ErrAmbiguous, exitConflict, ""},
	{state.ErrAmbiguous, exitConflict, ""},
	{state.ErrExists, exitConflict, "choose another name, or delete that one"},
	{state.ErrBusy, exitConflict, ""},
	{state.ErrState, exitConflict, ""},
	{lxc.ErrExists, exitConflict, ""},
	{lxc.ErrNotRunning, exitConflict, ""},
	{lxc.ErrInitUnknown, exitConflict, "lxcboot reboot the instance, then try again"},
	{volume.ErrInUse, exitConflict, ""},
	{imagefile.ErrExists, exitConflict, ""},
	{inuse.ErrUsed, exitConflict, ""},
	{loop.ErrInUse, exitConflict, ""},
	{bdm.ErrInUse, exitConflict, ""},
	{volume.ErrConflict, exitConflict, ""},
	{volume.ErrManaged, exitConflict, ""},
	{volume.ErrQuota, exitConflict, ""},
	{volume.ErrNotFound, exitNotFound, ""},
	{bdm.ErrNotFound, exitNotFound, ""},
	{lxc.ErrNotFound, exitNotFound, ""},
	{errNotRoot, exitUnfit, "run it with sudo"},
	{fs.ErrPermission, exitUnfit, ""},
	{rootfs.ErrIDMapUnsupported, exitUnfit, ""},
	{exec.ErrNotFound, exitUnfit, ""},
	{failure.ErrInvalid, exitUsage, ""},
	{volume.ErrUnsupported, exitUnfit, ""},
	{context.DeadlineExceeded, exitFailure, "--timeout allows more time"},
}

// classify is the exit code of an error and a hint.
func classify(err error) (code int, hint string) {
	var rollback *instance.RollbackError
	var made *madeError
	var interrupted *interruptedError
	var state *volume.StateError
	var dir *local.DirError
	var missing *volume.NotFoundError
	var twins *volume.AmbiguousError
	switch {
	case errors.As(err, &rollback):
		return exitIncomplete, "lxcboot delete " + rollback.Instance + " finishes it"
	case errors.As(err, &made):
		return exitIncomplete, ""
	case errors.As(err, &interrupted):
		return exitSignal + int(interrupted.signal), ""
	case errors.As(err, &dir):
		return exitUnfit, ""
	case errors.As(err, &state) && (state.Status == volume.StatusError || state.Status == volume.ImageKilled):
		return exitFailure, "" // what was being made came to nothing
	case errors.As(err, &missing) && missing.Kind != "attachment":
		return exitNotFound, "lxcboot " + missing.Kind + " list shows what there is"
	case errors.As(err, &twins) && twins.Kind != "snapshot":
		return exitConflict, "lxcboot " + twins.Kind + " set ID --name NAME gives one of them another name"
	}
	for _, c := range classes {
		if errors.Is(err, c.target) {
			return c.code, c.hint
		}
	}
	return exitFailure, ""
}
