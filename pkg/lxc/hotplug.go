package lxc

import (
	"context"
	"errors"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// definitions are the two that libvirt has of a container: what runs, and what is kept
// for its next start.
var definitions = []struct {
	has    func(*libvirt.Domain) (bool, error)
	read   libvirt.DomainXMLFlags
	change libvirt.DomainDeviceModifyFlags
}{
	{(*libvirt.Domain).IsActive, 0, libvirt.DOMAIN_DEVICE_MODIFY_LIVE},
	{(*libvirt.Domain).IsPersistent, libvirt.DOMAIN_XML_INACTIVE, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG},
}

// AttachDisk gives a container a block device: at once if it runs, and at its next start.
// Where it has the device already, nothing is changed. A source that leads nowhere is
// refused while the container runs.
func (h *Host) AttachDisk(ctx context.Context, id string, d Disk) error {
	disk := d.device()
	text, err := disk.Marshal()
	if err != nil {
		return err
	}
	return h.changeDisks(ctx, id, d, func(dom *libvirt.Domain, has *libvirtxml.DomainDisk, flags libvirt.DomainDeviceModifyFlags) error {
		if has != nil && source(*has) == d.Source {
			return nil
		}
		return dom.AttachDeviceFlags(text, flags)
	})
}

// DetachDisk takes a block device from a container, where it has it. The device's source
// must still lead to it: libvirt takes the permission to use that away.
func (h *Host) DetachDisk(ctx context.Context, id string, d Disk) error {
	return h.changeDisks(ctx, id, d, func(dom *libvirt.Domain, has *libvirtxml.DomainDisk, flags libvirt.DomainDeviceModifyFlags) error {
		if has == nil {
			return nil
		}
		text, err := has.Marshal()
		if err != nil {
			return err
		}
		return dom.DetachDeviceFlags(text, flags)
	})
}

// changeDisks runs f for each definition of a container, with what that has at the disk's
// target.
func (h *Host) changeDisks(ctx context.Context, id string, d Disk, f func(*libvirt.Domain, *libvirtxml.DomainDisk, libvirt.DomainDeviceModifyFlags) error) error {
	limited, cancel := context.WithTimeout(ctx, execLimit)
	defer cancel()
	for {
		err := h.changeDefinitions(ctx, id, d, f)
		if !errors.Is(err, ErrInitUnknown) || wait.For(limited, poll) != nil {
			return err
		}
	}
}

// initUnknown tells libvirt's errors of a container whose init it does not know: the
// controller names it a moment after the start, and until then libvirt has none, or the one
// of the life before. What the controller says while libvirt is still opening the
// connection to it is lost, and is not said again in that life.
func initUnknown(err error) error {
	var lv libvirt.Error
	if errors.As(err, &lv) && (lv.Code == libvirt.ERR_OPERATION_INVALID && strings.Contains(lv.Message, "init PID") ||
		lv.Code == libvirt.ERR_SYSTEM_ERROR && strings.Contains(lv.Message, "mount namespace")) {
		return failure.Of(ErrInitUnknown, "libvirt did not hear of the container's init when it started (%s)", cause(lv.Message))
	}
	return err
}

func (h *Host) changeDefinitions(ctx context.Context, id string, d Disk, f func(*libvirt.Domain, *libvirtxml.DomainDisk, libvirt.DomainDeviceModifyFlags) error) error {
	return h.changeDomain(ctx, id, func(dom *libvirt.Domain) error {
		for _, def := range definitions {
			if there, err := def.has(dom); err != nil {
				return err
			} else if !there {
				continue
			}
			text, err := dom.GetXMLDesc(def.read)
			if err != nil {
				return err
			}
			var now libvirtxml.Domain
			if err := now.Unmarshal(text); err != nil {
				return err
			}
			var has *libvirtxml.DomainDisk
			for i, disk := range now.Devices.Disks {
				if disk.Target != nil && disk.Target.Dev == deviceTarget(d.Target) {
					has = &now.Devices.Disks[i]
				}
			}
			if err := f(dom, has, def.change); err != nil {
				return initUnknown(err)
			}
		}
		return nil
	})
}

// deviceTarget is a disk's target as libvirt writes it.
func deviceTarget(name string) string { return strings.TrimPrefix(name, "/dev/") }

// source is the path of a disk's source; empty: it is not a path.
func source(disk libvirtxml.DomainDisk) string {
	switch {
	case disk.Source == nil:
		return ""
	case disk.Source.Block != nil:
		return disk.Source.Block.Dev
	case disk.Source.File != nil:
		return disk.Source.File.File
	}
	return ""
}

// Domain is what libvirt's definition of a container says of paths on this host.
type Domain struct {
	ID, Name    string
	Controller  int          // pid; 0: it is not running
	Init        string       // path in the container
	IDMap       *IDMap       // nil: none
	Disks       []Disk       // as AttachDisk takes them
	Filesystems []Filesystem // the root, at /, is one of them
}

// ParseDomain reads the XML that libvirt has of a container, as it gives it to a hook.
// A source that is not a path (a directory's, a block device's) is empty.
func ParseDomain(text string) (Domain, error) {
	var d libvirtxml.Domain
	if err := d.Unmarshal(text); err != nil {
		return Domain{}, err
	}
	out := Domain{ID: d.UUID, Name: d.Name}
	if d.ID != nil {
		out.Controller = *d.ID
	}
	if d.OS != nil {
		out.Init = d.OS.Init
	}
	if d.IDMap != nil && len(d.IDMap.UIDs) > 0 {
		out.IDMap = &IDMap{HostID: uint32(d.IDMap.UIDs[0].Target), Count: uint32(d.IDMap.UIDs[0].Count)}
	}
	if d.Devices == nil {
		return out, nil
	}
	for _, k := range d.Devices.Disks {
		disk := Disk{Source: source(k), ReadOnly: k.ReadOnly != nil}
		if k.Target != nil {
			disk.Target = k.Target.Dev
		}
		out.Disks = append(out.Disks, disk)
	}
	for _, f := range d.Devices.Filesystems {
		fs := Filesystem{ReadOnly: f.ReadOnly != nil}
		if f.Source != nil && f.Source.Mount != nil {
			fs.Source = f.Source.Mount.Dir
		}
		if f.Target != nil {
			fs.Target = f.Target.Dir
		}
		out.Filesystems = append(out.Filesystems, fs)
	}
	return out, nil
}
