package console

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/tty"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// searchPath is where programs are looked for.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// The descriptors of the process that keeps a console. Not every container has a
// terminal inside that we know of.
const (
	ttyFD = 3 + iota
	pidFD
	masterFD
	socketFD
	innerFD
)

// Start starts the process that keeps a container's console, which is a program that
// calls Keep with what follows its own arguments: with a session of its own, the root
// as its directory and an empty environment but for PATH. It has the terminal and the
// socket from here, so that nothing that the container says is lost, and who joins the
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
	args := slices.Concat(program[1:], []string{o.LogPath, strconv.FormatInt(o.MaxBytes, 10), o.SocketPath}, o.Ended)
	cmd := exec.Command(program[0], args...) // not CommandContext: it outlives us
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + searchPath}
	cmd.Stderr = log.f
	inner := t.Inner
	if inner == nil { // its place must not be another file's
		inner = log.f
	}
	cmd.ExtraFiles = []*os.File{t.Host, t.controller, t.Master, socket, inner}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return proc.Process{}, errors.Join(fmt.Errorf("cannot start the console process: %w", err), os.Remove(o.SocketPath))
	}
	p, err := proc.Of(cmd.Process.Pid)
	go cmd.Wait() // else it would stay a zombie for as long as this process lives
	return p, err
}

// Keep is the body of the process that Start started, with the arguments from there:
// it keeps the console until the container has ended, and becomes Options.Ended then.
func Keep(args []string) error {
	if len(args) < 3 {
		return errNotStarted
	}
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return errNotStarted
	}
	o := Options{LogPath: args[0], MaxBytes: size, SocketPath: args[2], Ended: args[3:]}
	t, l, err := inherit()
	if err != nil {
		return err
	}
	defer t.Close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := t.serve(ctx, o, l); err != nil || len(o.Ended) == 0 {
		return err
	}
	return fmt.Errorf("cannot run %s: %w", o.Ended[0], unix.Exec(o.Ended[0], o.Ended, os.Environ()))
}

var errNotStarted = errors.New("the process that keeps a console is started by lxcboot alone")

// inherit takes what Start gave to the process.
func inherit() (*Terminal, net.Listener, error) {
	for fd := ttyFD; fd <= innerFD; fd++ {
		unix.CloseOnExec(fd)
	}
	// os/exec has made them blocking; the runtime is to poll them.
	for _, fd := range []int{ttyFD, innerFD} {
		_ = unix.SetNonblock(fd, true)
	}
	socket := os.NewFile(socketFD, "socket")
	defer socket.Close()
	l, err := net.FileListener(socket)
	if err != nil {
		return nil, nil, errNotStarted
	}
	t := &Terminal{tty.Ends{Host: os.NewFile(ttyFD, "console"), Master: os.NewFile(masterFD, "ptmx")}, os.NewFile(pidFD, "pidfd")}
	if term.IsTerminal(innerFD) {
		t.Inner = os.NewFile(innerFD, "ptmx")
	}
	return t, l, nil
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
