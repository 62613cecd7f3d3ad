package lxc

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
)

// hostInterface is the name that the host's end of a container's i-th network
// interface has. It follows from the container's id, so that one that libvirt forgot
// is found again: libvirt (9.0 at least) leaves its pair of interfaces behind when it
// cannot join them to a bridge, or is killed while it starts a container.
func hostInterface(id string, i int) string { return fmt.Sprint(hostInterfaces(id), i) }

// hostInterfaces is what the names of all of a container's interfaces on the host begin
// with. The kernel has 15 bytes for a name.
func hostInterfaces(id string) string {
	return "lx" + strings.ReplaceAll(id, "-", "")[:10] + "-"
}

// removeInterfaces removes the interfaces that the host still has of a container that
// does not run, with their other ends.
func removeInterfaces(id string) error {
	paths, err := filepath.Glob("/sys/class/net/" + hostInterfaces(id) + "*")
	if err != nil {
		return err
	}
	for _, p := range paths {
		name := filepath.Base(p)
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(link)
		}
		// It may go by itself, with the container's network namespace.
		if _, gone := os.Lstat(p); err != nil && !errors.Is(gone, os.ErrNotExist) {
			return fmt.Errorf("the network interface %s of container %s is left: %w", name, id, err)
		}
	}
	return nil
}

// SetHardwareAddresses gives the interfaces of a container of an id the hardware addresses
// that its Config has, if they differ: udev on the host may choose another one between
// libvirt setting it and moving the interface into the container. The init should be held
// meanwhile, so that it sees one address only. A container that has ended, and an
// interface that is not there, are left alone.
func SetHardwareAddresses(id string, init int, interfaces []Interface) error {
	if len(interfaces) == 0 {
		return nil
	}
	inside, err := openNetlink(init)
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look at the network interfaces of container %s: %w", id, err)
	}
	defer inside.Close()
	for i, n := range interfaces {
		if n.MAC == "" {
			continue
		}
		if err := setHardwareAddress(inside, hostInterface(id, i), n.MAC); err != nil {
			return fmt.Errorf("cannot give network interface %d of container %s its hardware address: %w", i, id, err)
		}
	}
	return nil
}

// openNetlink opens a netlink socket in the network namespace of a container's init.
func openNetlink(init int) (*netlink.Handle, error) {
	p, err := openInit(init)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	ns, err := netns.GetFromPid(init)
	if !proc.Alive(p.pidfd) {
		err = ErrNotRunning
	}
	if ns.IsOpen() {
		defer ns.Close()
	}
	if err != nil {
		return nil, err
	}
	return netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
}

// setHardwareAddress sets the address of the other end of an interface of the host's.
func setHardwareAddress(inside *netlink.Handle, host, address string) error {
	want, err := net.ParseMAC(address)
	if err != nil {
		return err
	}
	_, inner, err := pair(inside, host)
	if err != nil || inner == nil || bytes.Equal(inner.Attrs().HardwareAddr, want) {
		return unlessGone(err)
	}
	return inside.LinkSetHardwareAddr(inner, want)
}

// pair is an interface of the host's and its other end, in the container; no error, and
// nil, where that is another's by now. The name of that end is libvirt's choice, or the
// container's; each end knows the index of the other.
func pair(inside *netlink.Handle, host string) (outer, inner netlink.Link, err error) {
	if outer, err = netlink.LinkByName(host); err != nil {
		return nil, nil, err
	}
	if inner, err = inside.LinkByIndex(outer.Attrs().ParentIndex); err != nil || inner.Attrs().ParentIndex != outer.Attrs().Index {
		return outer, nil, err
	}
	return outer, inner, nil
}

// LiveInterfaces gives the interfaces of a container as they are now: each with the bridge
// that it is on, and with the name and the addresses that it has in the container, those
// of the link alone left out. One that is not there any more, and those of a container
// that has ended, are as they were asked for.
func LiveInterfaces(id string, init int, asked []Interface) ([]Interface, error) {
	if len(asked) == 0 {
		return nil, nil
	}
	inside, err := openNetlink(init)
	if errors.Is(err, ErrNotRunning) {
		return asked, nil
	}
	if err != nil {
		return asked, fmt.Errorf("cannot look at the network interfaces of container %s: %w", id, err)
	}
	defer inside.Close()
	all := slices.Clone(asked)
	for i := range all {
		if err := all[i].look(inside, hostInterface(id, i)); unlessGone(err) != nil {
			return all, fmt.Errorf("cannot look at network interface %d of container %s: %w", i, id, err)
		}
	}
	return all, nil
}

// look reads what an interface is now.
func (n *Interface) look(inside *netlink.Handle, host string) error {
	outer, inner, err := pair(inside, host)
	if err != nil || inner == nil {
		return err
	}
	addresses, err := inside.AddrList(inner, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	n.Name, n.Addresses = inner.Attrs().Name, nil
	for _, a := range addresses {
		if a.Scope != unix.RT_SCOPE_LINK && a.Flags&unix.IFA_F_TENTATIVE == 0 {
			n.Addresses = append(n.Addresses, a.IPNet.String())
		}
	}
	if outer.Attrs().MasterIndex != 0 {
		bridge, err := netlink.LinkByIndex(outer.Attrs().MasterIndex)
		if err != nil {
			return err
		}
		n.Bridge = bridge.Attrs().Name
	}
	return nil
}

// unlessGone makes nil of the error that says that an interface is not there.
func unlessGone(err error) error {
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil
	}
	return err
}
