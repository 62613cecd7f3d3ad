package lxc

import (
	"net"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// cards are of a container of an id, whose init is nothing but a process: the first is not
// there, and the second is eth7 inside.
func cards(t *testing.T) (id string, init *exec.Cmd, outer netlink.Link, inside *netlink.Handle) {
	t.Helper()
	init = exec.Command("sleep", "600")
	init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	must(t, init.Start())
	t.Cleanup(func() { init.Process.Kill(); init.Wait() })

	id = uuid.NewString()
	pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth7", PeerNamespace: netlink.NsPid(init.Process.Pid)}
	pair.Name = hostInterface(id, 1)
	must(t, netlink.LinkAdd(pair))
	t.Cleanup(func() { must(t, removeInterfaces(id)) })
	outer, err := netlink.LinkByName(pair.Name)
	must(t, err)
	inside, err = openNetlink(init.Process.Pid)
	must(t, err)
	t.Cleanup(inside.Close)
	return id, init, outer, inside
}

// TestLiveInterfaces: what is told of a card is what the container has now, and not what
// was asked for; addresses that nobody can use are left out.
func TestLiveInterfaces(t *testing.T) {
	id, init, outer, inside := cards(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name = "lxut" + id[:8]
	must(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { must(t, netlink.LinkDel(bridge)) })
	must(t, netlink.LinkSetMaster(outer, bridge))
	inner, err := inside.LinkByName("eth7")
	must(t, err)
	for _, a := range []netlink.Addr{
		{IPNet: cidr(t, "192.0.2.7/24")},
		{IPNet: cidr(t, "169.254.7.7/16"), Scope: unix.RT_SCOPE_LINK},
		{IPNet: cidr(t, "2001:db8::7/64"), Flags: unix.IFA_F_NODAD},
		{IPNet: cidr(t, "2001:db8::8/64")}, // until the link is up nobody knows whether another has it
		{IPNet: cidr(t, "fe80::7/64"), Flags: unix.IFA_F_NODAD},
	} {
		must(t, inside.AddrAdd(inner, &a))
	}
	must(t, inside.LinkSetName(inner, "lan"))

	asked := []Interface{{Network: "gone", Addresses: []string{"192.0.2.1/24"}}, {Network: "default", MAC: "52:54:00:00:00:02", Addresses: []string{"192.0.2.99/24"}}}
	got, err := LiveInterfaces(id, init.Process.Pid, asked)
	want := slices.Clone(asked)
	want[1].Name, want[1].Bridge, want[1].Addresses = "lan", bridge.Name, []string{"192.0.2.7/24", "2001:db8::7/64"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v\nnot %+v", got, err, want)
	}
	if asked[1].Name != "" {
		t.Errorf("what was asked for has become %+v", asked)
	}

	must(t, init.Process.Kill())
	init.Wait()
	if got, err := LiveInterfaces(id, init.Process.Pid, asked); err != nil || !reflect.DeepEqual(got, asked) {
		t.Errorf("after its end: %+v, %v", got, err)
	}
}

// TestPairOfAnother: an interface of the container's with the number of one that is
// elsewhere is another, and left alone.
func TestPairOfAnother(t *testing.T) {
	id, init, outer, inside := cards(t)
	inner, err := inside.LinkByName("eth7")
	must(t, err)
	must(t, inside.LinkSetNsPid(inner, os.Getpid()))
	outer, err = netlink.LinkByIndex(outer.Attrs().Index)
	must(t, err)
	other := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	other.Name, other.Index, other.HardwareAddr = "other", outer.Attrs().ParentIndex, net.HardwareAddr{0x52, 0x54, 0, 0, 0, 9}
	must(t, inside.LinkAdd(other))
	asked := []Interface{{}, {MAC: "52:54:00:00:00:02"}}
	must(t, SetHardwareAddresses(id, init.Process.Pid, asked))
	now, err := inside.LinkByName("other")
	must(t, err)
	if now.Attrs().HardwareAddr.String() != other.HardwareAddr.String() {
		t.Errorf("another interface has become %s", now.Attrs().HardwareAddr)
	}
	if got, err := LiveInterfaces(id, init.Process.Pid, asked); err != nil || !reflect.DeepEqual(got, asked) {
		t.Errorf("%+v, %v", got, err)
	}
}

func cidr(t *testing.T, text string) *net.IPNet {
	t.Helper()
	a, err := netlink.ParseIPNet(text)
	must(t, err)
	return a
}

// TestSetHardwareAddresses changes the address of an interface as udev does, after it was
// set and before the container's init runs.
func TestSetHardwareAddresses(t *testing.T) {
	id, init, outer, inside := cards(t)
	asked := []Interface{{Network: "default", MAC: "52:54:00:00:00:01"}, {Network: "default", MAC: "52:54:00:00:00:02"}}
	for range 2 {
		must(t, SetHardwareAddresses(id, init.Process.Pid, asked))
		inner, err := inside.LinkByName("eth7")
		must(t, err)
		if got := inner.Attrs().HardwareAddr.String(); got != asked[1].MAC {
			t.Errorf("it has %s", got)
		}
	}
	now, err := netlink.LinkByIndex(outer.Attrs().Index)
	must(t, err)
	if now.Attrs().HardwareAddr.String() != outer.Attrs().HardwareAddr.String() {
		t.Errorf("its end on the host had %s and has %s", outer.Attrs().HardwareAddr, now.Attrs().HardwareAddr)
	}
	must(t, init.Process.Kill())
	init.Wait()
	must(t, SetHardwareAddresses(id, init.Process.Pid, asked)) // it has ended
}
