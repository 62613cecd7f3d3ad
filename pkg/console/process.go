package console

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/tty"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// searchPath is where programs are looked for.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// The descriptors of the process that keeps a console. The null device stands for what
// there is not.
const (
	ttyFD = 3 + iota
	pidFD
	masterFD
	socketFD
	innerFD
	initFD
	eventsFD
	claimFD
	endsFD
	devicesFD // the first of the block devices, if there are any
)

// Start starts the process that keeps a container's console, which is a program that
// calls Keep with what follows its own arguments: with a session of its own, the root
// as its directory, an empty environment but for PATH, and none of this process's control
// groups. It has the terminal, the init, the claim and the socket from here, so that nothing that the container says is lost, and who joins the
// console is heard, before it has come up: it is not waited for. Its last words go to
// the log.
func Start(program []string, t *Terminal, o Options) (proc.Process, error) {
	log, err := openLog(o.LogPath, o.MaxBytes)
	if err != nil {
		return proc.Process{}, err
	}
	defer log.Close()
	l, err := listen(o.SocketPath)
	if err != nil {
		return proc.Process{}, err
	}
	defer l.Close()
	socket, err := l.File()
	if err != nil {
		return proc.Process{}, fmt.Errorf("cannot start the console process: %w", err)
	}
	defer socket.Close()
	none, err := os.Open(os.DevNull)
	if err != nil {
		return proc.Process{}, fmt.Errorf("cannot start the console process: %w", err)
	}
	defer none.Close()
	files := []*os.File{t.Host, t.controller, t.Master, socket, t.Inner, nil, nil, nil, nil}
	if t.init != nil {
		files[initFD-ttyFD], files[eventsFD-ttyFD], files[endsFD-ttyFD] = t.init.pidfd, t.init.events, t.init.ends
	}
	if o.Claim != "" {
		claim, err := os.OpenFile(o.Claim, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return proc.Process{}, errors.Join(fmt.Errorf("cannot claim the container: %w", err), os.Remove(o.SocketPath))
		}
		defer claim.Close()
		_ = unix.Flock(int(claim.Fd()), unix.LOCK_EX|unix.LOCK_NB) // else the process waits for it
		files[claimFD-ttyFD] = claim
	}
	files = append(files, o.Devices...)
	for i, f := range files {
		if f == nil {
			files[i] = none
		}
	}
	args := slices.Concat(program[1:], []string{o.LogPath, strconv.FormatInt(o.MaxBytes, 10), o.SocketPath}, o.Ended)
	scope := host.Scope{
		Name:   fmt.Sprintf("lxcboot-console-%s-%d", filepath.Base(filepath.Dir(o.LogPath)), time.Now().UnixMilli()),
		Before: host.Service,
	}
	cmd, warning, err := host.StartApart(scope, func() *exec.Cmd {
		cmd := exec.Command(program[0], args...) // not CommandContext: it outlives us
		cmd.Dir = "/"
		cmd.Env = []string{"PATH=" + searchPath}
		cmd.Stderr = log.f
		cmd.ExtraFiles = files
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd
	})
	if err != nil {
		return proc.Process{}, errors.Join(fmt.Errorf("cannot start the console process: %w", err), os.Remove(o.SocketPath))
	}
	t.blocked = false // the process sees to it
	if warning != nil && o.Warn != nil {
		o.Warn(warning)
	}
	p, err := proc.Of(cmd.Process.Pid)
	go cmd.Wait() // else it would stay a zombie for as long as this process lives
	return p, err
}

