package connector

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lock"
)

// scsiDisk is a SCSI disk of the kernel. Its address may pass to another disk
// once it is gone, so it is only touched while the world wide id is the same.
type scsiDisk struct {
	HCTL string `json:"hctl"` // host:channel:target:lun
	WWID string `json:"wwid,omitempty"`
	Name string `json:"name"` // sdX
}

// hctl writes a SCSI address.
func hctl(host, channel, target, lun int) string {
	return fmt.Sprintf("%d:%d:%d:%d", host, channel, target, lun)
}

// scsiDiskAt finds the disk with a SCSI address in sysfs; nil when there is none.
func (h *Host) scsiDiskAt(address string) (*scsiDisk, error) {
	dir := filepath.Join("sys/bus/scsi/devices", address)
	entries, err := os.ReadDir(h.fs(dir, "block"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(entries) != 1 {
		return nil, nil
	}
	return &scsiDisk{HCTL: address, WWID: h.firstLine(dir, "wwid"), Name: entries[0].Name()}, nil
}

// scan asks a SCSI host for one LUN; "-" stands for any channel or target. It
// names the LUN always, so that no other volume appears on this host.
func (h *Host) scan(host int, channel, target string, lun int) error {
	path := h.fs("sys/class/scsi_host", "host"+strconv.Itoa(host), "scan")
	if err := writeSysfs(path, fmt.Sprintf("%s %s %d", channel, target, lun)); err != nil {
		return fmt.Errorf("scanning SCSI host %d: %w", host, err)
	}
	return nil
}

// removeDisk flushes a disk and takes it off the kernel. One that is gone, or
// whose address is another disk's by now, is done.
func (h *Host) removeDisk(ctx context.Context, d scsiDisk, readOnly bool) error {
	now, err := h.scsiDiskAt(d.HCTL)
	if err != nil || now == nil || now.WWID != d.WWID {
		return err
	}
	claimed, err := h.claim(ctx, now.Name)
	if err != nil {
		return err
	}
	defer claimed.Close()
	dev := h.fs("dev", now.Name)
	if claimed != nil && !readOnly { // else it is gone, with what was not written
		if err := h.flushApart(ctx, dev); err != nil {
			return fmt.Errorf("%w: %v; bring the storage back and try again", ErrNotFlushed, err)
		}
	}
	fault.Point("connector/scsi/flushed")
	path := h.fs("sys/bus/scsi/devices", d.HCTL, "delete")
	if err := writeSysfs(path, "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", dev, err)
	}
	return poll(ctx, "the kernel to remove "+dev, func() (bool, error) {
		left, err := h.scsiDiskAt(d.HCTL)
		return left == nil || left.WWID != d.WWID, err
	})
}

// writeSysfs writes an attribute that must exist: none is ever made.
func writeSysfs(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// exclusive runs f as the only lxcboot on this host that changes what is kept
// under name: sessions and subsystems are shared by attachments.
func (h *Host) exclusive(ctx context.Context, name string, f func() error) error {
	dir := filepath.Join(h.stateDir(), "attachments")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	held, err := lock.File(ctx, filepath.Join(dir, "."+name+".lock"), os.O_CREATE)
	if err != nil {
		return err
	}
	defer held.Close()
	return f()
}

// glob lists paths of this host, below Options.Root and without it, sorted.
func (h *Host) glob(pattern string) []string {
	found, _ := filepath.Glob(h.fs(pattern))
	for i, p := range found {
		found[i], _ = filepath.Rel(h.o.Root, p)
	}
	slices.Sort(found)
	return found
}

// deviceLimit is how long the kernel may take to show a device.
const deviceLimit = 30 * time.Second
