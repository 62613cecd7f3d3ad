package lxc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirt"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// initProc is a container's first process. The pidfd keeps its identity: what was
// read of /proc is true of it if it is alive after.
type initProc struct {
	pid        int
	controller int // its parent, where findInit found it
	pidfd      *os.File
}

func (p *initProc) Close() { p.pidfd.Close() }

// findInit finds the init among the children of a container's controller.
func findInit(controller int) (*initProc, error) {
	if controller <= 1 {
		return nil, ErrNotRunning
	}
	for _, pid := range children(controller) {
		p, err := openInit(pid)
		if err != nil {
			continue
		}
		// Its parent is looked at once more, as the number may have changed hands.
		if st, err := readStatus(pid); err == nil && st["PPid"] == strconv.Itoa(controller) && proc.Alive(p.pidfd) {
			p.controller = controller
			return p, nil
		}
		p.Close()
	}
	return nil, ErrNotRunning
}

// openInit takes hold of the process pid, which must be the first of a pid
// namespace that is not ours.
func openInit(pid int) (*initProc, error) {
	if pid <= 0 {
		return nil, ErrNotRunning
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, ErrNotRunning
	}
	p := &initProc{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	st, err := readStatus(pid)
	if err == nil {
		ns := strings.Fields(st["NSpid"])
		if len(ns) < 2 || ns[len(ns)-1] != "1" {
			err = fmt.Errorf("%w: process %d is not the init of a container", ErrNotRunning, pid)
		}
	}
	if err == nil && !proc.Alive(p.pidfd) {
		err = ErrNotRunning
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// children are the processes whose parent is pid.
func children(pid int) []int {
	var out []int
	listed := false
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		if err != nil {
			continue
		}
		listed = true
		for _, f := range strings.Fields(string(data)) {
			if n, err := strconv.Atoi(f); err == nil {
				out = append(out, n)
			}
		}
	}
	if listed {
		return out
	}
	for _, n := range proc.All() { // a kernel without CONFIG_PROC_CHILDREN
		if st, err := readStatus(n); err == nil && st["PPid"] == strconv.Itoa(pid) {
			out = append(out, n)
		}
	}
	return out
}

// readStatus is /proc/PID/status. The name in it is the process's own choice, but
// the kernel escapes newlines.
func readStatus(pid int) (map[string]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, ErrNotRunning
	}
	st := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			st[k] = strings.TrimSpace(v)
		}
	}
	return st, nil
}

// Init is what kind of init a container runs.
type Init string

// The kinds of init that are told apart by the signals they obey.
const (
	Systemd Init = "systemd"
	Busybox Init = "busybox"
	SysV    Init = "sysvinit"
	Runit   Init = "runit"
	Other   Init = "other" // the usual: SIGTERM ends it
)

// sigRTMin is the C library's SIGRTMIN, from which systemd counts.
const sigRTMin = unix.Signal(34)

// powerOff is the signal that asks an init to power off.
var powerOff = map[Init]unix.Signal{
	Systemd: sigRTMin + 4,
	Busybox: unix.SIGUSR2,
	SysV:    unix.SIGPWR,  // if it does not listen to its control pipe
	Runit:   unix.SIGCONT, // with which it looks for the files that runit-init makes
	Other:   unix.SIGTERM,
}

// kind tells the init by the program that runs.
func (p *initProc) kind() Init {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid))
	if err != nil {
		return Other
	}
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.pid))
	switch base := filepath.Base(strings.TrimSuffix(exe, " (deleted)")); {
	case base == "systemd":
		return Systemd
	case base == "runit":
		return Runit
	case strings.HasPrefix(base, "busybox") && strings.HasSuffix(strings.TrimSpace(string(comm)), "init"):
		return Busybox
	case base == "init" && p.mentions("INIT_VERSION"):
		return SysV
	}
	return Other
}

// mentions says whether the program that runs holds a text.
func (p *initProc) mentions(text string) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/exe", p.pid))
	if err != nil {
		return false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 4<<20))
	return err == nil && bytes.Contains(data, []byte(text))
}

// waitTurned waits until the process runs its own program, and no longer that of
// libvirt's controller or lxcboot-init; false when it, or the controller, ended before.
// The kernel has no event for that.
func (p *initProc) waitTurned(ctx context.Context, controller int) (bool, error) {
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", controller))
	if err != nil {
		return false, nil
	}
	for {
		its, err := os.Stat(fmt.Sprintf("/proc/%d/exe", p.pid))
		if !proc.Alive(p.pidfd) {
			return false, nil
		}
		if err == nil && !os.SameFile(theirs, its) && !p.launching() && p.executed() {
			return true, nil
		}
		if err := wait.For(ctx, time.Millisecond/2); err != nil {
			return false, err
		}
	}
}

// launching says whether the process still is lxcboot-init: of that name, and on a
// filesystem in memory that is the host's root's.
func (p *initProc) launching() bool {
	exe := fmt.Sprintf("/proc/%d/exe", p.pid)
	name, err := os.Readlink(exe)
	if err != nil || filepath.Base(name) != programName {
		return false
	}
	var st unix.Stat_t
	var fs unix.Statfs_t
	return unix.Stat(exe, &st) == nil && unix.Statfs(exe, &fs) == nil && st.Uid == 0 && fs.Type == unix.TMPFS_MAGIC
}

// executed says whether no exec of the process is under way that has replaced its memory,
// and with it what /proc shows as its program, but not yet its signal handlers. The new
// program's auxiliary vector is written after both.
func (p *initProc) executed() bool {
	auxv, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", p.pid))
	return err == nil && len(bytes.Trim(auxv, "\x00")) > 0
}

