// Package volume holds the values that every volume store speaks: images,
// volumes, snapshots, attachments and connections, in the words of OpenStack's
// Cinder and Glance, and the errors that stores return. It does no I/O.
package volume

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/host"
)

// MetaInstance is the metadata key under which a volume that a boot creates
// carries the id of its instance, from the moment it is created. A volume whose
// id was lost in a crash is found again by it.
const MetaInstance = "lxcboot_instance"

// MetaGrow is the metadata key of a volume that was made larger, and whose filesystem is
// to be as large when it is mounted next: "yes".
const MetaGrow = "lxcboot_grow"

// Status words of volumes and snapshots, as Cinder spells them.
const (
	StatusCreating    = "creating"
	StatusDownloading = "downloading"
	StatusAvailable   = "available"
	StatusReserved    = "reserved"
	StatusAttaching   = "attaching"
	StatusInUse       = "in-use"
	StatusDetaching   = "detaching"
	StatusDeleting    = "deleting"
	StatusExtending   = "extending"
	StatusError       = "error"
)

// Status words of images, as Glance spells them.
const (
	ImageQueued = "queued"
	ImageSaving = "saving"
	ImageActive = "active"
	ImageKilled = "killed"
)

// Image is a disk image.
type Image struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Status      string            `json:"status"`       // Glance's word
	DiskFormat  string            `json:"disk_format"`  // raw, qcow2, vmdk, vhdx, vdi
	Size        int64             `json:"size"`         // bytes as stored
	VirtualSize int64             `json:"virtual_size"` // bytes of the disk it describes; 0 when unknown
	MinDisk     int               `json:"min_disk"`     // GiB
	MinRAM      int               `json:"min_ram"`      // MiB
	Checksum    string            `json:"checksum"`     // "sha512:…" or what the store keeps; may be empty
	Properties  map[string]string `json:"properties"`
	CreatedAt   time.Time         `json:"created_at"`
	Cached      int64             `json:"-"` // bytes that its raw form takes beside it, which the store can make anew
}

// Volume is a block device volume.
type Volume struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Description string            `json:"description"`
	Status      string            `json:"status"` // Cinder's word
	Size        int               `json:"size"`   // GiB
	Bootable    bool              `json:"bootable"`
	Multiattach bool              `json:"multiattach"`
	ReadOnly    bool              `json:"readonly"`
	Encrypted   bool              `json:"encrypted"`
	Type        string            `json:"volume_type"`
	ImageID     string            `json:"image_id"`
	SnapshotID  string            `json:"snapshot_id"`
	SourceID    string            `json:"source_volid"`
	MinDisk     int               `json:"min_disk"`                        // GiB, from the image it was made of; 0 when unknown
	MinRAM      int               `json:"min_ram"`                         // MiB, from the image it was made of; 0 when unknown
	ImageProps  map[string]string `json:"volume_image_metadata,omitempty"` // of the image it was made of
	Metadata    map[string]string `json:"metadata"`
	Attachments []Attachment      `json:"attachments"`
	CreatedAt   time.Time         `json:"created_at"`
	Managed     *Managed          `json:"managed,omitempty"` // nil: the store made it
	Pool        string            `json:"pool,omitempty"`    // GROUP/POOL of LVM's that it is in; empty: it is not
}

