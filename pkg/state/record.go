// Package state keeps what is known of instances: a record of each on disk, which one
// process at a time may change, indexes of them, and where what the host holds for a
// container has its place. It decides nothing.
package state

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/cgroup"
	"github.com/lxcboot/lxcboot/pkg/flavor"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/seed"
	"github.com/lxcboot/lxcboot/pkg/volume/connector"
)

// Version is the form of record that this code writes. It reads version 1, too.
const Version = 2

// Record is what is known of an instance: what was asked for, how far it has come, and
// each fact that undoing it needs. Whether the container runs is not in it: the kernel
// and libvirt say that.
type Record struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Host      host.Host `json:"host"` // whose it is; another host leaves it alone
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`

	Spec    Spec              `json:"spec"`
	Caller  Caller            `json:"caller,omitzero"`
	IDs     host.IDRange      `json:"host_ids,omitzero"` // zero: privileged
	Volumes []Volume          `json:"volumes"`
	Meta    map[string]string `json:"metadata,omitempty"`

	Phase Phase `json:"phase"`
	// Want says whether a host that comes up again starts it.
	Want Want `json:"wanted"`
	// Op is what a process is doing, or was doing when it ended early; nil while
	// nothing is under way.
	Op *Operation `json:"pending,omitempty"`
	// Ran says that the container has run: from then on delete-on-termination decides
	// what becomes of a volume.
	Ran bool `json:"ran,omitempty"`

	// Restarts is how often it was started again in a row, by its policy.
	Restarts int `json:"restarts,omitempty"`

	// BootID is of the host's start in which the container was last started; Console is
	// the process that keeps its console since.
	BootID  string       `json:"boot_id,omitempty"`
	Console proc.Process `json:"console,omitzero"`
	// Former is the process that kept the console last: it hands in how the init ended.
	Former proc.Process `json:"former_console,omitzero"`
	// Exit is how the container's init ended last; nil: it runs, or nobody knows.
	Exit *Exit `json:"exit,omitempty"`
}

// Spec is what the user asked of the container itself.
type Spec struct {
	Flavor      flavor.Flavor     `json:"flavor"`
	Hostname    string            `json:"hostname"`
	Description string            `json:"description,omitempty"`
	Tags        []string          `json:"tags"`
	Privileged  bool              `json:"privileged,omitempty"`
	Unfiltered  bool              `json:"unfiltered,omitempty"` // no filter of system calls
	Fsck        bool              `json:"fsck,omitempty"`       // check each filesystem before it is first mounted
	Grow        Growth            `json:"grow,omitempty"`       // which filesystems become as large as their volumes
	Init        string            `json:"init,omitempty"`       // as asked; empty: found in the root
	InitArgs    []string          `json:"init_args,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	NICs        []lxc.Interface   `json:"nics,omitempty"`
	SwapMiB     int               `json:"swap,omitempty"`   // that the memory's limit has beyond the flavor's
	Restart     Restart           `json:"restart,omitzero"` // when it has ended by itself
	Seed        seed.Seed         `json:"seed,omitzero"`    // of a plan; a record has all but Bare in a file of its own
}

// Growth says which filesystems are made as large as their volumes before the container
// has them.
type Growth string

// What can be asked for. Empty is those that the boot made from an image or a snapshot,
// and those of volumes that were made larger by us.
const (
	GrowAll  Growth = "all"  // at each start; one that cannot be is an error
	GrowNone Growth = "none" // whatever becomes of the volume
)

// Caller is who booted the instance; the zero one is a plain boot.
type Caller struct {
	Name   string       `json:"name,omitempty"`   // CallerRun, or an engine's
	Remove bool         `json:"remove,omitempty"` // run --rm: it goes with its caller
	Proc   proc.Process `json:"process,omitzero"` // while that lives, the instance is its business
	BootID string       `json:"boot_id,omitempty"`
}

// Who can be a Caller. An instance that has one is never autostarted.
const (
	CallerRun       = "run"
	CallerPacemaker = "pacemaker" // which alone knows where it is to run
)

