//go:build cluster

package cluster

import (
	"bufio"
	"bytes"
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

// Off pulls the host's plug: what it has written to a filesystem of its containers and not
// flushed is lost, and all that runs on it gets SIGKILL, its containers too. It returns when
// they are gone. A host that is off stays off.
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
	err := h.loseWrites()
	err = errors.Join(err, h.init.Process.Kill(), h.freeze("THAWED")) // what was frozen dies as it wakes
	_ = h.init.Wait()                                                 // which is over once no process of its namespace is left
	h.init = nil
	// With the namespace the cable goes by itself, but later.
	if e := h.c.ip("link", "del", h.port()); e != nil && !strings.Contains(e.Error(), "Cannot find device") {
		err = errors.Join(err, e)
	}
	return errors.Join(err, h.dropLoops(), h.tell("off"))
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

// dropLoops detaches the loop devices that the host's records name: they are the kernel's, and
// outlive the host.
func (h *Host) dropLoops() error {
	records, err := filepath.Glob(h.path("state/instances/*/record.json"))
	var all []byte
	for _, record := range records {
		data, e := os.ReadFile(record)
		all, err = append(all, data...), errors.Join(err, e)
	}
	loops, e := loopsOn(h.c.dir)
	for number := range loops {
		if !bytes.Contains(all, []byte(`"`+node(number)+`"`)) {
			delete(loops, number)
		}
	}
	return errors.Join(err, e, detach(loops))
}

// detachLoops detaches the loop devices on files below a directory of this machine: they
// outlive the host that attached them.
func detachLoops(dir string) error {
	loops, err := loopsOn(dir)
	return errors.Join(err, detach(loops))
}

func detach(loops map[string]bool) (err error) {
	for number := range loops {
		if f, e := os.Open(node(number)); e == nil {
			err = errors.Join(err, wrap("detaching "+node(number), unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)))
			f.Close()
		}
	}
	return err
}

// node is the path of a loop device.
func node(number string) string { return "/dev/loop" + strings.TrimPrefix(number, "7:") }

// loopsOn are the loop devices on files below a directory, by their numbers, as "7:0".
func loopsOn(dir string) (map[string]bool, error) {
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
	loops := map[string]bool{}
	for _, sys := range nodes {
		node := filepath.Base(filepath.Dir(sys))
		if f, e := os.Open("/dev/" + node); e == nil {
			if info, e := unix.IoctlLoopGetStatus64(int(f.Fd())); e == nil && below[file{info.Device, info.Inode}] {
				loops["7:"+strings.TrimPrefix(node, "loop")] = true
			}
			f.Close()
		}
	}
	return loops, err
}

// wrap says what failed; one that is gone meanwhile is done.
func wrap(what string, err error) error {
	if err == nil || errors.Is(err, unix.ENXIO) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// shutdown is EXT4_IOC_SHUTDOWN, and XFS_IOC_GOINGDOWN too: with 2 nothing more is written to
// the filesystem's device, as of a machine without power.
const shutdown = 0x8004587d

// loseWrites stops all that runs on the host, and gives up the filesystems that its processes
// have mounted from volumes: the kernel, which all hosts share, would else write what a host
// that dies has in its memory alone.
func (h *Host) loseWrites() error {
	loops, err := loopsOn(h.c.dir)
	if err != nil || len(loops) == 0 {
		return err
	}
	if err := h.freeze("FROZEN"); err != nil {
		return err
	}
	pids, err := h.processes()
	for _, pid := range pids {
		mounts, e := os.ReadFile("/proc/" + pid + "/mountinfo")
		if e != nil {
			continue // a zombie
		}
		for line := range strings.Lines(string(mounts)) {
			// 36 35 7:1 / /mnt …; no path of ours has what is escaped there.
			if words := strings.Fields(line); len(words) > 4 && loops[words[2]] {
				delete(loops, words[2])
				err = errors.Join(err, giveUp("/proc/"+pid+"/root"+words[4]))
			}
		}
	}
	return err
}

func giveUp(mountpoint string) error {
	f, err := os.Open(mountpoint)
	if err != nil {
		return err
	}
	defer f.Close()
	return wrap("giving up "+mountpoint, unix.IoctlSetPointerInt(int(f.Fd()), shutdown, 2))
}

// freezer is the host's group in the hierarchy that stops processes.
func (h *Host) freezer() (string, error) {
	groups, err := os.ReadFile(h.path("groups"))
	for dir := range strings.Lines(string(groups)) {
		if dir = strings.TrimSpace(dir); strings.Contains(dir, "/freezer/") {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%s is in no group of the freezer: %w", h.Name, err)
}

// freeze waits until the host is FROZEN or THAWED.
func (h *Host) freeze(state string) error {
	dir, err := h.freezer()
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "freezer.state")
	if err := os.WriteFile(file, []byte(state), 0); err != nil {
		return err
	}
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if now, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(now)) == state {
			return err
		}
	}
	return fmt.Errorf("%s is not %s after %v", h.Name, state, limit)
}

// processes are all that run on the host, also in its containers, by their numbers here.
func (h *Host) processes() (pids []string, err error) {
	dir, err := h.freezer()
	if err != nil {
		return nil, err
	}
	return pids, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			var list []byte
			list, err = os.ReadFile(filepath.Join(path, "cgroup.procs"))
			pids = append(pids, strings.Fields(string(list))...)
		}
		return err
	})
}
