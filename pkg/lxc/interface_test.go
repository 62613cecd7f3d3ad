package lxc

import (
	"os/exec"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/vishvananda/netlink"
)

// TestSetHardwareAddresses changes the address of an interface as udev does, after it was
// set and before the container's init runs.
func TestSetHardwareAddresses(t *testing.T) {
	init := exec.Command("sleep", "60")
	init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	must(t, init.Start())
	t.Cleanup(func() { init.Process.Kill(); init.Wait() })

	id := uuid.NewString()
	pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth7", PeerNamespace: netlink.NsPid(init.Process.Pid)}
	pair.Name = hostInterface(id, 1)
	must(t, netlink.LinkAdd(pair))
	t.Cleanup(func() { must(t, removeInterfaces(id)) })
	outer, err := netlink.LinkByName(pair.Name)
	must(t, err)
	inside, err := openNetlink(init.Process.Pid)
	must(t, err)
	defer inside.Close()

	// The first was asked for and is not there.
	asked := []Interface{{Network: "default", MAC: "52:54:00:00:00:01"}, {Network: "default", MAC: "52:54:00:00:00:02"}}
	for range 2 {
		must(t, SetHardwareAddresses(id, init.Process.Pid, asked))
		inner, err := inside.LinkByName("eth7")
		must(t, err)
		if got := inner.Attrs().HardwareAddr.String(); got != asked[1].MAC {
			t.Errorf("it has %s", got)
		}
	}
	now, err := netlink.LinkByName(pair.Name)
	must(t, err)
	if now.Attrs().HardwareAddr.String() != outer.Attrs().HardwareAddr.String() {
		t.Errorf("its end on the host had %s and has %s", outer.Attrs().HardwareAddr, now.Attrs().HardwareAddr)
	}
	must(t, init.Process.Kill())
	init.Wait()
	must(t, SetHardwareAddresses(id, init.Process.Pid, asked)) // it has ended
}