// CallerRunning is the Caller of a `run` in this process.
func CallerRunning(remove bool) (Caller, error) {
	self, err := proc.Of(os.Getpid())
	if err != nil {
		return Caller{}, err
	}
	boot, err := host.BootID()
	return Caller{Name: CallerRun, Remove: remove, Proc: self, BootID: boot}, err
}

// IDsPerInstance is how many ids a container has on the host: each instance has a range of
// its own, so that one container's root is nobody to another.
const IDsPerInstance = 65_536

// Phase is how far an instance has come. It only goes forward.
type Phase string

// The phases. One that was cut short in Building or Deleting is undone by delete.
const (
	Building Phase = "building"
	Built    Phase = "built"
	Deleting Phase = "deleting"
)

// Want is what the user wants of a built instance.
type Want string

// What can be wanted: Up from boot and start on, Down from stop on, and when the
// container ended by itself.
const (
	Up   Want = "up"
	Down Want = "down"
)

// The names of operations.
const (
	OpBoot    = "boot"
	OpStart   = "start"
	OpStop    = "stop"
	OpReboot  = "reboot"
	OpDelete  = "delete"
	OpAttach  = "volume attach"
	OpDetach  = "volume detach"
	OpRename  = "rename"
	OpResize  = "resize"
	OpLibvirt = "start by libvirt" // between its hooks prepare and started
	// OpAutostop ends the container because its host goes down.
	OpAutostop = "stop with the host"
	// OpCopy has a filesystem of the running container frozen.
	OpCopy = "copy of a volume"
)

// Operation is a change of an instance that is under way.
type Operation struct {
	Name   string    `json:"name"`
	Volume string    `json:"volume,omitempty"` // that is attached, detached or copied
	PID    int       `json:"pid"`
	At     time.Time `json:"at"`
	// Error says why it failed, when it did and left something behind.
	Error string `json:"error,omitempty"`
}

func NewOperation(name string) *Operation {
	return &Operation{Name: name, PID: os.Getpid(), At: time.Now().UTC()}
}

// Pending is the name of the operation that the record shows; empty: none.
func (r *Record) Pending() string {
	if r.Op == nil {
		return ""
	}
	return r.Op.Name
}

// Exit is how an init ended.
type Exit struct {
	Status uint32    `json:"status"` // as wait(2) has it
	At     time.Time `json:"at"`
}

// Code is the exit code that the end stands for: the init's own, 128 and the signal that
// ended it, or 0 when the container powered itself off, which the kernel tells by a
// SIGINT (reboot(2), in a pid namespace).
func (e Exit) Code() int {
	switch s := unix.WaitStatus(e.Status); {
	case s.Signaled() && s.Signal() == unix.SIGINT:
		return 0
	case s.Signaled():
		return 128 + int(s.Signal())
	default:
		return s.ExitStatus()
	}
}

// Volume is one block device mapping and what became of it.
type Volume struct {
	Mapping bdm.Mapping `json:"mapping"`
	Store   string      `json:"store"` // where the volume is
	// VolumeID is empty until the volume is made or was found.
	VolumeID     string `json:"volume_id,omitempty"`
	AttachmentID string `json:"attachment_id,omitempty"`
	// Manage is the path of a device of this host that the boot makes a volume of: it is let
	// go of with a boot that fails.
	Manage string `json:"manage,omitempty"`
	// Device is the path on this host, planned or connected.
	Device *connector.Device `json:"device,omitempty"`
	// Partition and Subvolume say where on the device the root is, where the default
	// (the whole device, else the first partition) is not meant.
	Partition int    `json:"partition,omitempty"`
	Subvolume string `json:"subvolume,omitempty"`
	// KeyRef names the key of an encrypted volume; the key itself is never kept.
	KeyRef string `json:"key_ref,omitempty"`
	// Filesystem is what was found or made on it.
	Filesystem *rootfs.Filesystem `json:"filesystem,omitempty"`
	// Grow says that the filesystem is to be as large as the volume at its next mount;
	// Growing that this was begun: its filesystem has to be mended before it is used.
	Grow    bool `json:"grow,omitempty"`
	Growing bool `json:"growing,omitempty"`
	// Loop is the loop device that a file-backed data volume has while the
	// container runs. The root's loop device frees itself.
	Loop *loop.Device `json:"loop,omitempty"`
}

