//go:build stockvm

// These tests take the kernel's own drivers, and run on a host that has them: test/stockvm
// builds them and runs them there.
package connector

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

const realIQN = "iqn.2026-01.org.example:volume-1"

// tgt serves a disk by iSCSI with a login, at a port of this host's.
func tgt(t *testing.T) (port string) {
	t.Helper()
	port = freePort(t)
	disk := sparse(t, filepath.Join(t.TempDir(), "disk"), 64*MiB)
	background(t, "tgtd", "-f", "--iscsi", "portal=127.0.0.1:"+port)
	waitPort(t, "127.0.0.1:"+port)
	for _, words := range []string{
		"--op new --mode target --tid 1 -T " + realIQN,
		"--op new --mode logicalunit --tid 1 --lun 1 -b " + disk,
		"--op bind --mode target --tid 1 -I ALL",
		"--op new --mode account --user name --password the-password",
		"--op bind --mode account --tid 1 --user name",
	} {
		run(t, append([]string{"tgtadm", "--lld", "iscsi"}, strings.Fields(words)...)...)
	}
	return port
}

func iscsiData(password string, portals ...string) map[string]any {
	data := map[string]any{"auth_method": "CHAP", "auth_username": "name", "auth_password": password}
	var iqns, luns, all []any
	for _, p := range portals {
		all, iqns, luns = append(all, p), append(iqns, realIQN), append(luns, 1)
	}
	data["target_portals"], data["target_iqns"], data["target_luns"] = all, iqns, luns
	return data
}

// nothingOfISCSI sees that neither a session nor a login is left.
func nothingOfISCSI(t *testing.T) {
	t.Helper()
	if left, _ := filepath.Glob("/sys/class/iscsi_session/*"); len(left) > 0 {
		t.Errorf("sessions: %v", left)
	}
	out, _ := exec.Command("grep", "-rl", "the-password", "/etc/iscsi", "/var/lib/iscsi").Output()
	if len(out) > 0 {
		t.Errorf("the login is left in %s", out)
	}
}

// busyOf uses a device in each way that a host does, and sees that it is not let go then,
// and is afterwards as it was.
func busyOf(t *testing.T, h *Host, dev Device) {
	t.Helper()
	run(t, "mkfs.ext4", "-q", dev.Path)
	at := t.TempDir()
	for what, use := range map[string][2][]string{
		"a mount":       {{"mount", dev.Path, at}, {"umount", at}},
		"a loop device": {{"losetup", "/dev/loop63", dev.Path}, {"losetup", "-d", "/dev/loop63"}},
	} {
		run(t, use[0]...)
		if err := h.Disconnect(t.Context(), dev); !errors.Is(err, volume.ErrInUse) {
			t.Errorf("under %s: %v", what, err)
		}
		run(t, use[1]...)
	}
	run(t, "mount", dev.Path, at)
	if err := os.WriteFile(at+"/x", []byte("words"), 0o600); err != nil {
		t.Error(err)
	}
	run(t, "umount", at)
}

func TestRealISCSI(t *testing.T) {
	port := tgt(t)
	h := newHost(t, Kernel)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	good := "127.0.0.1:" + port
	for name, portals := range map[string][]string{"one": {good}, "first silent": {silent.Addr().String(), good}, "first refuses": {"127.0.0.1:9", good}} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			req := request("k-"+strings.Fields(name)[0], "iscsi", iscsiData("the-password", portals...))
			dev := connect(t, h, req)
			t.Logf("connected after %v", time.Since(began))
			if name == "one" {
				busyOf(t, h, dev)
			}
			if err := h.Disconnect(t.Context(), dev); err != nil {
				t.Error(err)
			}
			nothingOfISCSI(t)
		})
	}
	for name, data := range map[string]map[string]any{
		"wrong password": iscsiData("not the-password", good),
		"dead":           iscsiData("the-password", silent.Addr().String()),
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			req := request("f-"+strings.Fields(name)[0], "iscsi", data)
			dev, err := h.Prepare(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if dev, err := h.Connect(t.Context(), req, dev); err == nil || strings.Contains(err.Error(), "the-password") {
				t.Errorf("%+v, %v", dev, err)
			}
			t.Logf("refused after %v", time.Since(began))
			nothingOfISCSI(t)
		})
	}
}

