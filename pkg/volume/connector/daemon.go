package connector

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const (
	storageDaemon = "qemu-storage-daemon"

	// The files of an attachment's directory.
	qmpSocket  = "qmp.sock"
	pidFile    = "pid"
	logFile    = "log"
	volumeFile = "volume" // the FUSE export is mounted on it

	exportID = "export"
)

// Limits of single acts of a daemon.
const (
	startLimit = 15 * time.Second // until it listens
	flushLimit = 30 * time.Second
	quitLimit  = 20 * time.Second // from SIGTERM to SIGKILL
	killLimit  = 10 * time.Second // from SIGKILL to its end
	idleLimit  = 10 * time.Second // until a loop device that frees itself is gone
)

// daemon is the qemu-storage-daemon of one attachment: it serves the volume as
// a regular file in its directory, and outlives the command that started it.
//
// It is known by its command line, which names that directory, never by its
// number alone: so one whose number was lost in a crash is found as well.
type daemon struct {
	h   *Host
	dir string // resolved, StateDir/attachments/ID
}

func (h *Host) daemon(attachment string) daemon {
	return daemon{h, filepath.Join(h.stateDir(), "attachments", attachment)}
}

// stateDir is Options.StateDir with symlinks resolved, as mountinfo shows it.
func (h *Host) stateDir() string {
	if dir, err := filepath.EvalSymlinks(h.o.StateDir); err == nil {
		return dir
	}
	return filepath.Clean(h.o.StateDir)
}

func (d daemon) path() string { return filepath.Join(d.dir, volumeFile) }

// stack is what a daemon is told to serve.
type stack struct {
	secrets    map[string][]byte // by id; told over the control socket only
	candidates []candidate       // tried in this order
}

// candidate is one way to reach a volume.
type candidate struct {
	name  string   // for errors: a portal, a list of monitors
	dial  []string // host:port, one of which must answer; QEMU's own wait has no limit
	nodes []args   // block nodes, lowest first; the last is exported
	doubt string   // what may be wrong when the server answers, but opening does not end
}

// serve starts the daemon unless it serves already, and returns its process id.
func (d daemon) serve(ctx context.Context, s stack, readOnly bool) (pid int, err error) {
	running, pidfd, err := d.process()
	if err != nil {
		return 0, err
	}
	if pidfd != nil {
		defer pidfd.Close()
		if d.ready(ctx) == nil {
			return running, nil
		}
	}
	if err := d.stop(ctx); err != nil { // what a crash left half made
		return 0, err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return 0, err
	}
	fault.Point("connector/daemon/directory-made")
	if err := os.WriteFile(d.path(), nil, 0o600); err != nil {
		return 0, err
	}
	pid, q, err := d.start(ctx)
	if err != nil {
		return 0, err
	}
	defer q.Close()
	fault.Point("connector/daemon/started")
	node, err := s.open(ctx, q)
	if err != nil {
		return 0, err
	}
	fault.Point("connector/daemon/opened")
	if _, err := q.do(ctx, "block-export-add", args{
		"type": "fuse", "id": exportID, "node-name": node, "mountpoint": d.path(), "writable": !readOnly,
	}); err != nil {
		return 0, fmt.Errorf("exporting the volume as a file: %w", err)
	}
	q.Close() // it serves one client at a time
	if err := d.ready(ctx); err != nil {
		return 0, err
	}
	fault.Point("connector/daemon/exported")
	return pid, nil
}

