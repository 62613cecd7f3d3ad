package lxc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
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
