package cmd

import (
	"context"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/lxc"
)

// interfaces reads --nic. Without one it is auto: libvirt's default network where
// that is active, and none otherwise.
func (a *App) interfaces(ctx context.Context, nics []string, count int) ([]lxc.Interface, error) {
	if len(nics) == 0 {
		nics = []string{"auto"}
	}
	var all []lxc.Interface
	for _, text := range nics {
		if text == "none" || text == "auto" {
			if len(nics) > 1 {
				return nil, failure.Invalid("--nic %s cannot be combined with other --nic", text)
			}
			if text == "none" || needRoot() != nil {
				return nil, nil
			}
			d, err := a.openDomains(ctx)
			if err != nil {
				return nil, err
			}
			if n, err := d.Network(ctx, "default"); err == nil && n.Active {
				return []lxc.Interface{{Network: "default"}}, nil
			}
			return nil, nil
		}
		nic, err := lxc.ParseInterface(text)
		if err != nil {
			return nil, err
		}
		if nic.Network != "" {
			d, err := a.openDomains(ctx)
			if err != nil {
				return nil, err
			}
			n, err := d.Network(ctx, nic.Network)
			if err != nil {
				return nil, err
			}
			if !n.Active {
				return nil, failure.Invalid("--nic %q: libvirt's network %q is not active (virsh net-start %[2]s)", text, n.Name)
			}
			nic.Network = n.Name
		}
		all = append(all, nic)
	}
	return all, lxc.CheckInterfaces(all, count)
}
