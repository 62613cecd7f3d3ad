package console

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

// testLimit is how long a test waits for what must come.
const testLimit = 60 * time.Second

// TestMain lets the test's own program be the process that keeps a console.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "keep" {
		if err := Keep(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 5 && os.Args[1] == "freeze" {
		fmt.Fprintln(os.Stderr, freezeGuarded(os.Args[2], os.Args[3], os.Args[4]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(testLimit); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// world is a container as its console's process sees it: a controller, the child of
// which is the init of a pid namespace, and a terminal.
type world struct {
	Options
	dir        string
	controller *exec.Cmd
	master     *os.File // what the container prints is written here
	terminal   *Terminal
	process    proc.Process
}

// newOptions is a world without a controller.
func newOptions(t *testing.T) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	w.Options = Options{
		LogPath: filepath.Join(w.dir, "log"), SocketPath: filepath.Join(w.dir, "sock"),
		Ended: []string{"/bin/sh", "-c", `echo "$0 $*" >` + w.dir + `/ended.new; mv ` + w.dir + `/ended.new ` + w.dir + `/ended`},
	}
	must(t, unix.Mkfifo(filepath.Join(w.dir, "go"), 0o600))
	return w
}

// newWorld starts a controller whose init runs a script of busybox's shell when the test
// writes to its FIFO "go".
func newWorld(t *testing.T, script string) *world {
	t.Helper()
	w := newOptions(t)
	must(t, unix.Mkfifo(filepath.Join(w.dir, "never"), 0o600))
	// As libvirt's, the controller lives on for a while after the init; the init ends with it.
	w.controller = exec.Command("unshare", "--pid", "busybox", "sh", "-c",
		`/usr/bin/setpriv --pdeathsig KILL busybox sh -c "$1" & wait; read -t 1 line <>"$0/never"`, w.dir, "read line <"+w.dir+"/go; "+script)
	must(t, w.controller.Start())
	t.Cleanup(func() { w.controller.Process.Kill(); w.controller.Wait() })
	master, slave, err := pty.Open()
	must(t, err)
	_, err = term.MakeRaw(int(slave.Fd()))
	must(t, err)
	fd, err := unix.Dup(int(master.Fd()))
	must(t, err)
	must(t, unix.SetNonblock(fd, true))
	w.master = os.NewFile(uintptr(fd), "master")
	pidfd, err := unix.PidfdOpen(w.controller.Process.Pid, 0)
	must(t, err)
	w.terminal = &Terminal{Ends: tty.Ends{Host: slave, Master: master}, pid: w.controller.Process.Pid, controller: os.NewFile(uintptr(pidfd), "pidfd")}
	t.Cleanup(w.terminal.Close)
	t.Cleanup(func() { w.master.Close() })
	return w
}

// init waits for the controller's child, until that ends with it: before, it is the
// controller's copy, and then setpriv.
func (w *world) init(t *testing.T) (pid int) {
	t.Helper()
	eventually(t, "the init", func() bool {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", w.controller.Process.Pid))
		n, _ := fmt.Sscan(string(data), &pid)
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return n == 1 && strings.HasPrefix(string(line), "busybox") && !strings.Contains(string(line), "setpriv")
	})
	return pid
}

func (w *world) start(t *testing.T) {
	t.Helper()
	w.Warn = func(err error) { t.Errorf("a warning: %v", err) }
	p, err := Start([]string{os.Args[0], "keep"}, w.terminal, w.Options)
	must(t, err)
	w.process = p
	t.Cleanup(func() {
		if f, err := p.Open(); err == nil {
			unix.PidfdSendSignal(int(f.Fd()), unix.SIGCONT, nil, 0)
			unix.PidfdSendSignal(int(f.Fd()), unix.SIGKILL, nil, 0)
			f.Close()
		}
	})
}

// goOn lets the init run its script.
func (w *world) goOn(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(w.dir, "go"), []byte("\n"), 0))
}

// end ends the container from outside.
func (w *world) end() { w.controller.Process.Kill(); w.controller.Wait() }

// print prints something as the container; it must be taken.
func (w *world) print(t *testing.T, text string) {
	t.Helper()
	w.master.SetWriteDeadline(time.Now().Add(testLimit))
	if n, err := io.WriteString(w.master, text); err != nil {
		t.Fatalf("the container is blocked after %d of %d bytes: %v", n, len(text), err)
	}
}

func (w *world) log(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	must(t, ReadLog(w.LogPath, 0, &b))
	return b.String()
}

// ended waits for what follows the container's end and gives its arguments.
func (w *world) ended(t *testing.T) (args string) {
	t.Helper()
	eventually(t, "what follows the container's end", func() bool {
		data, err := os.ReadFile(filepath.Join(w.dir, "ended"))
		args = strings.TrimSpace(string(data))
		return err == nil
	})
	eventually(t, "the process to end", func() bool { return !w.process.Alive() })
	return args
}

// smallDisk mounts a small filesystem and gives a directory in it.
func smallDisk(t *testing.T, fstype string) string {
	t.Helper()
	dir := t.TempDir()
	if fstype == "tmpfs" {
		must(t, unix.Mount("none", dir, "tmpfs", 0, "size=256k"))
	} else {
		image := filepath.Join(t.TempDir(), "image")
		for _, argv := range [][]string{{"truncate", "-s", "8M", image}, {"mkfs." + fstype, "-q", "-m", "0", image}, {"mount", "-o", "loop", image, dir}} {
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%q: %v: %s", argv, err, out)
			}
		}
	}
	t.Cleanup(func() { eventually(t, "the disk to be idle", func() bool { return unix.Unmount(dir, 0) == nil }) })
	return dir
}

// fill leaves no space on a disk.
func fill(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "filler-")
	must(t, err)
	defer f.Close()
	for size := 64 << 10; size > 0; size /= 2 {
		for {
			if _, err := f.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
	return f.Name()
}
