package bdm

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// SourceType is what a device is made from.
type SourceType string

// DestinationType is where a device lives.
type DestinationType string

// The types, in the API's words.
const (
	SourceImage    SourceType = "image"
	SourceVolume   SourceType = "volume"
	SourceSnapshot SourceType = "snapshot"
	SourceBlank    SourceType = "blank"

	DestVolume DestinationType = "volume"
	DestLocal  DestinationType = "local"
)

// The guest formats that are not a filesystem.
const (
	FormatSwap = "swap"
	FormatNone = "none" // a block device as it is
)

// The overlays of a root. Without a word of it, one that cannot be written to has
// OverlayMemory.
const (
	OverlayNone   = "none"
	OverlayMemory = "tmpfs"     // what is written goes with the container's end
	OverlayDisk   = "ephemeral" // it is on a disk that goes with the instance
)

// Formats are the filesystems that can be made on a blank device.
func Formats() []string { return []string{"ext2", "ext3", "ext4", "xfs", "btrfs"} }

// Mapping is a block device mapping with every default set. In JSON it has the
// words of Nova's API, and mount and readonly beside them.
type Mapping struct {
	Source              SourceType      `json:"source_type"`
	Dest                DestinationType `json:"destination_type"`
	ID                  string          `json:"uuid,omitempty"`        // of the source, or its name until the caller has looked it up
	Size                int             `json:"volume_size,omitempty"` // GiB, for swap MiB; 0: not said
	BootIndex           *int            `json:"boot_index"`            // 0: the root; nil or negative: not booted from
	DeleteOnTermination bool            `json:"delete_on_termination"`
	DeviceName          string          `json:"device_name,omitempty"` // with /dev/ in front
	DiskBus             string          `json:"disk_bus,omitempty"`
	DeviceType          string          `json:"device_type,omitempty"`
	GuestFormat         string          `json:"guest_format,omitempty"` // a filesystem, FormatSwap or FormatNone
	Tag                 string          `json:"tag,omitempty"`
	VolumeType          string          `json:"volume_type,omitempty"`
	MountPath           string          `json:"mount,omitempty"`     // beyond Nova: absolute and clean
	ReadOnly            bool            `json:"readonly,omitempty"`  // beyond Nova
	Overlay             string          `json:"overlay,omitempty"`   // beyond Nova, of a root: see OverlayMemory
	Partition           string          `json:"partition,omitempty"` // beyond Nova: see rootfs.Selection
	Subvolume           string          `json:"subvolume,omitempty"` // beyond Nova: see rootfs.Selection
	Upper               bool            `json:"upper,omitempty"`     // beyond Nova: it is the disk of OverlayDisk
	Grow                bool            `json:"grow,omitempty"`      // beyond Nova: its filesystem is made as large as it is
}

// Root says whether it is the root: the device of boot index 0.
func (m Mapping) Root() bool { return m.BootIndex != nil && *m.BootIndex == 0 }

// Swap says whether it is swap space.
func (m Mapping) Swap() bool {
	return m.Source == SourceBlank && m.Dest == DestLocal && m.GuestFormat == FormatSwap
}

// Ephemeral says whether it is a blank disk that comes and goes with the instance.
func (m Mapping) Ephemeral() bool {
	return m.Source == SourceBlank && m.Dest == DestLocal && !m.Swap()
}

// NeedsFilesystem says whether a filesystem has to be made on the device before the
// container has it: of the type GuestFormat, or of the caller's choice when that is
// empty.
func (m Mapping) NeedsFilesystem() bool {
	return m.Source == SourceBlank && !m.Swap() && m.GuestFormat != FormatNone && (m.GuestFormat != "" || m.Dest == DestLocal)
}

// MaxSize is the largest size of a device, as in Nova's schema.
const MaxSize = 1<<31 - 1

var (
	validSize      = regexp.MustCompile(`^[0-9]+$`)
	validIndex     = regexp.MustCompile(`^-?[0-9]+$`)
	validPartition = regexp.MustCompile(`^[1-9][0-9]{0,8}$`)
	validDevice    = regexp.MustCompile(`^(/dev/)?(vd|sd|hd|xvd|ubd)[a-z]{1,3}$`)
)

