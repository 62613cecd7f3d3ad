//go:build stockvm

package connector

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// multipathd runs the daemon for a test.
func multipathd(t *testing.T) {
	t.Helper()
	run(t, "systemctl", "start", "multipathd")
	t.Cleanup(func() { run(t, "systemctl", "stop", "multipathd.socket", "multipathd.service") })
}

func nothingOfMultipath(t *testing.T) {
	t.Helper()
	if out := run(t, "dmsetup", "ls"); strings.Contains(out, "mpath") {
		t.Errorf("left: %s", out)
	}
	if b, err := os.ReadFile("/etc/multipath/wwids"); err == nil && strings.Contains(string(b), "\n/") {
		t.Errorf("ids are left: %s", b)
	}
}

// Two portals lead to one disk: one device is made of them, which goes on when one of them
// dies, and is taken apart in the end.
func TestRealMultipath(t *testing.T) {
	port := lio(t)
	data := iscsiData(realPassword, 1, "127.0.0.1:"+port, "[::1]:"+port)
	multipathd(t)
	h := newHost(t, Kernel)
	if p, err := h.Properties(t.Context()); err != nil || p["multipath"] != true {
		t.Errorf("the storage service is not told: %v, %v", p["multipath"], err)
	}
	req := request("m-1", "iscsi", data)
	wholeWay(t, h, req, byMount)
	nothingOfMultipath(t)
	nothingOfISCSI(t)

	dev := connect(t, h, req)
	if paths, _ := filepath.Glob("/sys/block/" + filepath.Base(dev.Path) + "/slaves/*"); len(paths) != 2 {
		t.Errorf("%s has the paths %v", dev.Path, paths)
	}
	run(t, "sgdisk", "--new=1:0:0", dev.Path)
	run(t, "kpartx", "-a", dev.Path)
	run(t, "udevadm", "settle")
	disconnect(t, h, dev) // a partition that the host made a device of does not hold it
	nothingOfMultipath(t)
	nothingOfISCSI(t)
}

func TestRealMultipathPathDies(t *testing.T) {
	port := lio(t)
	multipathd(t)
	h := newHost(t, Kernel)
	dev := connect(t, h, request("m-2", "iscsi", iscsiData(realPassword, 1, "127.0.0.1:"+port, "[::1]:"+port)))
	dead := []string{"iptables", "-w", "-I", "INPUT", "-p", "tcp", "--dport", port, "-j", "DROP"}
	run(t, dead...)
	alive := func() { dead[2] = "-D"; exec.Command(dead[0], dead[1:]...).Run() }
	t.Cleanup(alive)
	useVolume(t, dev.Path)
	var busy *BusyError
	_, letGo := byMount(t, dev.Path)
	if err := h.Disconnect(t.Context(), dev); !errors.As(err, &busy) || !errors.Is(err, volume.ErrInUse) {
		t.Errorf("got %v", err)
	}
	letGo()
	disconnect(t, h, dev) // one path is enough to let go by
	alive()
	nothingOfMultipath(t)
	nothingOfISCSI(t)

	// All paths die: what was written is not lost.
	dev = connect(t, h, request("m-3", "iscsi", iscsiData(realPassword, 1, "127.0.0.1:"+port, "[::1]:"+port)))
	dies(t, h, dev, func() { block(t, port) }, func() { unblock(t, port) })
	nothingOfMultipath(t)
	nothingOfISCSI(t)
}

// Without the daemon it is one path, as without it being installed.
func TestRealNoMultipath(t *testing.T) {
	port := lio(t)
	h := newHost(t, Kernel)
	dev := connect(t, h, request("m-4", "iscsi", iscsiData(realPassword, 1, "127.0.0.1:"+port, "[::1]:"+port)))
	if all, _ := filepath.Glob("/sys/class/iscsi_session/*"); len(all) != 1 || !strings.HasPrefix(dev.Path, "/dev/sd") {
		t.Errorf("%s by %v", dev.Path, all)
	}
	disconnect(t, h, dev)
	nothingOfISCSI(t)
}
