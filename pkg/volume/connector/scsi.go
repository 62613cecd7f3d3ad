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
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/volume"
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

// fcDriver is for fibre channel: the zone is the fabric's matter, so the LUN only
// has to be asked for at the ports that see the target.
type fcDriver struct{ h *Host }

type fcState struct {
	WWNs []string  `json:"wwns"` // of target ports, lower case hex without 0x
	LUNs []int     `json:"luns"` // at each of them
	Disk *scsiDisk `json:"disk,omitempty"`
}

func (fcDriver) prepare(_ context.Context, req Request, dev Device) (Device, error) {
	i := info(req.Connection.Data)
	st := fcState{WWNs: i.strs("target_wwns")}
	luns := i.list("target_luns")
	if len(st.WWNs) == 0 {
		st.WWNs, luns = i.strs("target_wwn"), nil
	}
	if len(st.WWNs) == 0 {
		return Device{}, failure.Invalid("the connection says no target_wwn")
	}
	if len(luns) > 0 && len(luns) != len(st.WWNs) {
		return Device{}, failure.Invalid("%d target_wwns and %d target_luns do not go together", len(st.WWNs), len(luns))
	}
	for n, wwn := range st.WWNs {
		wwn = strings.TrimPrefix(strings.ToLower(strings.ReplaceAll(wwn, ":", "")), "0x")
		if _, err := strconv.ParseUint(wwn, 16, 64); err != nil || len(wwn) != 16 {
			return Device{}, failure.Invalid("target_wwn %q is no world wide name", st.WWNs[n])
		}
		st.WWNs[n] = wwn
		lun := i["target_lun"]
		if len(luns) > 0 {
			lun = luns[n]
		}
		l, ok := number(lun)
		if !ok {
			return Device{}, failure.Invalid("target_lun %v is not a number", lun)
		}
		st.LUNs = append(st.LUNs, l)
	}
	return encode(dev, st)
}

// fcPath is a target port as a host's port sees it.
type fcPath struct{ host, channel, target, lun int }

func (p fcPath) hctl() string { return hctl(p.host, p.channel, p.target, p.lun) }

// paths finds the target's ports by their names.
func (f fcDriver) paths(st fcState) []fcPath {
	var out []fcPath
	for _, rport := range f.h.glob("sys/class/fc_remote_ports/rport-*") {
		n := slices.Index(st.WWNs, strings.TrimPrefix(f.h.firstLine(rport, "port_name"), "0x"))
		target, err := strconv.Atoi(f.h.firstLine(rport, "scsi_target_id"))
		var host, channel, number int
		_, bad := fmt.Sscanf(filepath.Base(rport), "rport-%d:%d-%d", &host, &channel, &number)
		if n < 0 || err != nil || target < 0 || bad != nil || f.h.firstLine(rport, "port_state") != "Online" {
			continue
		}
		out = append(out, fcPath{host, channel, target, st.LUNs[n]})
	}
	return out
}

func (f fcDriver) connect(ctx context.Context, _ Request, dev Device) (Device, error) {
	var st fcState
	if err := decode(dev, &st); err != nil {
		return Device{}, err
	}
	paths := f.paths(st)
	if len(paths) == 0 {
		return Device{}, failure.Of(volume.ErrUnreachable, "no fibre channel port of this host sees %s", strings.Join(st.WWNs, ", "))
	}
	ctx, cancel := context.WithTimeout(ctx, deviceLimit)
	defer cancel()
	err := f.h.exclusive(ctx, "fibre_channel", func() error {
		for n, p := range paths {
			disk, err := f.h.scsiDiskAt(p.hctl())
			if disk == nil && err == nil {
				if err := f.h.scan(p.host, strconv.Itoa(p.channel), strconv.Itoa(p.target), p.lun); err != nil {
					return err
				}
				fault.Point("connector/fibre_channel/scanned")
				// The last path gets all the time that is left, the others a share.
				limited, cancel := context.WithTimeout(ctx, deviceLimit/time.Duration(len(paths)-n+1))
				err = poll(limited, "the kernel to show LUN "+p.hctl(), func() (bool, error) {
					var err error
					disk, err = f.h.scsiDiskAt(p.hctl())
					return disk != nil, err
				})
				cancel()
			}
			if disk != nil {
				st.Disk = disk
				return nil
			}
			if n == len(paths)-1 {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Device{}, err
	}
	dev.Path = f.h.fs("dev", st.Disk.Name)
	return encode(dev, st)
}

func (f fcDriver) disconnect(ctx context.Context, dev Device) error {
	var st fcState
	if err := decode(dev, &st); err != nil {
		return err
	}
	if st.Disk != nil {
		return f.h.removeDisk(ctx, *st.Disk, dev.ReadOnly)
	}
	// Only planned, or lost in a crash: whatever has the volume's address.
	for _, p := range f.paths(st) {
		disk, err := f.h.scsiDiskAt(p.hctl())
		if err == nil && disk != nil {
			err = f.h.removeDisk(ctx, *disk, dev.ReadOnly)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
