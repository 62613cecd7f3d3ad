package lxc

import (
	"context"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// AttachDisk gives a running container a block device, until it ends. The domain's
// definition stays as it is.
func (h *Host) AttachDisk(ctx context.Context, id string, d Disk) error {
	disk := d.device()
	text, err := disk.Marshal()
	if err != nil {
		return err
	}
	return h.changeDomain(ctx, id, func(dom *libvirt.Domain) error {
		return dom.AttachDeviceFlags(text, libvirt.DOMAIN_DEVICE_MODIFY_LIVE)
	})
}

// DetachDisk takes a block device from a running container. One that the container
// does not have is done.
func (h *Host) DetachDisk(ctx context.Context, id string, d Disk) error {
	return h.changeDomain(ctx, id, func(dom *libvirt.Domain) error {
		text, err := dom.GetXMLDesc(0)
		if err != nil {
			return err
		}
		var now libvirtxml.Domain
		if err := now.Unmarshal(text); err != nil {
			return err
		}
		for _, disk := range now.Devices.Disks {
			if disk.Target == nil || disk.Target.Dev != strings.TrimPrefix(d.Target, "/dev/") {
				continue
			}
			device, err := disk.Marshal()
			if err != nil {
				return err
			}
			return dom.DetachDeviceFlags(device, libvirt.DOMAIN_DEVICE_MODIFY_LIVE)
		}
		return nil
	})
}

// ParseDomain reads what a hook needs of the XML that libvirt gives it: the
// container's id, and its controller; 0 before it has been started.
func ParseDomain(text string) (id string, controller int, err error) {
	var d libvirtxml.Domain
	if err := d.Unmarshal(text); err != nil {
		return "", 0, err
	}
	if d.ID != nil {
		controller = *d.ID
	}
	return d.UUID, controller, nil
}