// start runs the process and waits until it takes commands.
func (d daemon) start(ctx context.Context) (int, *qmp, error) {
	exe, err := findTool(storageDaemon)
	if err != nil {
		return 0, nil, failure.Of(volume.ErrUnsupported, "the program %s is not installed", storageDaemon)
	}
	log, err := os.OpenFile(filepath.Join(d.dir, logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, nil, err
	}
	defer log.Close()
	scope := host.Scope{
		Name:   fmt.Sprintf("lxcboot-volume-%s-%d", filepath.Base(d.dir), time.Now().UnixMilli()),
		Before: host.Service, // the containers end first: this serves what they have mounted
	}
	cmd, warning, err := host.StartApart(scope, func() *exec.Cmd {
		cmd := exec.Command(exe, d.argv()...)
		cmd.Dir = d.dir
		// Nothing of the caller's environment, which may hold a cloud's password.
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd
	})
	if err != nil {
		return 0, nil, fmt.Errorf("starting %s: %w", storageDaemon, err)
	}
	if warning != nil && d.h.o.Warn != nil {
		d.h.o.Warn(warning)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var q *qmp
	err = poll(ctx, storageDaemon+" to listen", func() (bool, error) {
		select {
		case err := <-ended:
			return false, fmt.Errorf("%s ended at once (%v): %s", storageDaemon, err, d.lastWords())
		default:
		}
		conn, err := dialQMP(ctx, d.dir)
		q = conn
		return err == nil, nil
	})
	return cmd.Process.Pid, q, err
}

// argv says where to listen and nothing else: all about the volume is told over
// the control socket, so that the process list shows none of it.
func (d daemon) argv() []string {
	return []string{
		"--pidfile", filepath.Join(d.dir, pidFile),
		"--chardev", "socket,id=control,path=" + qmpSocket + ",server=on,wait=off",
		"--monitor", "chardev=control",
	}
}

// open makes the block nodes of the first candidate that works, and returns the
// name of the node to export.
func (s stack) open(ctx context.Context, q *qmp) (string, error) {
	for id, data := range s.secrets {
		if _, err := q.do(ctx, "object-add", args{
			"qom-type": "secret", "id": id, "format": "base64", "data": base64.StdEncoding.EncodeToString(data),
		}); err != nil {
			return "", fmt.Errorf("handing over the secret %s: %w", id, err)
		}
	}
	var errs []error
	for _, c := range s.candidates {
		node, err := c.open(ctx, q)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
			continue
		}
		for id := range s.secrets { // the driver keeps what it needs
			if _, err := q.do(ctx, "object-del", args{"id": id}); err != nil {
				return "", err
			}
		}
		return node, nil
	}
	return "", errors.Join(errs...)
}

func (c candidate) open(ctx context.Context, q *qmp) (node string, err error) {
	if err := dialAny(ctx, c.dial); err != nil {
		return "", err
	}
	for i, n := range c.nodes {
		if _, err := q.do(ctx, "blockdev-add", n); err != nil {
			for _, made := range c.nodes[:i] {
				q.do(ctx, "blockdev-del", args{"node-name": made["node-name"]})
			}
			if strings.Contains(err.Error(), "does not accept value") || strings.Contains(err.Error(), "Unknown driver") {
				return "", fmt.Errorf("%w: %s has no driver %v; install its block drivers (Debian: qemu-block-extra): %v",
					volume.ErrUnsupported, storageDaemon, n["driver"], err)
			}
			if ctx.Err() != nil && c.doubt != "" {
				return "", fmt.Errorf("%w; %s", err, c.doubt)
			}
			return "", fmt.Errorf("%s: %s", storageDaemon, strings.TrimSpace(err.Error()))
		}
		node, _ = n["node-name"].(string)
	}
	return node, nil
}

// ready says whether the volume is served: exported, mounted and of some size.
func (d daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	q, err := dialQMP(ctx, d.dir)
	if err != nil {
		return err
	}
	defer q.Close()
	b, err := q.do(ctx, "query-block-exports", nil)
	if err != nil {
		return err
	}
	var exports []struct {
		ID       string `json:"id"`
		Shutting bool   `json:"shutting-down"`
	}
	if err := json.Unmarshal(b, &exports); err != nil {
		return err
	}
	if len(exports) != 1 || exports[0].ID != exportID || exports[0].Shutting {
		return errors.New("the daemon exports no volume")
	}
	if n, err := d.mounts(); err != nil || n != 1 {
		return fmt.Errorf("%s carries %d mounts instead of 1: %w", d.path(), n, err)
	}
	return within(ctx, "looking at "+d.path(), func() error {
		fi, err := os.Stat(d.path())
		if err == nil && fi.Size() == 0 {
			err = fmt.Errorf("%s is empty", d.path())
		}
		return err
	})
}

// mounts counts the mounts on the volume's file. It looks at no file, as a dead
// daemon's mount would answer with an error.
func (d daemon) mounts() (int, error) {
	all, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(d.path()))
	return len(all), err
}

