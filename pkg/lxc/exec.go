package lxc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/host"

	"github.com/lxcboot/lxcboot/pkg/proc"
)

// ErrNoProgram says that what should be run is not there, or cannot be run.
var ErrNoProgram = errors.New("cannot run the program")

// The exit codes of Exec beside the program's own, as shells have them.
const (
	ExitNotExecutable = 126
	ExitNotFound      = 127
	ExitSignal        = 128 // and the signal's number
)

// defaultPath is where programs are looked for.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ExecOptions say what is run in a container, and how.
type ExecOptions struct {
	Argv   []string
	Env    map[string]string // beside and before PATH, HOME, USER, LOGNAME, SHELL, TERM
	User   string            // NAME, UID, NAME:GROUP or UID:GID in the container; empty: root
	Dir    string            // in the container; empty: the user's home, else /
	TTY    bool              // a terminal of the container's own for all three
	Stdin  io.Reader         // nil: nothing
	Stdout io.Writer         // nil: dropped
	Stderr io.Writer         // nil: dropped; with TTY all goes to Stdout

	// Sealed is a static program of this host. A copy of it is run in place of the container's
	// Argv[0], which then is its name alone. Nothing in the container can read, write or trace it.
	Sealed string

	Program string // lxcboot-init on this host; empty: the one of host.Program
}

// Exec runs a program in all namespaces and cgroups of the running container of an id,
// and gives its exit code: ExitSignal and the signal when one ended it;
// ExitNotFound or ExitNotExecutable with ErrNoProgram. With another error it did
// not run, or ctx ended: then it gets SIGTERM, soon after SIGKILL, and the error is
// ctx's cause.
//
// The program has no capability that the container's init could not have, init's
// limits, no_new_privs and filter of system calls, and its security label; no file of
// the host is passed to it, but pipes and a terminal of the container's. With a
// terminal, one at Stdin is raw meanwhile and its size is followed.
//
// A container that ends, is started anew or has no memory left while it is entered is
// ErrNotRunning, with what happened in its words.
func (h *Host) Exec(ctx context.Context, id string, o ExecOptions) (int, error) {
	info, err := h.State(ctx, id)
	if err != nil {
		return -1, err
	}
	if info.State == Paused {
		return -1, fmt.Errorf("container %s is paused: resume it first (virsh -c %s resume %s)", id, h.uri, id)
	}
	p, err := findInit(info.PID)
	if err != nil {
		return -1, fmt.Errorf("container %s: %w", id, err)
	}
	defer p.Close()
	if o.Program == "" {
		if o.Program, err = host.Program(programName); err != nil {
			return -1, err
		}
	}
	code, err := p.exec(ctx, o)
	if err != nil && ctx.Err() == nil && !proc.Alive(p.pidfd) {
		err = errEnded
	}
	if errors.Is(err, ErrNotRunning) {
		return -1, fmt.Errorf("container %s: %w", id, err)
	}
	return code, err
}

func (p *initProc) exec(ctx context.Context, o ExecOptions) (int, error) {
	if len(o.Argv) == 0 || o.Argv[0] == "" {
		return -1, invalid("there is no program to run")
	}
	for name, value := range o.Env {
		if !envName.MatchString(name) || strings.ContainsRune(value, 0) {
			return -1, invalid("%q is not the name of an environment variable, or its value cannot be passed on", name)
		}
	}
	if slices.ContainsFunc(append(slices.Clone(o.Argv), o.Dir), func(s string) bool { return strings.ContainsRune(s, 0) }) {
		return -1, invalid("an argument that holds a zero byte cannot be passed on")
	}
	if o.Dir != "" && !path.IsAbs(o.Dir) {
		return -1, invalid("the working directory %q must be an absolute path in the container", o.Dir)
	}
	root, err := p.openRoot()
	if err != nil {
		return -1, err
	}
	defer root.Close()
	user, err := lookup(root, o.User)
	if err != nil {
		return -1, err
	}
	env := environment(user, o)
	in := entry{account: user, argv: o.Argv, dir: o.Dir, terminal: o.TTY, by: o.Program, sealed: o.Sealed}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		in.env = append(in.env, k+"="+env[k])
	}
	if o.Sealed == "" {
		in.paths = candidates(o.Argv[0], env["PATH"])
	}

	var s *streams
	if o.TTY {
		s, err = p.openTerminal(root, user, o)
	} else {
		s, err = openPipes(o)
	}
	if err != nil {
		return -1, err
	}
	defer s.close()
	in.stdio = s.theirs
	child, err := p.enter(ctx, in)
	s.closeTheirs()
	err = p.explain(err)
	var failed *enterError
	if errors.As(err, &failed) && failed.program() {
		code := ExitNotFound
		if failed.errno != unix.ENOENT {
			code = ExitNotExecutable
		}
		return code, fmt.Errorf("%w %q in the container: %v", ErrNoProgram, o.Argv[0], failed.errno)
	}
	if err != nil {
		return -1, err
	}
	restore, err := s.start()
	defer restore()
	if err != nil {
		child.end()
		return -1, err
	}
	code, err := child.wait(ctx)
	s.finish()
	return code, err
}