// Mapping makes the spec into a mapping: with novaclient's defaults, and held to the
// schema of Nova's API. Errors are *SpecError.
func (s Spec) Mapping() (Mapping, error) {
	return s.mapping(origin{flagDevice, s.String()})
}

func (s Spec) mapping(from origin) (Mapping, error) {
	value := func(key, fallback string) string {
		if v, _ := s.get(key); v != "" {
			return v
		}
		return fallback
	}
	m := Mapping{Source: SourceType(value("source", string(SourceBlank)))}
	dest := DestVolume
	if m.Source == SourceBlank || m.Source == SourceImage {
		dest = DestLocal
	}
	m.Dest = DestinationType(value("dest", string(dest)))
	m.DeleteOnTermination = m.Dest == DestLocal
	m.VolumeType, m.DiskBus, m.DeviceType = value("volume_type", ""), value("bus", ""), value("type", "")
	m.GuestFormat = strings.ToLower(value("format", ""))
	m.Overlay = value("overlay", "")
	m.ReadOnly = value("readonly", "no") == "yes" || m.Overlay == OverlayMemory || m.Overlay == OverlayDisk

	for _, p := range s.pairs {
		reason := ""
		switch p.key {
		case "id":
			m.ID, reason = p.value, badID(p.value, m.Source)
		case "size":
			m.Size, reason = parseSize(p.value, m.unit())
		case "bootindex":
			n, err := strconv.Atoi(p.value)
			if !validIndex.MatchString(p.value) || err != nil {
				reason = fmt.Sprintf("the boot index %q is not a whole number; 0 is the root, and -1, or none at all, a device that is not booted from", p.value)
			}
			n = max(n, -1) // as in Nova, all negative ones say the same
			m.BootIndex = &n
		case "shutdown":
			m.DeleteOnTermination = p.value == "remove"
		case "device":
			m.DeviceName, reason = parseDevice(p.value)
		case "format":
			if p.value == "" {
				reason = "the format is empty; leave the key out, or give " + strings.Join(Formats(), ", ") + ", none or swap"
			}
		case "tag":
			if m.Tag = p.value; !ValidTag(p.value) {
				reason = badTag(p.value)
			}
		case "volume_type":
			if p.value == "" || utf8.RuneCountInString(p.value) > 255 {
				reason = "the volume type is too long, or empty: 1 to 255 characters are allowed"
			}
		case "mount":
			m.MountPath, reason = p.value, badMountPath(p.value)
		case "partition":
			m.Partition, reason = p.value, badPartition(p.value)
		case "subvolume":
			m.Subvolume, reason = p.value, badSubvolume(p.value)
		}
		if reason != "" {
			return Mapping{}, from.fail(p.key, p.value, "%s", reason)
		}
	}
	return m, nil
}

// unit is what the size counts.
func (m Mapping) unit() string {
	if m.Swap() {
		return "MiB"
	}
	return "GiB"
}

// parseSize reads a size as Nova's schema has it.
func parseSize(text, unit string) (size int, reason string) {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case !validSize.MatchString(text):
		return 0, fmt.Sprintf("the size %q is not a whole number of %s", text, unit)
	case err != nil || n > MaxSize:
		return 0, fmt.Sprintf("the size: %s is greater than the maximum of %d", text, MaxSize)
	case n < 1:
		return 0, fmt.Sprintf("the size: %d is less than the minimum of 1", n)
	}
	return int(n), ""
}

// ValidTag says whether text can be a tag, of a device or of an instance.
func ValidTag(text string) bool {
	return text != "" && utf8.RuneCountInString(text) <= 60 && !strings.ContainsAny(text, ",/")
}

// badTag has Nova's words where it is the characters that are wrong.
func badTag(text string) string {
	if strings.ContainsAny(text, ",/") {
		return fmt.Sprintf("the tag %q does not match '^[^,/]*$': it must have no '/' and no ','", text)
	}
	return fmt.Sprintf("the tag %q is too long, or empty: it must have 1 to 60 characters", text)
}