// What was written and cannot be brought to a target that is gone ends the wait, and the
// disk stays.
func TestRealISCSITargetDies(t *testing.T) {
	port := tgt(t)
	h := newHost(t, Kernel)
	dev := connect(t, h, request("dies", "iscsi", iscsiData("the-password", "127.0.0.1:"+port)))
	run(t, "pkill", "-STOP", "tgtd")
	defer exec.Command("pkill", "-CONT", "tgtd").Run()
	if err := exec.Command("dd", "if=/dev/urandom", "of="+dev.Path, "bs=64k", "count=16", "status=none").Run(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := h.Disconnect(t.Context(), dev); !errors.Is(err, ErrNotFlushed) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 2*flushLimit {
		t.Errorf("it took %v", took)
	}
	run(t, "pkill", "-CONT", "tgtd")
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Error(err)
	}
	nothingOfISCSI(t)
}

const realNQN = "nqn.2026-01.org.example:volume-1"

func nvmet(t *testing.T) (port string) {
	t.Helper()
	port = freePort(t)
	disk := losetup(t, sparse(t, filepath.Join(t.TempDir(), "disk"), 64*MiB))
	run(t, "modprobe", "-a", "nvmet", "nvmet-tcp", "nvme-tcp")
	run(t, "sh", "-ec", fmt.Sprintf(`cd /sys/kernel/config/nvmet
mkdir subsystems/%[1]s subsystems/%[1]s/namespaces/1 ports/1
echo 1 >subsystems/%[1]s/attr_allow_any_host
echo %[2]s >subsystems/%[1]s/namespaces/1/device_path
echo 81f0b6a4-5b0c-4b3e-8f7c-3a1d2e4f5a6b >subsystems/%[1]s/namespaces/1/device_uuid
echo 1 >subsystems/%[1]s/namespaces/1/enable
cd ports/1
echo tcp >addr_trtype; echo ipv4 >addr_adrfam; echo 127.0.0.1 >addr_traddr; echo %[3]s >addr_trsvcid
ln -s /sys/kernel/config/nvmet/subsystems/%[1]s subsystems/`, realNQN, disk, port))
	t.Cleanup(func() {
		run(t, "sh", "-ec", fmt.Sprintf(`cd /sys/kernel/config/nvmet
rm ports/1/subsystems/%[1]s
rmdir ports/1 subsystems/%[1]s/namespaces/1 subsystems/%[1]s`, realNQN))
	})
	return port
}

func TestRealNVMe(t *testing.T) {
	port := nvmet(t)
	h := newHost(t, Kernel)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, silentPort, _ := net.SplitHostPort(silent.Addr().String())
	for name, ports := range map[string][]string{"one": {port}, "first refuses": {"9", port}, "first silent": {silentPort, port}} {
		t.Run(name, func(t *testing.T) {
			var portals []any
			for _, p := range ports {
				portals = append(portals, []any{"127.0.0.1", p, "tcp"})
			}
			began := time.Now()
			dev := connect(t, h, request("n-"+ports[0], "nvmeof", map[string]any{
				"target_nqn": realNQN, "vol_uuid": "81f0b6a4-5b0c-4b3e-8f7c-3a1d2e4f5a6b", "portals": portals}))
			t.Logf("connected after %v", time.Since(began))
			if name == "one" {
				busyOf(t, h, dev)
			}
			if err := h.Disconnect(t.Context(), dev); err != nil {
				t.Error(err)
			}
			if left, _ := filepath.Glob("/sys/class/nvme/*"); len(left) > 0 {
				t.Errorf("controllers: %v", left)
			}
		})
	}
}
