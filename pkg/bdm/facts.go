package bdm

import (
	"fmt"
	"slices"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Facts is what was looked up for the mappings of a boot. Images, volumes and
// snapshots are by id; what is not there does not exist.
type Facts struct {
	Flavor    Flavor
	Images    map[string]volume.Image
	Volumes   map[string]volume.Volume // those of the mappings, and those that root snapshots are of
	Snapshots map[string]volume.Snapshot
	// VolumeTypes are the names of the volume types, by id; nil: not looked up, and
	// left to who makes the volumes.
	VolumeTypes map[string]string
	Machine     string // what this host is, as uname -m has it; empty: any
	MaxLocal    int    // local devices that are allowed, as Nova's max_local_block_devices; negative: no limit
	Count       int    // instances that are booted at once; 0: one
}

// Flavor is what the rules need of a flavor.
type Flavor struct {
	MemoryMiB, VCPUs      int
	RootGiB, EphemeralGiB int
	SwapMiB               int
}

// ConfigDrive is the property of an image that says whether it needs a config drive:
// "optional" or "mandatory".
const ConfigDrive = "img_config_drive"

// Check applies the rules of Nova's API, in its order, and then Cinder's rules for the
// volumes that would be made. What those two refuse after something was made or reserved
// is refused here before. It returns the mappings completed from the facts (sizes, device
// names, the flavor's own disks), and warnings. Errors are of the kinds
// failure.ErrInvalid, ErrNotFound or ErrInUse.
func Check(mappings []Mapping, f Facts) (final []Mapping, warnings []string, err error) {
	all := slices.Clone(mappings)
	for _, rule := range []func([]Mapping) error{f.source, f.rootExists, f.rootName, f.single} {
		if err := rule(all); err != nil {
			return nil, nil, err
		}
	}
	all = f.addFlavorDevices(all)
	for _, rule := range []func([]Mapping) error{f.rootFits, f.volumesExist, f.bootSequence, f.each, f.ephemerals, f.swap, f.local, f.created, f.host, CheckMounts} {
		if err := rule(all); err != nil {
			return nil, nil, err
		}
	}
	for i := range all {
		warnings = append(warnings, f.settle(&all[i])...)
	}
	if err := AssignDevices(all); err != nil {
		return nil, nil, err
	}
	return all, warnings, nil
}

// CheckAttach applies the rules for one more volume, v, to an instance that has the
// devices have; m is the mapping of v, with its id. It returns m completed as Check
// completes mappings, and warnings.
func CheckAttach(have []Mapping, m Mapping, v volume.Volume) (Mapping, []string, error) {
	f := Facts{Volumes: map[string]volume.Volume{m.ID: v}}
	all := append(slices.Clone(have), m)
	added := &all[len(have)]
	switch {
	case m.Source != SourceVolume:
		return Mapping{}, nil, failure.Invalid("only a volume that exists can be attached, and not source=%s; make a volume first", m.Source)
	case m.Root():
		return Mapping{}, nil, failure.Invalid("the instance has its root; leave out bootindex")
	}
	if err := m.check(origin{flagDevice, m.String()}, false); err != nil {
		return Mapping{}, nil, err
	}
	for _, old := range have {
		if old.Source == SourceVolume && old.ID == m.ID {
			return Mapping{}, nil, failure.Of(ErrInUse, "the instance has volume %s already, as %s", m.ID, old.DeviceName)
		}
	}
	if err := f.volume(m); err != nil {
		return Mapping{}, nil, err
	}
	warnings := f.settle(added)
	for _, rule := range []func([]Mapping) error{CheckMounts, AssignDevices} {
		if err := rule(all); err != nil {
			return Mapping{}, nil, err
		}
	}
	return *added, warnings, nil
}

// settle fills in what follows from the facts, and says what has no effect.
func (f Facts) settle(m *Mapping) (warnings []string) {
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	switch v := f.Volumes[m.ID]; {
	case m.Source == SourceVolume:
		if m.Size != 0 && m.Size != v.Size {
			warn("volume %s is of %d GiB, not of the %d GiB that were given: the volume's own size is used", m.ID, v.Size, m.Size)
		}
		m.Size = v.Size
		if v.ReadOnly && !m.ReadOnly {
			warn("volume %s is read-only, and so it is for the container", m.ID)
			m.ReadOnly = true
		}
		if v.Status == volume.StatusInUse && !m.ReadOnly {
			warn("volume %s is in use elsewhere too (multiattach): unless all its users are made for that, writing to it destroys what is on it", m.ID)
		}
	case m.Source == SourceSnapshot && m.Size == 0:
		m.Size = f.Snapshots[m.ID].Size
	case m.Ephemeral() && m.Size == 0:
		m.Size = f.Flavor.EphemeralGiB
	case m.Swap() && m.Size == 0:
		m.Size = f.Flavor.SwapMiB
	}
	if name, known := f.VolumeTypes[m.VolumeType]; known {
		m.VolumeType = name
	}
	if m.DiskBus != "" {
		warn("bus=%s has no meaning for a container", m.DiskBus)
	}
	if m.GuestFormat != "" && m.Source != SourceBlank {
		warn("format=%s has no meaning for a device that is made from %s %s: its own filesystem is used", m.GuestFormat, m.Source, m.ID)
	}
	if m.Swap() && m.DeviceName != "" {
		warn("device=%s has no meaning for swap, which is no device in a container", m.DeviceName)
		m.DeviceName = ""
	}
	return warnings
}

// invalidMapping is Nova's InvalidBDM.
func invalidMapping(kind error, format string, args ...any) error {
	return failure.Of(kind, "Block Device Mapping is Invalid: "+format, args...)
}