// parseDevice reads a device name. It becomes a node in the container's /dev, so
// only names of disks are taken: Nova's schema would let it be null or tty.
func parseDevice(text string) (name, reason string) {
	if !validDevice.MatchString(text) {
		return "", fmt.Sprintf("the device name %q is not one of a disk; give a name like vdb or /dev/vdb (vd, sd, hd, xvd or ubd, and one to three letters)", text)
	}
	return "/dev/" + strings.TrimPrefix(text, "/dev/"), ""
}

// badID says why text cannot be an id or a name. Nova takes ids alone; here a name
// will do, and names have almost any form; and for a volume the path of a device.
func badID(text string, source SourceType) string {
	switch {
	case text == "":
		return "the id is empty; give the id or the name of what the device is made from"
	case utf8.RuneCountInString(text) > 255:
		return "the id is too long: at most 255 characters are allowed"
	case strings.HasPrefix(text, "/") && source != SourceVolume, strings.HasPrefix(text, "./"), strings.HasPrefix(text, "../"):
		return fmt.Sprintf("%q is a path, and not the id or the name of an image, volume or snapshot; import a file as an image first. Of a device of this host source=volume makes a volume, by its absolute path", text)
	case !printable(text) || strings.TrimSpace(text) != text:
		return fmt.Sprintf("the id %q has characters that cannot be printed, or spaces around it", text)
	}
	return ""
}

// What libvirt itself mounts in every container.
var ownMounts = []string{"/proc", "/sys", "/dev"}

// badMountPath says why a filesystem cannot be mounted there.
func badMountPath(text string) string {
	switch {
	case !path.IsAbs(text) || path.Clean(text) != text || len(text) > 4095:
		return fmt.Sprintf("the mount path %q is not an absolute path without '..', '//' or a '/' at its end", text)
	case text == "/":
		return "a device is mounted at / by making it the root, with bootindex=0"
	}
	for _, own := range ownMounts {
		if text == own || strings.HasPrefix(text, own+"/") {
			return fmt.Sprintf("the mount path %q is below %s, which every container has of its own", text, own)
		}
	}
	return ""
}

// badPartition says why text names no partition.
func badPartition(text string) string {
	if !validPartition.MatchString(text) && text != "root" {
		return fmt.Sprintf("the partition %q is neither a number from 1 nor root", text)
	}
	return ""
}

// badSubvolume says why text is no subvolume's path.
func badSubvolume(text string) string {
	if text == "" || path.Clean("/"+text) != "/"+text || !printable(text) || strings.Contains(text, ",") || len(text) > 4000 {
		return fmt.Sprintf("the subvolume %q is neither auto nor a path from the top of its btrfs without a '/' in front, as in @ or root", text)
	}
	return ""
}

// The properties of an image or volume that say which filesystem of it is meant, where no
// spec does.
const (
	PartitionProperty = "lxcboot_partition"
	SubvolumeProperty = "lxcboot_subvolume"
)

// Inherit takes what properties of its image or volume say of the filesystem of a device
// that is mounted. owner names in an error whose they are.
func (m *Mapping) Inherit(properties map[string]string, owner string) error {
	if !m.Root() && m.MountPath == "" {
		return nil
	}
	for _, p := range []struct {
		field *string
		name  string
		bad   func(string) string
	}{{&m.Partition, PartitionProperty, badPartition}, {&m.Subvolume, SubvolumeProperty, badSubvolume}} {
		value := properties[p.name]
		if *p.field != "" || value == "" {
			continue
		}
		if reason := p.bad(value); reason != "" {
			return failure.Invalid("the property %s of %s: %s", p.name, owner, reason)
		}
		*p.field = value
	}
	return nil
}

