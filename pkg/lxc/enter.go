package lxc

/*
#include <stdlib.h>
#include "enter.h"
*/
import "C"

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
)

const rlimitCount = C.ENTER_RLIMITS

// enterLimit is how long the way into a container may take.
const enterLimit = 30 * time.Second

// entry is a program on its way into a container.
type entry struct {
	account
	argv, env, paths []string
	dir              string // empty: the home, else /
	stdio            [3]*os.File
	terminal         bool
}

// enterError is a step into the container that failed.
type enterError struct {
	step  int
	errno unix.Errno
	entry *entry
}

func (e *enterError) program() bool { return e.step == C.ENTER_PROGRAM }

func (e *enterError) Error() string {
	what := map[int]string{
		C.ENTER_CGROUP:       "its cgroup cannot be joined",
		C.ENTER_LABEL:        "its security label cannot be taken",
		C.ENTER_NAMESPACES:   "its namespaces cannot be joined",
		C.ENTER_CAPABILITIES: "capabilities cannot be given up",
		C.ENTER_FORK:         "no process can be made in it",
		C.ENTER_TERMINAL:     "the program's input and output cannot be set up",
		C.ENTER_USER:         fmt.Sprintf("user %d with group %d cannot be taken: are they in its user namespace?", e.entry.uid, e.entry.gid),
		C.ENTER_DIRECTORY:    fmt.Sprintf("the working directory %q cannot be entered", e.entry.dir),
		C.ENTER_PROGRAM:      "the program cannot be run",
	}[e.step]
	return fmt.Sprintf("cannot enter the container: %s: %v", what, e.errno)
}

func (e *enterError) Unwrap() error { return e.errno }

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
	flags, err := p.namespaces()
	if err != nil {
		return nil, err
	}
	bounding, noNewPrivs, err := p.privileges()
	if err != nil {
		return nil, err
	}
	limits, err := p.rlimits()
	if err != nil {
		return nil, err
	}
	groups, err := membership(p.pid)
	if err != nil {
		return nil, err
	}
	dirs, err := cgroupDirs(groups)
	if err != nil {
		return nil, err
	}
	var mem arena
	defer mem.free()
	e := (*C.struct_enter)(mem.alloc(unsafe.Sizeof(C.struct_enter{})))
	e.pidfd = C.int(p.pidfd.Fd())
	e.namespaces = C.int(flags)
	e.bounding = C.uint64_t(bounding)
	if noNewPrivs {
		e.no_new_privs = 1
	}
	for i, l := range limits {
		e.rlimits[i].rlim_cur, e.rlimits[i].rlim_max = C.rlim_t(l.Cur), C.rlim_t(l.Max)
	}
	var procs []C.int
	for _, d := range dirs {
		f, err := os.OpenFile(filepath.Join(d.dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot enter the container's cgroup: %w", err)
		}
		defer f.Close()
		procs = append(procs, C.int(f.Fd()))
	}
	e.cgroups, e.n_cgroups = copied(&mem, procs), C.int(len(procs))
	if file, text := p.label(); text != "" {
		e.label_file, e.label = mem.text(file), mem.text(text)
	}
	e.uid, e.gid = C.uid_t(in.uid), C.gid_t(in.gid)
	gids := make([]C.gid_t, len(in.groups))
	for i, g := range in.groups {
		gids[i] = C.gid_t(g)
	}
	e.groups, e.n_groups = copied(&mem, gids), C.int(len(gids))
	for i, f := range in.stdio {
		e.stdio[i] = C.int(f.Fd())
	}
	if in.terminal {
		e.terminal = 1
	}
	e.dir = mem.text(in.dir)
	if in.dir == "" {
		e.dir, e.dir_optional = mem.text(in.home), 1
	}
	e.paths, e.argv, e.envp = mem.list(in.paths), mem.list(in.argv), mem.list(in.env)

	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer r.Close()
	e.report = C.int(w.Fd())
	pid := int(C.enter_start(e))
	w.Close()
	if pid < 0 {
		return nil, &enterError{C.ENTER_FORK, unix.Errno(-pid), &in}
	}
	return p.arrive(ctx, r, pid, &in)
}

// arrive follows the reports of the process that enters, until the program runs.
func (p *initProc) arrive(ctx context.Context, reports *os.File, pid int, in *entry) (*program, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, enterLimit, fmt.Errorf("cannot enter the container within %s: is it paused?", enterLimit))
	defer cancel()
	if entering, err := unix.PidfdOpen(pid, 0); err == nil {
		hold := os.NewFile(uintptr(entering), "pidfd")
		defer hold.Close()
		defer context.AfterFunc(ctx, func() {
			unix.PidfdSendSignal(int(hold.Fd()), unix.SIGKILL, nil, 0)
			reports.SetReadDeadline(time.Unix(1, 0))
		})()
	}
	var failed *enterError
	var prog *program
	var msg C.struct_enter_report
	buf := make([]byte, unsafe.Sizeof(msg))
	for {
		_, err := io.ReadFull(reports, buf)
		if err == io.EOF {
			break
		}
		if err != nil {
			failed = nil
			if prog != nil {
				prog.end()
			}
			go reap(pid) // it may be frozen with the container
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("cannot enter the container: %w", err)
		}
		step, value := int(int32(binary.NativeEndian.Uint32(buf))), int(int32(binary.NativeEndian.Uint32(buf[4:])))
		if step != C.ENTER_PID {
			failed = &enterError{step, unix.Errno(value), in}
			continue
		}
		// A child that was not waited for yet keeps its number.
		fd, err := unix.PidfdOpen(value, 0)
		if err != nil {
			unix.Kill(value, unix.SIGKILL)
			reap(value)
			reap(pid)
			return nil, fmt.Errorf("cannot follow the program: %w", err)
		}
		prog = &program{value, os.NewFile(uintptr(fd), "pidfd")}
	}
	reap(pid)
	switch {
	case failed != nil && prog != nil:
		prog.end()
		return nil, failed
	case failed != nil:
		return nil, failed
	case prog == nil:
		return nil, fmt.Errorf("%w: it ended while it was entered", ErrNotRunning)
	}
	return prog, nil
}

func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// arena is memory of C's, freed at once.
type arena []unsafe.Pointer

func (a *arena) free() {
	for _, p := range *a {
		C.free(p)
	}
}

func (a *arena) alloc(n uintptr) unsafe.Pointer {
	p := C.calloc(1, C.size_t(max(n, 1)))
	*a = append(*a, p)
	return p
}

func (a *arena) text(s string) *C.char {
	p := C.CString(strings.ReplaceAll(s, "\x00", ""))
	*a = append(*a, unsafe.Pointer(p))
	return p
}

// list is an array of texts with NULL at its end.
func (a *arena) list(texts []string) **C.char {
	p := (**C.char)(a.alloc(uintptr(len(texts)+1) * unsafe.Sizeof((*C.char)(nil))))
	for i, s := range texts {
		unsafe.Slice(p, len(texts))[i] = a.text(s)
	}
	return p
}

func copied[T any](a *arena, from []T) *T {
	var one T
	p := (*T)(a.alloc(uintptr(len(from)) * unsafe.Sizeof(one)))
	copy(unsafe.Slice(p, len(from)), from)
	return p
}
