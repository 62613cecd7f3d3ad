// Package instance knows the order of things: it turns a request into a plan,
// walks the step table to boot it, walks it back to undo it, and keeps a record
// of each instance on disk so that a killed process can be cleaned up after.
package instance

import (
	"time"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/flavor"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/seed"
	"github.com/lxcboot/lxcboot/pkg/volume/connector"
)

// recordVersion is the form of record that this code writes and reads.
const recordVersion = 1

// Record is what is known of an instance: what was asked for, and each fact that
// undoing it needs. Whether the container runs is not in it: libvirt says that.
type Record struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Host      string    `json:"host"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`

	Spec    Spec              `json:"spec"`
	IDBase  uint32            `json:"idmap_base"` // the first id of all the ranges
	Slot    int               `json:"idmap_slot"` // which range of host ids it has
	Volumes []VolumeRecord    `json:"volumes"`
	StoreID string            `json:"volume_store"` // where the volumes are
	Meta    map[string]string `json:"metadata,omitempty"`

	// Operation is what some process is doing, or was doing when it ended
	// early. It is empty while nothing is under way.
	Operation Operation `json:"operation,omitempty"`
	// Reached is the last step of the table that may have been begun: undo starts there.
	Reached Step `json:"reached"`
	// Booted says that the boot went through to its end.
	Booted bool `json:"booted"`
	// Started says that the container has run: from then on
	// delete-on-termination decides what becomes of a volume.
	Started bool `json:"started"`
	// RolledBack says that its boot failed and gave up what it had made, even
	// if the container ran for a moment.
	RolledBack bool `json:"rolled_back,omitempty"`
	// Up says that the user wants it running: set by boot and start, cleared by
	// stop. A host that comes up again starts what was up.
	Up bool `json:"up"`
	// Undefined says that its domain was given up by a rename, and that the next
	// start defines it again.
	Undefined bool `json:"undefined,omitempty"`
	// Console is the process that keeps the console's log.
	Console proc.Process `json:"console,omitzero"`
	// Fault says why the instance needs attention, in words for its user.
	Fault string `json:"fault,omitempty"`
}

// Spec is what the user asked of the container itself.
type Spec struct {
	Flavor      flavor.Flavor     `json:"flavor"`
	Hostname    string            `json:"hostname"`
	Description string            `json:"description,omitempty"`
	Tags        []string          `json:"tags"`
	Privileged  bool              `json:"privileged,omitempty"`
	Fsck        bool              `json:"fsck,omitempty"` // check each filesystem before it is first mounted
	Init        string            `json:"init,omitempty"` // as asked; empty: found in the root
	InitArgs    []string          `json:"init_args,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	NICs        []lxc.Interface   `json:"nics,omitempty"`
	SwapMiB     int               `json:"swap,omitempty"` // that the memory's limit has beyond the flavor's
	Seed        seed.Seed         `json:"seed,omitzero"`
}

// VolumeRecord is one block device mapping and what became of it.
type VolumeRecord struct {
	Mapping bdm.Mapping `json:"mapping"`
	// Create is set for a volume that the boot makes itself.
	Create bool `json:"create,omitempty"`
	// VolumeID is empty until the volume is made or was found.
	VolumeID     string `json:"volume_id,omitempty"`
	AttachmentID string `json:"attachment_id,omitempty"`
	// Device is the path on this host, planned or connected.
	Device *connector.Device `json:"device,omitempty"`
	// Filesystem is what was found on it, for the root and for mounted volumes.
	Filesystem *rootfs.Filesystem `json:"filesystem,omitempty"`
	// Moving says that it is being attached or detached by itself.
	Moving bool `json:"moving,omitempty"`
	// Formatted says that an ephemeral disk has its filesystem.
	Formatted bool `json:"formatted,omitempty"`
	// Loop is the loop device that a file-backed data volume has while the
	// container runs. The root's loop device frees itself.
	Loop *loop.Device `json:"loop,omitempty"`
}

// The names of operations.
const (
	OpBoot   = "boot"
	OpStart  = "start"
	OpStop   = "stop"
	OpReboot = "reboot"
	OpDelete = "delete"
	OpAttach = "volume attach"
	OpDetach = "volume detach"
)

// Operation is a change of an instance that is under way.
type Operation struct {
	Name string    `json:"name,omitempty"` // boot, start, stop, delete, …
	PID  int       `json:"pid,omitempty"`
	At   time.Time `json:"at,omitzero"`
}

// Step is a row of the step table, in the order of boot.
type Step string

// The steps of a boot. StepNone is before the first.
const (
	StepNone   Step = ""
	StepCreate Step = "create volumes"
	StepAttach Step = "attach volumes"
	StepRoot   Step = "prepare the root"
	StepStart  Step = "start the container"
)

// root is the record of the root volume: the mapping with boot index 0.
func (r *Record) root() *VolumeRecord {
	for i := range r.Volumes {
		if r.Volumes[i].Mapping.Root() {
			return &r.Volumes[i]
		}
	}
	return nil
}