// Keep is the body of the process that Start started, with the arguments from there:
// it keeps the console until the container has ended, and becomes Options.Ended then.
// SIGTERM ends it before, and not any more once the container has ended: nobody else may
// be there to release what the host holds for it.
func Keep(args []string) error {
	if len(args) < 3 {
		return errNotStarted
	}
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return errNotStarted
	}
	o := Options{LogPath: args[0], MaxBytes: size, SocketPath: args[2], Ended: args[3:]}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	t, l, claim, err := inherit()
	if err != nil {
		return err
	}
	o.Devices = inheritDevices()
	defer t.Close()
	if claim != nil {
		go func() { // left behind, when another keeps it
			for unix.Flock(int(claim.Fd()), unix.LOCK_EX) == unix.EINTR {
			}
		}()
	}
	status := make(chan int, 1)
	if t.init != nil {
		go func() {
			if s, known := t.init.wait(); known {
				status <- s
			}
			close(status)
		}()
	} else {
		close(status)
	}
	if err := t.serve(ctx, o, l); err != nil || len(o.Ended) == 0 {
		return err
	}
	select {
	case s, known := <-status:
		if known {
			o.Ended = append(o.Ended, "--status", strconv.Itoa(s))
		}
	case <-time.After(2 * exitLimit):
	}
	if claim != nil {
		unix.FcntlInt(claim.Fd(), unix.F_SETFD, 0) // kept through what follows
	}
	signal.Ignore(unix.SIGINT, unix.SIGTERM) // until that listens for them
	for end := time.Now().Add(replaced); ; time.Sleep(50 * time.Millisecond) {
		err := unix.Exec(o.Ended[0], o.Ended, os.Environ())
		if time.Now().After(end) {
			return fmt.Errorf("cannot run %s: %w", o.Ended[0], err)
		}
	}
}

// replaced is how long a program may be away while it is replaced by a new version.
const replaced = 10 * time.Second

var errNotStarted = errors.New("the process that keeps a console is started by lxcboot alone")

// inherit takes what Start gave to the process.
func inherit() (t *Terminal, l net.Listener, claim *os.File, err error) {
	if err := host.CloseOnExec(); err != nil {
		return nil, nil, nil, err
	}
	t = &Terminal{
		Ends:       tty.Ends{Host: given(ttyFD, "console"), Master: given(masterFD, "ptmx"), Inner: given(innerFD, "ptmx")},
		controller: given(pidFD, "pidfd"),
	}
	if pidfd := given(initFD, "pidfd"); pidfd != nil {
		t.init = &ending{given(endsFD, "ends"), pidfd, given(eventsFD, "exit events")}
	}
	claim = given(claimFD, "claim")
	socket := os.NewFile(socketFD, "socket")
	defer socket.Close()
	if l, err = net.FileListener(socket); err != nil || t.Host == nil || t.controller == nil {
		return nil, nil, nil, errNotStarted
	}
	return t, l, claim, nil
}

// inheritDevices takes the block devices that Start gave to the process.
func inheritDevices() (devices []*os.File) {
	for fd := devicesFD; ; fd++ {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return devices
		}
		devices = append(devices, os.NewFile(uintptr(fd), "device"))
	}
}

// given is a file that Start gave, nil when there was none to give.
func given(fd int, name string) *os.File {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
		return nil
	}
	if term.IsTerminal(fd) { // os/exec has made it blocking; the runtime is to poll it
		_ = unix.SetNonblock(fd, true)
	}
	return os.NewFile(uintptr(fd), name)
}

// Stop ends a process that Start started. It ends by itself with the
// container, and gets a moment for that: its log is whole then. One that is gone,
// or whose number is another's by now, is done.
func Stop(ctx context.Context, p proc.Process) error {
	f, err := p.Open()
	if err != nil {
		return nil
	}
	defer f.Close()
	for _, step := range []struct {
		sig   unix.Signal
		grace time.Duration
	}{{0, time.Second}, {unix.SIGTERM, 2 * time.Second}, {unix.SIGKILL, 5 * time.Second}} {
		if step.sig != 0 {
			if err := unix.PidfdSendSignal(int(f.Fd()), step.sig, nil, 0); err == unix.ESRCH {
				return nil
			}
		}
		until := time.Now().Add(step.grace)
		for proc.Alive(f) {
			if time.Now().After(until) {
				break
			}
			if err := wait.For(ctx, 5*time.Millisecond); err != nil {
				return err
			}
		}
		if !proc.Alive(f) {
			return nil
		}
	}
	return fmt.Errorf("the console process %d cannot be ended", p.PID)
}