func environment(u account, o ExecOptions) map[string]string {
	env := map[string]string{"PATH": defaultPath, "HOME": u.home, "USER": u.name, "LOGNAME": u.name, "SHELL": u.shell}
	if o.TTY {
		env["TERM"] = "linux"
		if t := os.Getenv("TERM"); t != "" {
			env["TERM"] = t
		}
	}
	maps.Copy(env, o.Env)
	return env
}

// candidates are the files that a name may mean, as execvp has it.
func candidates(name, search string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var out []string
	for _, dir := range strings.Split(search, ":") {
		out = append(out, path.Join("/", dir, name))
	}
	return out
}

// program is a process that runs in the container, a child of ours.
type program struct {
	pid   int
	pidfd *os.File
}

// wait gives the exit code.
func (c *program) wait(ctx context.Context) (int, error) {
	defer c.pidfd.Close()
	type result struct {
		status unix.WaitStatus
		err    error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		for {
			if _, r.err = unix.Wait4(c.pid, &r.status, 0, nil); r.err != unix.EINTR {
				done <- r
				return
			}
		}
	}()
	var r result
	var cause error
	select {
	case r = <-done:
	case <-ctx.Done():
		cause = context.Cause(ctx)
		for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
			unix.PidfdSendSignal(int(c.pidfd.Fd()), sig, nil, 0)
			select {
			case <-done:
				return -1, cause
			case <-time.After(3 * time.Second):
			}
		}
		return -1, fmt.Errorf("%w (the program in the container does not end)", cause)
	}
	switch {
	case r.err != nil:
		return -1, fmt.Errorf("cannot wait for the program: %w", r.err)
	case r.status.Signaled():
		return ExitSignal + int(r.status.Signal()), nil
	}
	return r.status.ExitStatus(), nil
}

// end kills and reaps.
func (c *program) end() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	unix.PidfdSendSignal(int(c.pidfd.Fd()), unix.SIGKILL, nil, 0)
	c.wait(ctx)
}

// rlimits are the limits of the container's init, which the program gets.
func (p *initProc) rlimits() (out [rlimitCount]unix.Rlimit, err error) {
	for i := range out {
		if err := unix.Prlimit(p.pid, i, nil, &out[i]); err != nil {
			return out, fmt.Errorf("cannot read the limits of the container's init: %w", err)
		}
	}
	return out, nil
}

// privileges are what the container's init may do.
type privileges struct {
	bounding             uint64
	noNewPrivs, filtered bool
}

func (p *initProc) privileges() (had privileges, err error) {
	st, err := readStatus(p.pid)
	if err != nil {
		return had, err
	}
	had.noNewPrivs, had.filtered = st["NoNewPrivs"] == "1", st["Seccomp"] == "2"
	had.bounding, err = strconv.ParseUint(st["CapBnd"], 16, 64)
	return had, err
}

// label is what to write where, so that the program gets the label of init from
// AppArmor or SELinux; empty when there is none.
func (p *initProc) label() (file, text string) {
	for _, lsm := range []struct{ current, exec, prefix string }{
		{"attr/apparmor/current", "/proc/self/attr/apparmor/exec", "exec "},
		{"attr/current", "/proc/self/attr/exec", "exec "},
	} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.pid, lsm.current))
		now := strings.TrimRight(string(data), "\x00\n")
		if err != nil || now == "" {
			continue
		}
		if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
			return lsm.exec, now
		}
		if name, _, ok := strings.Cut(now, " ("); ok && name != "unconfined" {
			return lsm.exec, lsm.prefix + name
		}
		return "", ""
	}
	return "", ""
}
