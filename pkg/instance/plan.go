package instance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/seed"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// BootRequest is what a user asks for.
type BootRequest struct {
	Name   string
	Blocks bdm.Request // the flags that make block device mappings
	Spec   state.Spec
	Meta   map[string]string
	Count  int // instances that are booted at once; 0: one
	Caller state.Caller
}

// Plan is a boot that was checked and not yet begun.
type Plan struct {
	Name     string            `json:"name"`
	Spec     state.Spec        `json:"spec"`
	Meta     map[string]string `json:"metadata"`
	Mappings []bdm.Mapping     `json:"block_device_mapping"`
	Warnings []string          `json:"warnings"`
	Caller   state.Caller      `json:"-"`
}

// Names become domain names, host names and parts of volume names. Their lengths are
// looked at apart: a repetition that is counted takes the package long to start.
var (
	validName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	validLabel = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$`)
	notInHost  = regexp.MustCompile(`[^A-Za-z0-9-]+`)
)

// validHost says whether a name is a host's (RFC 1123), and fits into the kernel's.
func validHost(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if len(label) > 63 || !validLabel.MatchString(label) {
			return false
		}
	}
	return len(name) <= 64
}

// CheckName says whether a name can be an instance's.
func CheckName(name string) error {
	switch {
	case len(name) > 63 || !validName.MatchString(name):
		return failure.Invalid("the instance name %q must be of 1 to 63 letters, digits, '.', '_' and '-', and begin with a letter or a digit", name)
	case uuid.Validate(name) == nil:
		return failure.Invalid("the instance name %q has the form of an id, and would be taken for one", name)
	}
	return nil
}

var errReadOnlyRoot = failure.Invalid("the root is read-only, so that neither host name, keys, user data, name servers nor files can be written into it: leave overlay=none out")

// Plan checks everything that can be refused and changes nothing.
func (m *Manager) Plan(ctx context.Context, req BootRequest) (Plan, error) {
	if err := CheckName(req.Name); err != nil {
		return Plan{}, err
	}
	spec := req.Spec
	if spec.Hostname == "" {
		spec.Hostname = hostnameFor(req.Name)
	}
	if !validHost(spec.Hostname) {
		return Plan{}, failure.Invalid("the host name %q is not one: use letters, digits and '-', at most 64", spec.Hostname)
	}
	if spec.Init != "" && (!path.IsAbs(spec.Init) || path.Clean(spec.Init) != spec.Init) {
		return Plan{}, failure.Invalid("the init %q is not an absolute path", spec.Init)
	}
	mappings, err := bdm.Mappings(req.Blocks)
	if err != nil {
		return Plan{}, err
	}
	facts, err := m.facts(ctx, mappings, req)
	if err != nil {
		return Plan{}, err
	}
	mappings, warnings, err := bdm.Check(mappings, facts)
	if err != nil {
		return Plan{}, m.orReleased(err, facts.Volumes)
	}
	if mappings, err = m.local(&spec, mappings); err != nil {
		return Plan{}, err
	}
	if err := bdm.CheckMounts(mappings); err != nil {
		return Plan{}, err
	}
	for i := range mappings {
		mappings[i].Grow = grows(spec.Grow, mappings[i])
	}
	spec.Seed.DNS = slices.ContainsFunc(spec.NICs, func(n lxc.Interface) bool { return len(n.DNS) > 0 })
	if err := spec.Seed.Check(); err != nil {
		return Plan{}, err
	}
	for _, mp := range mappings {
		if !mp.Root() {
			continue
		}
		if mp.Source == bdm.SourceImage && facts.Images[mp.ID].Properties[bdm.ConfigDrive] == "mandatory" {
			spec.Seed.NoCloud, spec.Seed.Bare = true, false
		}
		if mp.Source == bdm.SourceVolume {
			spec.Seed.Copy = facts.Volumes[mp.ID].Copy()
		}
		if mp.ReadOnly && mp.Overlay == bdm.OverlayNone && spec.Seed.Asked() {
			return Plan{}, errReadOnlyRoot
		}
	}
	plan := Plan{Name: req.Name, Spec: spec, Meta: req.Meta, Mappings: mappings, Warnings: warnings, Caller: req.Caller}
	rec := plan.record()
	if err := checkDomain(&rec); err != nil {
		return Plan{}, err
	}
	if err := errors.Join(m.Kernel.Ready(), m.Consoles.Ready()); err != nil {
		return Plan{}, err
	}
	var creates []volume.CreateVolume
	for _, v := range rec.Volumes {
		if v.Made() {
			creates = append(creates, createRequest(v.Mapping, "", req.Name))
		}
	}
	if err := m.Volumes.CheckCreate(ctx, creates); err != nil {
		return Plan{}, err
	}
	return plan, m.free(ctx, req.Name)
}

// check refuses what libvirt could not be told at a start.
func checkDomain(r *state.Record) error {
	c := container(r, "/")
	c.Launch = "/launch"
	_, err := c.XML()
	return err
}

// local gives the local devices what they have on this host: swap is a limit beyond
// the memory's, an ephemeral disk has a place to be mounted at, and the disk of an
// image is of the flavor's size.
func (m *Manager) local(spec *state.Spec, mappings []bdm.Mapping) ([]bdm.Mapping, error) {
	var devices []bdm.Mapping
	ephemerals := 0
	upper := false
	for _, mp := range mappings {
		switch {
		case mp.Swap():
			if err := m.Domains.CanLimitSwap(); err != nil {
				return nil, failure.Invalid("a container's swap is a limit beyond its memory, and %w; leave the swap out", err)
			}
			spec.SwapMiB = mp.Size
			continue
		case mp.Ephemeral():
			ephemerals++
			if mp.GuestFormat == "" {
				mp.GuestFormat = "ext4"
			}
			if mp.MountPath == "" && mp.GuestFormat != bdm.FormatNone {
				mp.MountPath = "/mnt"
				if ephemerals > 1 {
					mp.MountPath = fmt.Sprint("/mnt", ephemerals)
				}
			}
		case mp.Dest == bdm.DestLocal:
			mp.Size = spec.Flavor.DiskGiB
		}
		upper = upper || mp.Overlay == bdm.OverlayDisk
		devices = append(devices, mp)
	}
	if upper {
		devices = append(devices, bdm.Mapping{Source: bdm.SourceBlank, Dest: bdm.DestLocal, GuestFormat: "ext4", Size: max(1, spec.Flavor.DiskGiB), DeleteOnTermination: true, Upper: true})
	}
	return devices, bdm.AssignDevices(devices)
}

// grows says whether the filesystem of a device is to be as large as that: what was made of
// an image or a snapshot is, and a volume that was made larger.
func grows(g state.Growth, mp bdm.Mapping) bool {
	switch {
	case !mp.Root() && mp.MountPath == "", mp.ReadOnly, g == state.GrowNone:
		return false
	case g == state.GrowAll:
		return true
	}
	return mp.Grow || mp.Source == bdm.SourceImage || mp.Source == bdm.SourceSnapshot
}

// hostnameFor makes a host name of an instance's name, as Nova does.
func hostnameFor(name string) string {
	host := notInHost.ReplaceAllString(name, "-")
	for len(host) > 1 && host[len(host)-1] == '-' {
		host = host[:len(host)-1]
	}
	return host
}

// free says whether the name is still to be had, here and in libvirt.
func (m *Manager) free(ctx context.Context, name string) error {
	switch rec, err := m.Store.Named(name); {
	case err == nil:
		return failure.Of(state.ErrExists, "the name %q is taken by instance %s", name, rec.ID)
	case !errors.Is(err, state.ErrNotFound):
		return err
	}
	switch info, err := m.Domains.ByName(ctx, name); {
	case err == nil:
		return failure.Of(state.ErrExists, "the name %q is taken by a libvirt domain that lxcboot did not make (%s)", name, info.ID)
	case !errors.Is(err, lxc.ErrNotFound):
		return err
	}
	return nil
}

// facts looks up what the mappings name. A name becomes an id.
func (m *Manager) facts(ctx context.Context, mappings []bdm.Mapping, req BootRequest) (bdm.Facts, error) {
	fl := req.Spec.Flavor
	facts := bdm.Facts{
		Flavor:    bdm.Flavor{MemoryMiB: fl.MemoryMiB, VCPUs: fl.VCPUs, RootGiB: fl.DiskGiB, EphemeralGiB: fl.EphemeralGiB, SwapMiB: fl.SwapMiB},
		Images:    map[string]volume.Image{},
		Volumes:   map[string]volume.Volume{},
		Snapshots: map[string]volume.Snapshot{},
		Machine:   m.Machine,
		MaxLocal:  m.MaxLocal,
		Count:     req.Count,
	}
	for i := range mappings {
		mp := &mappings[i]
		switch mp.Source {
		case bdm.SourceImage:
			img, err := m.Volumes.Image(ctx, mp.ID)
			if err != nil {
				return facts, err
			}
			mp.ID = img.ID
			facts.Images[img.ID] = img
			if err := mp.Inherit(img.Properties, "image "+img.ID); err != nil {
				return facts, err
			}
		case bdm.SourceVolume:
			vol, err := m.Volumes.Volume(ctx, mp.ID)
			if errors.Is(err, volume.ErrNotFound) && path.IsAbs(mp.ID) {
				vol, err = m.managed(ctx, mp)
			}
			if err != nil {
				return facts, err
			}
			mp.ID = vol.ID
			facts.Volumes[vol.ID] = vol
			mp.ReadOnly = mp.ReadOnly || vol.ReadOnly
			mp.Grow = vol.Metadata[volume.MetaGrow] == "yes"
			if err := inherit(mp, vol); err != nil {
				return facts, err
			}
		case bdm.SourceSnapshot:
			snap, err := m.Volumes.Snapshot(ctx, mp.ID)
			if err != nil {
				return facts, err
			}
			mp.ID = snap.ID
			facts.Snapshots[snap.ID] = snap
			// What the volume was made from holds for its snapshot too; the volume
			// itself may be gone.
			if vol, err := m.Volumes.Volume(ctx, snap.VolumeID); err == nil {
				facts.Volumes[vol.ID] = vol
				if err := inherit(mp, vol); err != nil {
					return facts, err
				}
			} else if !errors.Is(err, volume.ErrNotFound) {
				return facts, err
			}
		}
	}
	return facts, nil
}

// managed is the volume that the boot is to make of a device of this host, which has its path
// for an id until then.
func (m *Manager) managed(ctx context.Context, mp *bdm.Mapping) (volume.Volume, error) {
	store, ok := m.Volumes.(Managing)
	if !ok {
		return volume.Volume{}, failure.Of(volume.ErrUnsupported, "%s is a path on this host, and the volumes are those of a cloud: its operator makes volumes of devices, on its storage hosts ('cinder manage'). With --backend local a device of this host can be used as it is", mp.ID)
	}
	// Who boots from it says that it can be.
	vol, err := store.CheckManage(ctx, volume.ManageVolume{Device: mp.ID, Bootable: mp.Root()})
	vol.ID, vol.Status = mp.ID, volume.StatusAvailable
	return vol, err
}

// inherit takes what a volume's own properties say of its filesystem, or those of the image
// that it was made of.
func inherit(mp *bdm.Mapping, vol volume.Volume) error {
	if err := mp.Inherit(vol.Metadata, "volume "+vol.ID); err != nil {
		return err
	}
	return mp.Inherit(vol.ImageProps, "the image of volume "+vol.ID)
}

// record is the record of the plan's instance as it begins.
func (p Plan) record() state.Record {
	rec := state.Record{
		Version: state.Version, ID: uuid.NewString(), Name: p.Name,
		CreatedAt: time.Now().UTC().Truncate(time.Second),
		Spec:      p.Spec, Meta: p.Meta, Caller: p.Caller,
	}
	rec.Spec.Seed = seed.Seed{Bare: p.Spec.Seed.Bare} // the rest has a file of its own
	// Libvirt would choose another address at each start.
	rec.Spec.NICs = slices.Clone(p.Spec.NICs)
	for i := range rec.Spec.NICs {
		if rec.Spec.NICs[i].MAC == "" {
			rec.Spec.NICs[i].MAC = newMAC()
		}
	}
	for _, mp := range p.Mappings {
		v := state.Volume{Mapping: mp, Grow: mp.Grow}
		switch {
		case v.Made():
		case path.IsAbs(mp.ID):
			v.Manage = mp.ID
		default:
			v.VolumeID = mp.ID
		}
		rec.Volumes = append(rec.Volumes, v)
	}
	return rec
}

// newMAC is a hardware address of libvirt's range.
func newMAC() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", b[0], b[1], b[2])
}
