package connector

import (
	"context"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// userspaceDriver serves a volume by a qemu-storage-daemon, whose block drivers
// speak the storage protocol without the kernel's help.
type userspaceDriver struct {
	h     *Host
	nodes func(h *Host, conn volume.Connection, readOnly bool) (stack, error) // changes nothing
}

// userspaceState is saved of such a device.
type userspaceState struct {
	Attachment string `json:"attachment"`
	PID        int    `json:"pid,omitempty"` // for people; the daemon is known by its arguments
}

func (u userspaceDriver) prepare(_ context.Context, req Request, dev Device) (Device, error) {
	if _, err := u.nodes(u.h, req.Connection, dev.ReadOnly); err != nil {
		return Device{}, err
	}
	dev.Path = u.h.daemon(req.AttachmentID).path()
	return encode(dev, userspaceState{Attachment: req.AttachmentID})
}

func (u userspaceDriver) connect(ctx context.Context, req Request, dev Device) (Device, error) {
	s, err := u.nodes(u.h, req.Connection, dev.ReadOnly)
	if err != nil {
		return Device{}, err
	}
	d := u.h.daemon(req.AttachmentID)
	pid, err := d.serve(ctx, s, dev.ReadOnly)
	if err != nil {
		return Device{}, err
	}
	dev.Path = d.path()
	return encode(dev, userspaceState{Attachment: req.AttachmentID, PID: pid})
}

func (u userspaceDriver) disconnect(ctx context.Context, dev Device) error {
	var st userspaceState
	if err := decode(dev, &st); err != nil {
		return err
	}
	return u.h.daemon(st.Attachment).stop(ctx)
}

// protocolNode completes the options of the lowest block node: raw content, and
// nothing of it in a cache that a flush does not reach.
func protocolNode(readOnly bool, n args) args {
	n["node-name"] = "storage"
	n["read-only"] = readOnly
	n["auto-read-only"] = false
	n["discard"] = "unmap"
	return n
}