// check applies the rules of Nova's API for one device (its from_api), and then those
// that a container adds. image says that the boot has --image: only then can the root be
// a local disk that is made from an image.
func (m Mapping) check(from origin, image bool) error {
	fail := func(key, value, format string, args ...any) error { return from.fail(key, value, format, args...) }
	switch {
	case m.Source == SourceBlank && m.ID != "":
		return fail("id", m.ID, "Invalid device UUID. A blank device is made from nothing: leave id out, or say with source= what %q is (image, volume or snapshot)", m.ID)
	case m.Source != SourceBlank && m.ID == "":
		return fail("id", "", "Missing device UUID. source=%s needs id=, the id or the name of the %s", m.Source, m.Source)
	case m.Source == SourceImage && m.Dest == DestLocal && !(image && m.Root()):
		return fail("dest", string(m.Dest), "Mapping image to local is not supported. Add dest=volume, or boot from the image itself with --image")
	case m.Dest == DestLocal && m.VolumeType != "":
		return fail("volume_type", m.VolumeType, "Specifying a volume_type with destination_type=local is not supported.")
	case m.Source == SourceVolume && m.VolumeType != "":
		return fail("volume_type", m.VolumeType, "Specifying volume type to existing volume is not supported.")

	// Nova drops these two later, and boots without them.
	case m.Source == SourceVolume && m.Dest == DestLocal, m.Source == SourceSnapshot && m.Dest == DestLocal:
		return fail("dest", string(m.Dest), "a %s cannot become a local disk; use dest=volume", m.Source)
	case m.Root() && m.Source == SourceBlank:
		return fail("bootindex", "0", "a blank device has nothing to boot from; make the root from an image, a volume or a snapshot")
	case m.DeviceType != "" && m.DeviceType != "disk":
		return fail("type", m.DeviceType, "a container has disks only, and no %s; leave type out", m.DeviceType)
	case m.GuestFormat == FormatSwap && !m.Swap():
		return fail("format", m.GuestFormat, "swap is made with source=blank,dest=local, or with --swap")
	case m.Source == SourceBlank && m.GuestFormat != "" && !m.Swap() && m.GuestFormat != FormatNone && !slices.Contains(Formats(), m.GuestFormat):
		return fail("format", m.GuestFormat, "a filesystem of type %q cannot be made; the formats are %s, none and swap", m.GuestFormat, strings.Join(Formats(), ", "))
	case m.Overlay != "" && !m.Root():
		return fail("overlay", m.Overlay, "an overlay is for the root; leave it out, or say bootindex=0")
	case m.Root() && m.MountPath != "":
		return fail("mount", m.MountPath, "the root is mounted at /; mount is for other devices")
	case m.MountPath != "" && m.Source == SourceBlank && !m.NeedsFilesystem():
		return fail("mount", m.MountPath, "the device has no filesystem to mount; give it one with format=, as in format=ext4")
	case m.Partition != "" && (m.Source == SourceBlank || !m.Root() && m.MountPath == ""):
		return fail("partition", m.Partition, "a partition is chosen of what is mounted: of the root, or of a volume with mount=; leave it out")
	case m.Subvolume != "" && (m.Source == SourceBlank || !m.Root() && m.MountPath == ""):
		return fail("subvolume", m.Subvolume, "a subvolume is chosen of what is mounted: of the root, or of a volume with mount=; leave it out")
	case m.Swap() && m.ReadOnly:
		return fail("readonly", "yes", "swap is there to be written to")
	}
	return nil
}

// String is the mapping as a spec, which makes the same mapping again.
func (m Mapping) String() string {
	var pairs []pair
	add := func(key, value string) {
		if value != "" {
			pairs = append(pairs, pair{key, value})
		}
	}
	add("source", string(m.Source))
	add("id", m.ID)
	add("dest", string(m.Dest))
	if m.Size != 0 {
		add("size", strconv.Itoa(m.Size))
	}
	if m.BootIndex != nil {
		add("bootindex", strconv.Itoa(*m.BootIndex))
	}
	if m.DeleteOnTermination {
		add("shutdown", "remove")
	} else {
		add("shutdown", "preserve")
	}
	add("device", strings.TrimPrefix(m.DeviceName, "/dev/"))
	add("format", m.GuestFormat)
	add("mount", m.MountPath)
	if m.ReadOnly {
		add("readonly", "yes")
	}
	add("overlay", m.Overlay)
	add("partition", m.Partition)
	add("subvolume", m.Subvolume)
	add("volume_type", m.VolumeType)
	add("tag", m.Tag)
	add("type", m.DeviceType)
	add("bus", m.DiskBus)
	return Spec{pairs}.String()
}
