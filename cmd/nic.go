package cmd

import (
	"context"
	"fmt"

	"github.com/lxcboot/lxcboot/pkg/doctor"
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
			n, mend := a.defaultNetwork(ctx, d)
			if !n.Active {
				a.warn("it gets no network, because libvirt's %q is not active: %s; --nic none says that none is wanted", defaultNetwork, mend)
				return nil, nil
			}
			return []lxc.Interface{{Network: defaultNetwork}}, nil
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

// defaultNetwork is the network of libvirt's that a container gets when nobody says which.
const defaultNetwork = "default"

// defaultNetwork looks at that network; mend is how to start it, with the host and now.
func (a *App) defaultNetwork(ctx context.Context, d *lxc.Host) (n lxc.Network, mend string) {
	virsh := "virsh -c " + a.settings.Connect
	n, err := d.Network(ctx, defaultNetwork)
	switch {
	case err != nil:
		mend = virsh + " net-define /usr/share/libvirt/networks/default.xml makes it, and " + virsh + " net-start default starts it"
	case !n.Active:
		mend = virsh + " net-start default starts it"
	case !n.Autostart:
		mend = virsh + " net-autostart default"
	}
	return n, mend
}

// checkNetwork looks whether a container has a network when nobody says which.
func (a *App) checkNetwork(ctx context.Context) (string, error) {
	d, err := a.openDomains(ctx)
	if err != nil {
		return "", &doctor.Problem{Status: doctor.Warning, Detail: "libvirt's networks cannot be seen", Mend: "see libvirt"}
	}
	n, mend := a.defaultNetwork(ctx, d)
	detail := fmt.Sprintf("libvirt's %q is active, on %s", defaultNetwork, n.Bridge)
	switch {
	case !n.Active:
		detail = fmt.Sprintf("libvirt's %q is not active: a container has a network with --nic bridge= or net-name= alone", defaultNetwork)
	case mend != "":
		detail += ", and does not start with the host"
	default:
		return detail, nil
	}
	return "", &doctor.Problem{Status: doctor.Warning, Detail: detail, Mend: mend}
}
