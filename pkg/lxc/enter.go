package lxc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/proc"
)

// rlimitCount is the number of limits that the kernel has.
const rlimitCount = 16

// enterLimit is how long the way into a container may take.
const enterLimit = 30 * time.Second

// The reports of the process that enters, in cmd/lxcboot-init/enter.c.
const (
	enterMade = iota
	enterRuns
	enterCgroup
	enterLabel
	enterNamespaces
	enterCapabilities
	enterFork
	enterTerminal
	enterUser
	enterDirectory
	enterProgram
	enterFilter
)

// entry is a program on its way into a container.
type entry struct {
	account
	argv, env, paths []string
	dir              string // empty: the home, else /
	stdio            [3]*os.File
	terminal         bool
	by               string // lxcboot-init on this host
	sealed           string // a program of this host, in place of paths
}

// enterError is a step into the container that failed.
type enterError struct {
	step  int
	errno unix.Errno
	entry *entry
}

func (e *enterError) program() bool { return e.step == enterProgram }

func (e *enterError) Error() string {
	what := map[int]string{
		enterCgroup:       "its cgroup cannot be joined",
		enterLabel:        "its security label cannot be taken",
		enterNamespaces:   "its namespaces cannot be joined",
		enterCapabilities: "capabilities cannot be given up",
		enterFork:         "no process can be made in it",
		enterTerminal:     "the program's input and output cannot be set up",
		enterUser:         fmt.Sprintf("user %d with group %d cannot be taken: are they in its user namespace?", e.entry.uid, e.entry.gid),
		enterDirectory:    fmt.Sprintf("the working directory %q cannot be entered", e.entry.dir),
		enterProgram:      "the program cannot be run",
		enterFilter:       "its filter of system calls cannot be loaded",
	}[e.step]
	if e.step == enterDirectory && e.errno == unix.EXDEV {
		return fmt.Sprintf("cannot enter the container: %s: it leads out of the container", what)
	}
	return fmt.Sprintf("cannot enter the container: %s: %v", what, e.errno)
}

func (e *enterError) Unwrap() error { return e.errno }

var errEnded = failure.Of(ErrNotRunning, "the container ended or was started anew while it was entered")

// explain says of a failure on the way in what of the container's made it fail, if
// something of it did.
func (p *initProc) explain(err error) error {
	var errno unix.Errno
	errors.As(err, &errno)
	switch {
	case err == nil || errors.Is(err, ErrNotRunning):
		return err
	case errno == unix.ESRCH || errno == unix.ENODEV || !proc.Alive(p.pidfd):
		return errEnded
	case errno == unix.ENOMEM:
		return failure.Of(ErrNotRunning, "the container has no memory left for another program")
	case errno == unix.EAGAIN:
		return failure.Of(ErrNotRunning, "the container has as many processes as it may have")
	}
	return err
}

// namespaces are those in which the container is not with us.
func (p *initProc) namespaces() (int, error) {
	flags := 0
	for name, flag := range map[string]int{
		"user": unix.CLONE_NEWUSER, "mnt": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET,
		"ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME,
	} {
		theirs, err := os.Stat(fmt.Sprintf("/proc/%d/ns/%s", p.pid, name))
		if os.IsNotExist(err) && proc.Alive(p.pidfd) {
			continue // a kernel without it
		}
		ours, err2 := os.Stat("/proc/self/ns/" + name)
		if err != nil || err2 != nil {
			return 0, ErrNotRunning
		}
		if !os.SameFile(theirs, ours) {
			flags |= flag
		}
	}
	if need := unix.CLONE_NEWNS | unix.CLONE_NEWPID; flags&need != need {
		return 0, fmt.Errorf("%w: process %d is not in one", ErrNotRunning, p.pid)
	}
	return flags, nil
}

// enter starts a program in the container and gives it once it runs.
func (p *initProc) enter(ctx context.Context, in entry) (*program, error) {
	groups, err := p.openGroups()
	for _, g := range groups {
		defer g.Close()
	}
	if err != nil {
		return nil, err
	}
	orders, err := p.orders(in, len(groups))
	if err != nil {
		return nil, err
	}
	defer orders.Close()
	by, err := sealed(in.by)
	if err != nil {
		return nil, fmt.Errorf("cannot enter the container: %w", err)
	}
	defer by.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer r.Close()
	defer w.Close()
	files := append([]*os.File{orders, w, p.pidfd}, groups...)
	if in.sealed != "" {
		program, err := sealedAlone(in.sealed)
		if err != nil {
			return nil, fmt.Errorf("cannot enter the container: %w", err)
		}
		defer program.Close()
		files = append(files, program)
	}
	files = append(files, by)
	cmd := exec.Cmd{
		Path: fmt.Sprintf("/proc/self/fd/%d", 2+len(files)), Args: []string{programName, "enter"}, Env: []string{},
		Stdin: in.stdio[0], Stdout: in.stdio[1], Stderr: in.stdio[2], ExtraFiles: files,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot enter the container: %w", err)
	}
	w.Close()
	return p.arrive(ctx, r, &cmd, &in)
}