// Made says whether the boot made the volume, rather than its user.
func (v *Volume) Made() bool { return v.Mapping.Source != bdm.SourceVolume }

// Claims says that who runs the container keeps others of this host from the volume's
// device: it is the host's own, and a loop device over it, unlike a mount, does not do that.
func (v *Volume) Claims() bool {
	if v.Device == nil || !v.Device.Hold {
		return false
	}
	mounted := v.Mapping.Root() || v.Mapping.Upper || v.Mapping.MountPath != ""
	return !mounted && v.Loop != nil || mounted && v.Filesystem != nil && v.Filesystem.Partition != 0
}

// Root is the record of the root volume: the mapping with boot index 0.
func (r *Record) Root() *Volume {
	for i := range r.Volumes {
		if r.Volumes[i].Mapping.Root() {
			return &r.Volumes[i]
		}
	}
	return nil
}

// IDMap is how the container's ids are the host's; nil when it is privileged.
func (r *Record) IDMap() *lxc.IDMap {
	if r.IDs.Count == 0 {
		return nil
	}
	return &lxc.IDMap{HostID: r.IDs.First, Count: r.IDs.Count}
}

// processLimit is what systemd gives to containers that machined knows.
const processLimit = 16384

// Limits are what the container may use.
func (r *Record) Limits() cgroup.Limits {
	return cgroup.Limits{MemoryMiB: r.Spec.Flavor.MemoryMiB, SwapMiB: r.Spec.SwapMiB, VCPUs: r.Spec.Flavor.VCPUs, Processes: processLimit}
}

// SeedNICs are the network interfaces as the seed tells of them.
func (r *Record) SeedNICs() (all []seed.NIC) {
	for i, n := range r.Spec.NICs {
		s := seed.NIC{Name: cmp.Or(n.Name, fmt.Sprint("eth", i))} // as libvirt names it
		for _, a := range n.Addresses {
			s.Addresses = append(s.Addresses, netip.MustParsePrefix(a)) // checked
		}
		for _, a := range n.Gateways() {
			s.Gateways = append(s.Gateways, netip.MustParseAddr(a))
		}
		for _, a := range n.DNS {
			s.DNS = append(s.DNS, netip.MustParseAddr(a))
		}
		all = append(all, s)
	}
	return all
}

// ReadOnly says whether nothing may be written to the volume.
func (v *Volume) ReadOnly() bool {
	return v.Mapping.ReadOnly || (v.Device != nil && v.Device.ReadOnly) || (v.Filesystem != nil && v.Filesystem.ReadOnly)
}

// Overlay is what is over the root once its filesystem is known, as bdm has it; empty:
// nothing.
func (v *Volume) Overlay() string {
	switch o := v.Mapping.Overlay; {
	case !v.Mapping.Root(), o == bdm.OverlayNone, o == "" && !v.ReadOnly():
		return ""
	case o == "":
		return bdm.OverlayMemory
	default:
		return o
	}
}

// Source is the block device, or the file, that a connected volume is now.
func (v *Volume) Source() string {
	if v.Loop != nil {
		return v.Loop.Path
	}
	return v.Device.Path
}

// Volume is the place of a volume among the instance's; -1: it has it not.
func (r *Record) Volume(id string) int {
	return slices.IndexFunc(r.Volumes, func(v Volume) bool { return v.VolumeID == id })
}

// RootIDs is how the filesystems of the instance are mounted.
func (r *Record) RootIDs() *rootfs.IDMap {
	if r.IDs.Count == 0 {
		return nil
	}
	return &rootfs.IDMap{HostID: r.IDs.First, Count: r.IDs.Count}
}

// VolumesText is the instance's volumes in words.
func (r *Record) VolumesText() string {
	var all []string
	for _, v := range r.Volumes {
		all = append(all, v.VolumeID+" ("+v.Mapping.DeviceName+")")
	}
	return cmp.Or(strings.Join(all, ", "), "none")
}