// heeds says whether a signal reaches the process; sure: it is seen that it does, or that
// it does not, now. A pid namespace's first process never sees one that it does not
// handle, but for SIGKILL.
func (p *initProc) heeds(sig unix.Signal) (heeds, sure bool) {
	st, err := readStatus(p.pid)
	if err != nil || !p.executed() {
		return false, false
	}
	caught, err := strconv.ParseUint(st["SigCgt"], 16, 64)
	if err != nil {
		return false, false
	}
	// What it blocks it may well read from a signalfd, as systemd does.
	blocked, _ := strconv.ParseUint(st["SigBlk"], 16, 64)
	if (caught|blocked)&(1<<(uint(sig)-1)) != 0 {
		return true, true
	}
	// The kernel shows nothing of the signals that sigtimedwait waits for, and "0" of a
	// process that runs, or where it shows no such thing.
	wchan, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", p.pid))
	if err != nil || len(wchan) < 2 {
		return false, false
	}
	return strings.Contains(string(wchan), "sigtimedwait"), true
}

// signal sends to that process and no other.
func (p *initProc) signal(sig unix.Signal) error {
	err := unix.PidfdSendSignal(int(p.pidfd.Fd()), sig, nil, 0)
	if err == unix.ESRCH {
		return ErrNotRunning
	}
	return err
}

// killLater kills the process after a moment, with all of its pid namespace, unless
// it is stopped before. Either way the process is closed then.
func (p *initProc) killLater() (stop func()) {
	done := make(chan struct{})
	t := time.AfterFunc(killAfter, func() {
		p.signal(unix.SIGKILL)
		close(done)
	})
	return func() {
		if !t.Stop() {
			<-done
		}
		p.Close()
	}
}

// askAgain is when an init is asked again that may not have heard. An init handles
// signals only some time after it was executed: one that is young is given deafLimit to
// come to it. One that heard may have come to nothing with it, as systemd does while it
// still loads its units, and is asked again, too.
var (
	askAgain  = time.Second
	remind    = 3 * time.Second
	young     = 30 * time.Second
	deafLimit = 3 * time.Second
)

var errAskAgain = errors.New("not heard")

// Shutdown asks the container's init to power off, by the signal that its kind
// obeys, until it is heard, and waits until the container has ended; ctx bounds that.
// One that is not running is done. ErrUnheard: its init does not react to the signal.
func (h *Host) Shutdown(ctx context.Context, id string) error {
	begun := time.Now()
	for {
		again, err := h.ask(ctx, id, time.Since(begun))
		if err == nil {
			wait, cancel := context.WithTimeoutCause(ctx, again, errAskAgain)
			err = h.waitOff(wait, id)
			cancel()
		}
		if errors.Is(err, ErrNotRunning) { // its init has ended, which libvirt may not know yet
			var info Info
			if info, err = h.State(ctx, id); err == nil && info.Active() {
				err = errAskAgain
			}
		}
		if !errors.Is(err, errAskAgain) {
			return ignore(err, ErrNotFound)
		}
	}
}

// ask asks the container's init to power off, once, and says when it is to be asked again.
// Unless it was asked for longer than deafLimit already, one that is young may be deaf.
func (h *Host) ask(ctx context.Context, id string, asked time.Duration) (again time.Duration, err error) {
	again = remind
	err = h.withInit(ctx, id, func(p *initProc) error {
		short, cancel := context.WithTimeoutCause(ctx, askAgain, errAskAgain)
		defer cancel()
		if up, err := p.waitTurned(short, p.controller); err != nil {
			return err
		} else if !up {
			return ErrNotRunning
		}
		kind := p.kind()
		if kind == SysV && h.domain(ctx, id, func(dom *libvirt.Domain) error { return dom.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_INITCTL) }) == nil {
			return nil
		}
		if kind == Runit {
			return p.stopRunit(ctx)
		}
		yes, sure := p.heeds(powerOff[kind])
		if kind == Other && sure && !yes && (asked > deafLimit || p.age() > young) {
			return fmt.Errorf("container %s: %w", id, ErrUnheard)
		}
		switch {
		case !yes:
			again = askAgain
		case kind == Other: // for whom a second signal may mean to be quick about it
			again = goneLimit
		case kind == Systemd && asked >= remind && p.missesEnds():
			if err := p.signal(unix.SIGHUP); err != nil { // it reads its units again, and looks at all of their groups
				return err
			}
		}
		return p.signal(powerOff[kind])
	})
	return again, err
}

// missesEnds says whether systemd may wait for the end of a unit whose processes are all
// gone, as that of Debian 12 does for two minutes after a login: with version 1 of control
// groups a container is not told that a group is empty.
func (p *initProc) missesEnds() bool {
	groups, err := cgroup.Of(p.pid)
	return err == nil && groups["name=systemd"] != ""
}

// stopRunit has runit-init, which is called init, ask it, as no signal alone says more than
// to look around. One without that program is told to look.
func (p *initProc) stopRunit(ctx context.Context) error {
	program, err := host.Program(programName)
	if err != nil {
		return err
	}
	code, err := p.exec(ctx, ExecOptions{Argv: []string{"init", "0"}, Program: program})
	if errors.Is(err, ErrNoProgram) || err == nil && code != 0 {
		return p.signal(powerOff[Runit])
	}
	return err
}

// age is how long ago the process was made.
func (p *initProc) age() time.Duration {
	it, err := proc.Of(p.pid)
	if err != nil {
		return 0
	}
	return it.Age()
}

func (h *Host) withInit(ctx context.Context, id string, f func(*initProc) error) error {
	info, err := h.State(ctx, id)
	if err != nil {
		return err
	}
	p, err := findInit(info.PID)
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	defer p.Close()
	return f(p)
}