// Managed says what a volume is that its store did not make: a block device of a host, or
// the file behind a loop device. It is known again by what stays of it when that restarts.
type Managed struct {
	// Path is where it was when it was managed, by a name that stays, if it has one; and of a
	// file where that is.
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	// IDs are what the hardware, LVM or a partition table call a block device, the best first.
	IDs []string `json:"ids,omitempty"`
	// Seen tells a block device that has no IDs until the host restarts.
	Seen string `json:"seen,omitempty"`
	// Content is the UUID of the filesystem that was last found on it; empty: none was.
	Content string `json:"content,omitempty"`
	// Inode is that of a file; 0: it is a block device. The volume is the part of the file that
	// begins at Offset, and is as long as Limit says; 0: to the end.
	Inode  uint64 `json:"inode,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	Limit  int64  `json:"limit,omitempty"`
}

// String names it for people.
func (m *Managed) String() string {
	switch {
	case m == nil:
		return ""
	case m.Offset != 0 || m.Limit != 0:
		return fmt.Sprintf("%s (%d bytes from %d on)", m.Path, m.Bytes, m.Offset)
	case m.Inode != 0:
		return fmt.Sprintf("%s (file, %d bytes)", m.Path, m.Bytes)
	}
	return fmt.Sprintf("%s (%s)", m.Path, strings.Join(append(slices.Clone(m.IDs[:min(1, len(m.IDs))]), fmt.Sprint(m.Bytes, " bytes")), ", "))
}

// Bytes is the exact size: of a managed volume it need not be whole GiB, which Size is.
func (v Volume) Bytes() int64 {
	if v.Managed != nil {
		return v.Managed.Bytes
	}
	return int64(v.Size) << 30
}

// Held says that somebody has the volume, or is about to.
func (v Volume) Held() bool {
	return slices.Contains([]string{StatusReserved, StatusAttaching, StatusInUse}, v.Status)
}

// Copy says that the volume was made from an image, a snapshot or another volume, and
// not by a boot, which made a machine of it already.
func (v Volume) Copy() bool {
	return v.ImageID+v.SnapshotID+v.SourceID != "" && v.Metadata[MetaInstance] == ""
}

// Instance is who has a volume reserved.
type Instance struct {
	ID   string
	Name string // for people
}

// Attachment binds a volume to an instance on a host.
type Attachment struct {
	ID           string    `json:"id"`
	VolumeID     string    `json:"volume_id"`
	InstanceID   string    `json:"instance_id"`
	InstanceName string    `json:"instance_name"`  // when it was reserved; empty when an older lxcboot made it
	Host         string    `json:"host"`           // its name: for people
	HostID       string    `json:"host_id"`        // host.Host's; empty when an older lxcboot made it, or another program
	BootID       string    `json:"boot_id"`        // of the host, when it was last connected there
	Since        time.Time `json:"since,omitzero"` // when it was reserved, in whole seconds of UTC
	Status       string    `json:"status"`         // reserved, attaching, attached
	ReadOnly     bool      `json:"readonly"`
}

// Reserved is what an attachment says that is made now.
func (i Instance) Reserved(volumeID string, on host.Host) Attachment {
	return Attachment{
		VolumeID: volumeID, InstanceID: i.ID, InstanceName: i.Name, Since: time.Now().UTC().Truncate(time.Second),
		Host: on.Name, HostID: on.ID, BootID: on.BootID,
	}
}

// Elsewhere says that the attachment was made by another host than h: by its id, and
// by its name where no id is known. One that names no host at all, which an older
// lxcboot reserved and never connected, is nobody else's.
func (a Attachment) Elsewhere(h host.Host) bool {
	if a.HostID != "" {
		return a.HostID != h.ID
	}
	return a.Host != "" && a.Host != h.Name
}

// Snapshot is a volume's content at one moment.
type Snapshot struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Status    string            `json:"status"` // Cinder's word
	VolumeID  string            `json:"volume_id"`
	Size      int               `json:"size"` // GiB
	Metadata  map[string]string `json:"metadata"`
	Pool      string            `json:"pool,omitempty"` // GROUP/POOL of LVM's that it is in; empty: it is not
	CreatedAt time.Time         `json:"created_at"`
}

// CreateVolume asks for a new volume. At most one of ImageID, SnapshotID and
// SourceID is set; with none the volume is blank.
type CreateVolume struct {
	Name        string
	Description string
	Size        int // GiB; 0 takes the size of the snapshot or source volume
	ImageID     string
	SnapshotID  string
	SourceID    string
	Type        string
	ReadOnly    bool
	Multiattach bool
	Metadata    map[string]string
	Copying     Copying // of SourceID
}

// Copying is what is known of who writes to a volume that somebody has, while it is copied.
// Of the zero one nothing is known: the copy is of one moment then, as after a power cut, or
// it is refused.
type Copying struct {
	// Still says that nobody writes to it until the copy is made.
	Still bool
	// Moment, where set, runs what takes the volume as it is at one moment, and holds back
	// what writes to it meanwhile.
	Moment func(take func() error) error
}

// CreateSnapshot asks for a snapshot of a volume.
type CreateSnapshot struct {
	Name     string
	VolumeID string
	Copying  Copying
}

// CreateImage asks for a new image of a volume's content.
type CreateImage struct {
	Name       string
	VolumeID   string
	DiskFormat string            // raw; in a cloud also what else its Cinder makes
	Properties map[string]string // beside those of the image that the volume was made of
	Copying    Copying
	// Progress, when set, is told the bytes done and the bytes in all.
	Progress func(done, total int64)
}

// ExportVolume asks for the content of a volume in a file.
type ExportVolume struct {
	VolumeID   string
	DiskFormat string   // raw or qcow2
	To         *os.File // an empty regular file, or a stream
	Copying    Copying
	// Progress, when set, is told the bytes done and the bytes in all.
	Progress func(done, total int64)
}

// ManageVolume asks that a block device of this host becomes a volume as it is.
type ManageVolume struct {
	Device   string // its path
	Name     string
	Bootable bool
	ReadOnly bool
	Metadata map[string]string
}

// UpdateVolume asks for changes of a volume; what is nil stays as it is.
type UpdateVolume struct {
	Name     *string
	Bootable *bool
	Metadata map[string]string // beside what there is
}

// UpdateImage asks for changes of an image; what is nil stays as it is.
type UpdateImage struct {
	Name       *string
	Properties map[string]string // beside what there is
}

// ImportImage asks for a new image from a file on this host.
type ImportImage struct {
	Name       string
	Path       string
	Content    *os.File // what Path names, open for reading, and closed then; nil: Path is opened
	DiskFormat string   // as the user said it; empty: detect
	MinDisk    int      // GiB
	MinRAM     int      // MiB
	Properties map[string]string
	// Warn, when set, is told what does not keep the image from being made.
	Warn func(text string)
	// Progress, when set, is told the bytes done and the bytes in all.
	Progress func(done, total int64)
}

// Connection says how a reserved volume is reached, in the form of Cinder's
// connection_info. Data may hold secrets: it is never saved, printed or logged.
type Connection struct {
	Driver   string         // driver_volume_type: local, nfs, iscsi, rbd, …
	Data     map[string]any // as the store's driver gave it
	ReadOnly bool           // access_mode ro
}
