package lxc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
)

// pidDir is where libvirtd writes the pid of a container's controller, NAME.pid.
const pidDir = "/run/libvirt/lxc"

// Live is the two processes that make a container run, as the host numbers them.
type Live struct {
	Controller int // libvirt_lxc; 0: the container does not run
	Init       int // the container's first process; 0: there is none yet, or none any more
}

// Look says whether the container of a name lives, by libvirt's pid file and the kernel.
// It never asks libvirtd, which may wait for its hook, and so for whoever looks. A start
// is seen once libvirtd has executed the container's controller, after the hook's
// "prepare".
func Look(name string) (Live, error) {
	controller, err := findController(name)
	if err != nil || controller == 0 {
		return Live{}, err
	}
	live := Live{Controller: controller}
	if p, err := findInit(controller); err == nil {
		live.Init = p.pid
		p.Close()
	}
	return live, nil
}

// findController gives the pid of the controller of a container's name; 0: none.
func findController(name string) (int, error) {
	text, err := os.ReadFile(filepath.Join(pidDir, name+".pid"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("cannot read whether container %q runs: %w", name, err)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && isController(pid, name) {
		return pid, nil
	}
	// A libvirtd in a mount namespace of its own has its pid files elsewhere, but the
	// kernel lists its controllers' sockets.
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return 0, fmt.Errorf("cannot read whether container %q runs: %w", name, err)
	}
	if !bytes.Contains(sockets, []byte("/lxc/"+name+".sock\n")) {
		return 0, nil
	}
	for _, pid := range proc.All() {
		if isController(pid, name) {
			return pid, nil
		}
	}
	return 0, nil
}

// isController says whether a process is alive and libvirt's controller of the container
// of a name.
func isController(pid int, name string) bool {
	if pid <= 1 {
		return false
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || filepath.Base(strings.TrimSuffix(exe, " (deleted)")) != "libvirt_lxc" {
		return false
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(args, []byte("\x00--name\x00"+name+"\x00")) && proc.Alive(pidfd)
}
