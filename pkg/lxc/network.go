package lxc

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirt"
)

// Network is a network of libvirt's.
type Network struct {
	ID, Name  string
	Bridge    string // empty: it has none of libvirt's
	Active    bool
	Autostart bool
}

// Network looks up a network by name or id; one that is not there is ErrInvalid.
func (h *Host) Network(ctx context.Context, ref string) (Network, error) {
	return ask(ctx, h, fmt.Sprintf("network %q", ref), func(conn *libvirt.Connect) (n Network, err error) {
		net, err := conn.LookupNetworkByName(ref)
		if err != nil {
			if net, err = conn.LookupNetworkByUUIDString(ref); err != nil {
				return n, fmt.Errorf("%w: libvirt has no network %q (see: virsh net-list --all)", ErrInvalid, ref)
			}
		}
		defer net.Free()
		if n.Name, err = net.GetName(); err != nil {
			return n, err
		}
		if n.ID, err = net.GetUUIDString(); err != nil {
			return n, err
		}
		if n.Autostart, err = net.GetAutostart(); err != nil {
			return n, err
		}
		n.Bridge, _ = net.GetBridgeName() // not every kind has one
		n.Active, err = net.IsActive()
		return n, err
	})
}