// stop ends the daemon and removes what is left of it, once no loop device uses
// the volume and it is flushed.
func (d daemon) stop(ctx context.Context) error {
	pid, pidfd, err := d.process()
	if err != nil {
		return err
	}
	if pidfd != nil {
		defer pidfd.Close()
		if err := idle(ctx, d.path()); err != nil {
			return err
		}
		// A daemon that was just killed cannot flush either, but is about to end.
		if err := d.flush(ctx); err != nil && proc.End(context.WithoutCancel(ctx), pidfd, proc.Push{Wait: time.Second}) != nil {
			return fmt.Errorf("%w: %v; bring the storage back and try again, or kill process %d to give up what was not written", ErrNotFlushed, err, pid)
		}
		fault.Point("connector/daemon/flushed")
		grace := quitLimit
		if n, err := d.mounts(); err == nil && n == 0 {
			grace = 2 * time.Second // it never served: it may hang in opening the volume
		}
		// On SIGTERM it closes the volume in order. There is no way back then, and so the
		// wait for its end does not end with ctx.
		err := proc.End(context.WithoutCancel(ctx), pidfd, proc.Push{Signal: unix.SIGTERM, Wait: grace}, proc.Push{Signal: unix.SIGKILL, Wait: killLimit})
		if err != nil {
			return fmt.Errorf("ending process %d (%s): %w", pid, storageDaemon, err)
		}
		fault.Point("connector/daemon/ended")
	}
	return d.clean()
}

// flush brings all that was written to the storage.
func (d daemon) flush(ctx context.Context) error {
	if n, err := d.mounts(); err != nil || n == 0 {
		return err
	}
	return d.h.flushApart(ctx, d.path())
}

// clean takes away the mount and the files of a daemon that is gone.
func (d daemon) clean() error {
	for {
		n, err := d.mounts()
		if err != nil {
			return fmt.Errorf("reading the mount table: %w", err)
		}
		if n == 0 {
			break
		}
		// Detached, since nobody answers an ordinary unmount any more.
		if err := unix.Unmount(d.path(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmounting %s: %w", d.path(), err)
		}
	}
	for _, name := range []string{volumeFile, qmpSocket, pidFile, logFile, ""} {
		if err := os.Remove(filepath.Join(d.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing what the daemon left: %w", err)
		}
	}
	return nil
}

// lastWords is the end of what the daemon wrote.
func (d daemon) lastWords() string {
	b, err := os.ReadFile(filepath.Join(d.dir, logFile))
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return "it said nothing"
	}
	return strings.Join(strings.Fields(string(b[max(0, len(b)-1000):])), " ")
}

// process finds the daemon and takes hold of it; pidfd is nil when there is none.
func (d daemon) process() (pid int, pidfd *os.File, err error) {
	entries, err := os.ReadDir("/proc") // an error must not pass for "none"
	if err != nil {
		return 0, nil, fmt.Errorf("listing processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !d.is(pid) {
			continue
		}
		f, err := proc.Open(pid)
		if errors.Is(err, os.ErrProcessDone) {
			continue
		}
		if err != nil {
			return 0, nil, err
		}
		if d.is(pid) { // still, now that it cannot become another
			return pid, f, nil
		}
		f.Close()
	}
	return 0, nil, nil
}

// is says whether the process is this daemon, by its arguments.
func (d daemon) is(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return false
	}
	// Also while systemd-run is about to become it.
	return bytes.HasSuffix(b, []byte("\x00"+strings.Join(d.argv(), "\x00")+"\x00"))
}
