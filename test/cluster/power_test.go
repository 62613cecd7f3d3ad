//go:build cluster

package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Off pulls the host's plug: SIGKILL for all that runs on it, its containers too. It
// returns when they are gone. A host that is off stays off.
func (h *Host) Off() {
	h.c.t.Helper()
	if err := h.off(); err != nil {
		h.c.t.Fatal(err)
	}
}

// On starts the host anew, and waits until its services run. One that is on stays on.
func (h *Host) On() {
	h.c.t.Helper()
	if err := h.on(); err != nil {
		h.c.t.Fatal(err)
	}
}

// Cut pulls the host's network cable.
func (h *Host) Cut() { h.cable("down") }

// Join puts the cable in again.
func (h *Host) Join() { h.cable("up") }

func (h *Host) cable(state string) {
	h.c.t.Helper()
	if err := h.c.ip("link", "set", h.port(), state); err != nil {
		h.c.t.Fatal(err)
	}
}

// IsOn says whether the host's plug is in.
func (h *Host) IsOn() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.init != nil
}

func (h *Host) on() error {
	said, err := h.plugIn()
	if said == nil {
		return err
	}
	defer said.Close()
	if err != nil {
		return err
	}
	// os.Pipe's ends wait in the runtime's poller, and so have a limit.
	if err := said.(*os.File).SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	if line != "up\n" {
		return fmt.Errorf("%s does not come up: %v, service %q\n%s", h.Name, err, strings.TrimSpace(line), h.Console())
	}
	return nil
}

// plugIn returns when the host's start has begun. said is nil when it was on before.
func (h *Host) plugIn() (said io.ReadCloser, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.init != nil {
		return nil, nil
	}
	said, err = h.boot()
	if err != nil {
		return said, fmt.Errorf("starting %s: %w", h.Name, err)
	}
	return said, h.tell("on")
}

func (h *Host) off() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.init == nil {
		return nil
	}
	err := h.init.Process.Kill()
	_ = h.init.Wait() // which is over once no process of its namespace is left
	h.init = nil
	// With the namespace the cable goes by itself, but later.
	if e := h.c.ip("link", "del", h.port()); e != nil && !strings.Contains(e.Error(), "Cannot find device") {
		err = errors.Join(err, e)
	}
	return errors.Join(err, detachLoops(h.path()), h.tell("off"))
}

// servePower does what hosts ask for at /run/power/req, as a host's management board does:
// "off NAME", "on NAME". /run/power/NAME says "on" or "off" once it is so.
func (c *Cluster) servePower() error {
	path := filepath.Join(c.dir, "power/req")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return err
	}
	// For reading and writing, so that it has no end while nobody asks.
	req, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	c.t.Cleanup(func() { req.Close() })
	go func() {
		for lines := bufio.NewScanner(req); lines.Scan(); {
			verb, name, _ := strings.Cut(lines.Text(), " ")
			for _, h := range c.Hosts {
				var err error
				switch {
				case h.Name != name:
				case verb == "off":
					err = h.off()
				case verb == "on":
					var said io.ReadCloser
					// The host's start must not fail for a closed pipe.
					if said, err = h.plugIn(); said != nil {
						go func() { _, _ = io.Copy(io.Discard, said); said.Close() }()
					}
				}
				if err != nil {
					fmt.Fprintf(os.Stderr, "%s %s: %v\n", verb, name, err)
				}
			}
		}
	}()
	return nil
}

// tell writes where the hosts look whether this one is on.
func (h *Host) tell(state string) error {
	path := filepath.Join(h.c.dir, "power", h.Name)
	if err := os.WriteFile(path+".new", []byte(state+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// detachLoops detaches the loop devices on files below a directory of this machine: they
// outlive the host that attached them.
func detachLoops(dir string) error {
	type file struct{ dev, inode uint64 }
	below := map[file]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && d.Type().IsRegular() && unix.Stat(path, &st) == nil {
			below[file{st.Dev, st.Ino}] = true
		}
		return nil // what goes meanwhile has no loop device of ours
	})
	nodes, e := filepath.Glob("/sys/block/loop*/loop")
	err = errors.Join(err, e)
	for _, sys := range nodes {
		node := "/dev/" + filepath.Base(filepath.Dir(sys))
		if f, e := os.Open(node); e == nil {
			if info, e := unix.IoctlLoopGetStatus64(int(f.Fd())); e == nil && below[file{info.Device, info.Inode}] {
				err = errors.Join(err, wrap("detaching "+node, unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)))
			}
			f.Close()
		}
	}
	return err
}

// wrap says what failed; one that is gone meanwhile is done.
func wrap(what string, err error) error {
	if err == nil || errors.Is(err, unix.ENXIO) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
