//go:build stockvm

package connector

import (
	"net"
	"testing"
	"time"
)

const (
	realNQN = "nqn.2026-01.org.example:volume-1"
	realNS  = "81f0b6a4-5b0c-4b3e-8f7c-3a1d2e4f5a6" // and the namespace's number
)

// nvmet serves a namespace by the kernel's own target, at a port of this host's.
func nvmet(t *testing.T) (port string) {
	t.Helper()
	port = freePort(t)
	// Of a file its blocks would be as large as the file's filesystem's.
	disk := losetup(t, sparse(t, t.TempDir()+"/disk", 64*MiB))
	run(t, "modprobe", "-a", "nvmet", "nvmet-tcp", "nvme-tcp")
	t.Cleanup(func() {
		shell(t, `cd /sys/kernel/config/nvmet
rm ports/1/subsystems/$1
rmdir ports/1 subsystems/$1/namespaces/1 subsystems/$1`, realNQN)
	})
	shell(t, `cd /sys/kernel/config/nvmet
mkdir subsystems/$1 subsystems/$1/namespaces/1 ports/1
echo 1 >subsystems/$1/attr_allow_any_host
echo "$4" >subsystems/$1/namespaces/1/device_path
echo ${2}1 >subsystems/$1/namespaces/1/device_uuid
echo 1 >subsystems/$1/namespaces/1/enable
cd ports/1
echo tcp >addr_trtype; echo ipv4 >addr_adrfam; echo 127.0.0.1 >addr_traddr; echo $3 >addr_trsvcid
ln -s /sys/kernel/config/nvmet/subsystems/$1 subsystems/`, realNQN, realNS, port, disk)
	return port
}

func nvmeData(number string, ports ...string) map[string]any {
	var portals []any
	for _, p := range ports {
		portals = append(portals, []any{"127.0.0.1", p, "tcp"})
	}
	return map[string]any{"target_nqn": realNQN, "vol_uuid": realNS + number, "portals": portals}
}

func TestRealNVMe(t *testing.T) {
	port := nvmet(t)
	h := newHost(t, Kernel)
	uses := []use{byMount}
	if !testing.Short() {
		uses = []use{byLoop, byMount}
	}
	wholeWay(t, h, request("n-1", "nvmeof", nvmeData("1", port)), uses...)
	noneOf(t, "/sys/class/nvme/*")
}

func TestRealNVMePortals(t *testing.T) {
	port := nvmet(t)
	h := newHost(t, Kernel)
	_, silentPort, _ := net.SplitHostPort(silent(t))
	for name, first := range map[string]string{"refuses": "9", "silent": silentPort} {
		t.Run("first "+name, func(t *testing.T) {
			began := time.Now()
			dev := connect(t, h, request("p-"+name, "nvmeof", nvmeData("1", first, port)))
			t.Logf("connected after %v", time.Since(began))
			disconnect(t, h, dev)
			noneOf(t, "/sys/class/nvme/*")
		})
	}
	for name, data := range map[string]map[string]any{
		"silent":       nvmeData("1", silentPort),
		"refuses":      nvmeData("1", "9"),
		"no-namespace": nvmeData("9", port),
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, h, request("f-"+name, "nvmeof", data), 75*time.Second, "127.0.0.1")
			noneOf(t, "/sys/class/nvme/*")
		})
	}
}

func TestRealNVMeTargetDies(t *testing.T) {
	port := nvmet(t)
	h := newHost(t, Kernel)
	dev := connect(t, h, request("dies", "nvmeof", nvmeData("1", port)))
	dies(t, h, dev, func() { block(t, port) }, func() { unblock(t, port) })
	noneOf(t, "/sys/class/nvme/*")
}