// openGroups opens the cgroup.procs files of the init's groups.
func (p *initProc) openGroups() (open []*os.File, err error) {
	groups, err := cgroup.Of(p.pid)
	if err != nil {
		return nil, ErrNotRunning
	}
	dirs, err := cgroup.Dirs(groups)
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		f, err := os.OpenFile(filepath.Join(d.Dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return open, fmt.Errorf("cannot enter the container's cgroup: %w", err)
		}
		open = append(open, f)
	}
	return open, nil
}

// orders are what run_enter in cmd/lxcboot-init reads, in memory.
func (p *initProc) orders(in entry, groups int) (*os.File, error) {
	flags, err := p.namespaces()
	if err != nil {
		return nil, err
	}
	had, err := p.privileges()
	if err != nil {
		return nil, err
	}
	limits, err := p.rlimits()
	if err != nil {
		return nil, err
	}
	var o orders
	o.number(uint64(groups))
	o.flag(in.sealed != "")
	o.number(uint64(flags))
	file, label := p.label()
	o.text(file)
	o.text(label)
	o.number(had.bounding)
	o.flag(had.noNewPrivs)
	o.flag(had.filtered)
	var texts []string
	for _, l := range limits {
		texts = append(texts, strconv.FormatUint(l.Cur, 10), strconv.FormatUint(l.Max, 10))
	}
	o.list(texts)
	o.number(uint64(in.uid))
	o.number(uint64(in.gid))
	texts = nil
	for _, g := range in.groups {
		texts = append(texts, strconv.FormatUint(uint64(g), 10))
	}
	o.list(texts)
	o.flag(in.terminal)
	o.flag(in.dir == "")
	if in.dir == "" {
		o.text(in.home)
	} else {
		o.text(in.dir)
	}
	o.list(in.paths)
	o.list(in.argv)
	o.list(in.env)
	return inMemory("orders", o.Bytes(), unix.MFD_CLOEXEC)
}

// sealed is a copy of a program that nobody can write to, whoever gets hold of it.
func sealed(program string) (*os.File, error) {
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	// F_SEAL_WRITE would say the same, and wait some milliseconds for who might be writing.
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE
	name := filepath.Base(program)
	f, err := inMemory(name, data, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3, where all are executable
		f, err = inMemory(name, data, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot seal the copy of %s: %w", program, err)
	}
	return f, nil
}

// sealedAlone is sealed for a program that is executed in the container: who may not read it
// can neither trace it nor see what it has open.
func sealedAlone(program string) (*os.File, error) {
	f, err := sealed(program)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(0o111); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func inMemory(name string, data []byte, flags int) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, flags)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot make a file in memory: %w", err)
	}
	return f, nil
}

// arrive follows the reports of the process that enters, until the program runs.
func (p *initProc) arrive(ctx context.Context, reports *os.File, entering *exec.Cmd, in *entry) (*program, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, enterLimit, fmt.Errorf("cannot enter the container within %s: is it paused?", enterLimit))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		entering.Process.Kill()
		reports.SetReadDeadline(time.Unix(1, 0))
	})()
	var failed *enterError
	var prog *program
	runs := false
	for {
		var buf [8]byte
		_, err := io.ReadFull(reports, buf[:])
		if err == io.EOF {
			break
		}
		if err != nil {
			if prog != nil {
				prog.end()
			}
			go entering.Wait() // it may be frozen with the container
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("cannot enter the container: %w", err)
		}
		step, value := int(int32(binary.NativeEndian.Uint32(buf[:]))), int(int32(binary.NativeEndian.Uint32(buf[4:])))
		switch step {
		case enterRuns:
			runs = true
		case enterMade:
			// A child that was not waited for yet keeps its number.
			fd, err := unix.PidfdOpen(value, 0)
			if err != nil {
				unix.Kill(value, unix.SIGKILL)
				reap(value)
				entering.Wait()
				return nil, fmt.Errorf("cannot follow the program: %w", err)
			}
			prog = &program{value, os.NewFile(uintptr(fd), "pidfd")}
		default:
			failed = &enterError{step, unix.Errno(value), in}
		}
	}
	entering.Wait()
	if failed == nil && prog != nil && runs {
		return prog, nil
	}
	if prog != nil {
		prog.end()
	}
	switch {
	case failed != nil:
		return nil, failed
	case !proc.Alive(p.pidfd):
		return nil, errEnded
	}
	// Nobody else kills a process that enters.
	return nil, failure.Of(ErrNotRunning, "the container has no memory left for another program: what entered it was killed")
}

func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}
