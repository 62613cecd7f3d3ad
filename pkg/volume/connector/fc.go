package connector

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// fcDriver is for fibre channel: the zone is the fabric's matter, so the LUN only
// has to be asked for at the ports that see the target.
type fcDriver struct{ h *Host }

type fcState struct {
	WWNs  []string   `json:"wwns"`            // of target ports, lower case hex without 0x
	LUNs  []int      `json:"luns"`            // at each of them
	Disks []scsiDisk `json:"disks,omitempty"` // connected; several where multipathd runs
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
	all := len(paths) > 1 && f.h.multipathd(ctx)
	end := time.Now().Add(deviceLimit)
	st.Disks = nil
	err := f.h.exclusive(ctx, "fibre_channel", func() error {
		var errs []error
		for n, p := range paths {
			// Each path gets a share of the time that is left.
			disk, err := f.attach(ctx, p, time.Until(end)/time.Duration(len(paths)-n))
			if err == nil && len(st.Disks) > 0 && disk.WWID != st.Disks[0].WWID {
				err = errors.Join(failure.Invalid("LUN %s is another disk than %s", p.hctl(), st.Disks[0].HCTL),
					f.h.removeDisks(ctx, []scsiDisk{*disk}, true))
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if st.Disks = append(st.Disks, *disk); !all {
				return nil
			}
		}
		if len(st.Disks) == 0 {
			return errors.Join(errs...)
		}
		return nil
	})
	if err != nil {
		return Device{}, err
	}
	name, err := f.h.assemble(ctx, st.Disks)
	if err != nil {
		return Device{}, err
	}
	if name == "" { // the first path it is, alone
		if err := f.h.removeDisks(ctx, st.Disks[1:], true); err != nil {
			return Device{}, err
		}
		st.Disks = st.Disks[:1]
		name = st.Disks[0].Name
	}
	dev.Path = f.h.fs("dev", name)
	return encode(dev, st)
}

// attach asks for the LUN at one path, unless it is there.
func (f fcDriver) attach(ctx context.Context, p fcPath, limit time.Duration) (*scsiDisk, error) {
	if disk, err := f.h.scsiDiskAt(p.hctl()); disk != nil || err != nil {
		return disk, err
	}
	if err := f.h.scan(p.host, strconv.Itoa(p.channel), strconv.Itoa(p.target), p.lun); err != nil {
		return nil, err
	}
	fault.Point("connector/fibre_channel/scanned")
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var disk *scsiDisk
	err := poll(ctx, "the kernel to show LUN "+p.hctl(), func() (bool, error) {
		var err error
		disk, err = f.h.scsiDiskAt(p.hctl())
		return disk != nil, err
	})
	return disk, err
}

func (f fcDriver) disconnect(ctx context.Context, dev Device) error {
	var st fcState
	if err := decode(dev, &st); err != nil {
		return err
	}
	if len(st.Disks) == 0 {
		// Only planned, or lost in a crash: whatever has the volume's address.
		for _, p := range f.paths(st) {
			disk, err := f.h.scsiDiskAt(p.hctl())
			if err != nil {
				return err
			}
			if disk != nil {
				st.Disks = append(st.Disks, *disk)
			}
		}
	}
	return f.h.exclusive(ctx, "fibre_channel", func() error { return f.h.removeDisks(ctx, st.Disks, dev.ReadOnly) })
}
