package bdm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

const gib = 1 << 30

// root is the device of boot index 0; the first, if there are several.
func root(all []Mapping) (Mapping, bool) {
	if i := slices.IndexFunc(all, Mapping.Root); i >= 0 {
		return all[i], true
	}
	return Mapping{}, false
}

// source: there is something to boot from at all, and the image that was asked for.
func (f Facts) source(all []Mapping) error {
	if len(all) == 0 {
		return failure.Invalid("Missing imageRef attribute: there is neither an image nor a block device to boot from")
	}
	if m, ok := root(all); ok && m.Source == SourceImage && m.Dest == DestLocal {
		if _, known := f.Images[m.ID]; !known {
			return failure.Of(ErrNotFound, "Can not find requested image: %s", m.ID)
		}
	}
	return nil
}

// rootExists: what the root is made from is there, and can be booted from.
func (f Facts) rootExists(all []Mapping) error {
	m, _ := root(all)
	id := m.ID
	switch m.Source {
	case SourceImage:
		if _, known := f.Images[m.ID]; !known {
			return invalidMapping(ErrNotFound, "failed to get image %s.", m.ID)
		}
		return nil
	case SourceVolume:
		if _, known := f.Volumes[m.ID]; !known {
			return invalidMapping(ErrNotFound, "failed to get volume %s.", m.ID)
		}
	case SourceSnapshot:
		s, known := f.Snapshots[m.ID]
		if !known {
			return failure.Of(ErrNotFound, "Snapshot %s could not be found.", m.ID)
		}
		id = s.VolumeID
	}
	if v, known := f.Volumes[id]; known && !v.Bootable {
		return failure.Invalid("Block Device %s is not bootable. A root needs a volume that is marked as bootable: lxcboot volume set --bootable %s, if there is a root filesystem on it", id, id)
	}
	return nil
}

// rootName: no other device has the name that the root of an image has.
func (f Facts) rootName(all []Mapping) error {
	r, ok := root(all)
	if !ok || r.Dest != DestLocal {
		return nil // AssignDevices sees to all other names
	}
	for _, m := range all {
		if !m.Root() && m.DeviceName == rootDevice {
			return sameAsRoot()
		}
	}
	return nil
}

func sameAsRoot() error {
	return failure.Invalid("The volume cannot be assigned the same device name as the root device vda. Give it another name, as vdb, or none")
}

// single: several instances cannot have one volume.
func (f Facts) single(all []Mapping) error {
	if f.Count > 1 && slices.ContainsFunc(all, func(m Mapping) bool { return m.Source == SourceVolume }) {
		return failure.Invalid("Cannot attach one or more volumes to multiple instances. Use source=image or source=snapshot, which makes a volume for each")
	}
	return nil
}

// addFlavorDevices adds the ephemeral disk and the swap that the flavor has and
// that the user said nothing of.
func (f Facts) addFlavorDevices(all []Mapping) []Mapping {
	add := func(format string, size int) {
		all = append(all, Mapping{Source: SourceBlank, Dest: DestLocal, GuestFormat: format, Size: size, BootIndex: index(-1), DeleteOnTermination: true})
	}
	if f.Flavor.EphemeralGiB > 0 && !slices.ContainsFunc(all, Mapping.Ephemeral) {
		add("", f.Flavor.EphemeralGiB)
	}
	if f.Flavor.SwapMiB > 0 && !slices.ContainsFunc(all, Mapping.Swap) {
		add(FormatSwap, f.Flavor.SwapMiB)
	}
	return all
}

// rootFits: the flavor, and the size that was asked for, are large enough for the root's
// image. A volume remembers what its image needs; a snapshot needs what its volume does.
func (f Facts) rootFits(all []Mapping) error {
	m, _ := root(all)
	var img volume.Image
	what := fmt.Sprintf("image %s", m.ID)
	switch m.Source {
	case SourceImage:
		img = f.Images[m.ID]
		if img.Status != volume.ImageActive {
			return notActive(m.ID, img)
		}
		// Nova takes an empty value too.
		if drive := img.Properties[ConfigDrive]; !slices.Contains([]string{"", "optional", "mandatory"}, drive) {
			return failure.Invalid("Image's config drive option '%s' is invalid: its property %s is neither optional nor mandatory", drive, ConfigDrive)
		}
	case SourceVolume, SourceSnapshot:
		id := m.ID
		if m.Source == SourceSnapshot {
			id = f.Snapshots[m.ID].VolumeID
		}
		v := f.Volumes[id]
		img, what = volume.Image{MinRAM: v.MinRAM, MinDisk: v.MinDisk}, fmt.Sprintf("the image of volume %s", id)
	}
	if img.MinRAM > f.Flavor.MemoryMiB {
		return failure.Invalid("Flavor's memory is too small for requested image. The flavor has %d MiB, %s needs %d MiB. Use a larger flavor.", f.Flavor.MemoryMiB, what, img.MinRAM)
	}
	if m.Dest == DestVolume {
		// Nova compares the size= of an existing volume with min_disk as well, although
		// that is not the volume's size, and so refuses volumes that are large enough.
		if m.Source != SourceVolume && m.Size > 0 && img.MinDisk > m.Size {
			return failure.Invalid("Volume is smaller than the minimum size specified in image metadata. Volume size is %d bytes, minimum size is %d bytes. Give size=%d (GiB) or more.", inBytes(m.Size), inBytes(img.MinDisk), img.MinDisk)
		}
		return nil
	}
	if m.Source != SourceImage {
		return nil
	}
	const larger = "The flavor has %d GiB, and %s needs %d GiB: use a larger flavor, or boot from a volume (--boot-from-volume %d)"
	have, need := inBytes(f.Flavor.RootGiB), max(img.Size, img.VirtualSize)
	switch {
	case have == 0:
		return failure.Invalid("Only volume-backed servers are allowed for flavors with zero disk. Boot from a volume (--boot-from-volume SIZE), or use a flavor with a disk")
	case need > have:
		return failure.Invalid("Flavor's disk is too small for requested image. Flavor disk is %d bytes, image is %d bytes. "+larger, have, need, f.Flavor.RootGiB, what, wholeGiB(img), wholeGiB(img))
	case inBytes(img.MinDisk) > have:
		return failure.Invalid("Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is %d bytes, minimum size is %d bytes. "+larger, have, inBytes(img.MinDisk), f.Flavor.RootGiB, what, img.MinDisk, img.MinDisk)
	}
	return nil
}

// wholeGiB is an image's size; what does not fill a GiB counts as one.
func wholeGiB(i volume.Image) int64 { return (max(i.Size, i.VirtualSize) + gib - 1) / gib }

func inBytes(sizeGiB int) int64 { return int64(sizeGiB) * gib }

func notActive(id string, img volume.Image) error {
	return failure.Invalid("Image %s is not active. Its status is %q", id, img.Status)
}

func (f Facts) volumesExist(all []Mapping) error {
	for _, m := range all {
		if _, known := f.Volumes[m.ID]; m.Source == SourceVolume && !known {
			return failure.Of(ErrNotFound, "Volume %s could not be found.", m.ID)
		}
	}
	return nil
}

// bootSequence: the boot indexes are 0, 1, 2, …; none and negative ones do not count.
func (f Facts) bootSequence(all []Mapping) error {
	const text = "Boot sequence for the instance and image/block device mapping combination is not valid. "
	var indexes []int
	var roots []string
	for _, m := range all {
		if m.BootIndex != nil && *m.BootIndex >= 0 {
			indexes = append(indexes, *m.BootIndex)
		}
		if m.Root() {
			roots = append(roots, fmt.Sprintf("%s %s", m.Source, m.ID))
		}
	}
	slices.Sort(indexes)
	switch {
	case len(roots) == 0:
		return invalidMapping(failure.ErrInvalid, text+"No device is the root: give one bootindex=0, or use --image, --boot-volume or --snapshot")
	case len(roots) > 1:
		return invalidMapping(failure.ErrInvalid, text+"Only one device can be the root, and %d are: %s", len(roots), strings.Join(roots, ", "))
	}
	for i, n := range indexes {
		if n != i {
			return invalidMapping(failure.ErrInvalid, text+"The boot indexes are %v; they must be 0, 1, 2 and so on, each once", indexes)
		}
	}
	return nil
}

// each: the rules for single devices, device by device.
func (f Facts) each(all []Mapping) error {
	seen := map[string]bool{}
	for _, m := range all {
		if err := f.volumeType(m); err != nil {
			return err
		}
		var err error
		switch m.Source {
		case SourceImage:
			err = f.image(m)
		case SourceVolume:
			if seen[m.ID] {
				return invalidMapping(failure.ErrInvalid, "volume %s is given twice; one device is all that a volume can be", m.ID)
			}
			seen[m.ID] = true
			err = f.volume(m)
		case SourceSnapshot:
			err = f.snapshot(m)
		case SourceBlank:
			if m.Dest == DestVolume && m.Size == 0 {
				err = failure.Invalid("Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size. Give one, as size=1")
			}
		}
		if err != nil {
			return err
		}
		if m.DiskBus != "" && !slices.Contains(buses, m.DiskBus) {
			return invalidMapping(failure.ErrInvalid, "The provided disk bus %s is not valid. It has no meaning for a container: leave it out", m.DiskBus)
		}
	}
	return nil
}

func (f Facts) volumeType(m Mapping) error {
	if m.VolumeType == "" || f.VolumeTypes == nil {
		return nil
	}
	var names []string
	for id, name := range f.VolumeTypes {
		if id == m.VolumeType || name == m.VolumeType {
			return nil
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return failure.Of(ErrNotFound, "Volume type %s could not be found. The types are: %s", m.VolumeType, strings.Join(names, ", "))
}

func (f Facts) image(m Mapping) error {
	img, known := f.Images[m.ID]
	if !known {
		return invalidMapping(ErrNotFound, "failed to get image %s.", m.ID)
	}
	if m.Dest == DestVolume && m.Size == 0 {
		least := max(wholeGiB(img), int64(img.MinDisk), 1)
		return failure.Invalid("Images with destination_type 'volume' need to have a non-zero size specified. Give that of image %s one, as size=%d", cmp.Or(img.Name, m.ID), least)
	}
	return nil
}

func (f Facts) volume(m Mapping) error {
	v := f.Volumes[m.ID]
	held := ""
	if len(v.Attachments) > 0 {
		held = fmt.Sprintf(" It is held by instance %s on host %s.", v.Attachments[0].InstanceID, cmp.Or(v.Attachments[0].Host, "(unknown)"))
	}
	switch {
	case v.Encrypted:
		return failure.Invalid("volume %s is encrypted, and a container cannot be given its key (nor can Nova's)", m.ID)
	case v.Status == volume.StatusAvailable:
		return nil
	case v.Status == volume.StatusInUse && v.Multiattach:
		// As a root or below a mount it would have its filesystem mounted twice.
		if (m.Root() || m.MountPath != "") && !m.ReadOnly && !v.ReadOnly {
			return failure.Of(ErrInUse, "volume %s is in use already, and a filesystem that is mounted twice is destroyed: mount it with readonly=yes, or boot from a copy.%s", m.ID, held)
		}
		return nil
	case v.Status == volume.StatusDownloading: // Cinder would let it be reserved, half full
		return failure.Of(ErrInUse, "Invalid volume: Volume %s is still being made from its image (downloading); wait until it is available.", m.ID)
	}
	return failure.Of(ErrInUse, "Invalid volume: Volume %s status must be available to reserve, but the current status is %s.%s", m.ID, v.Status, held)
}

func (f Facts) snapshot(m Mapping) error {
	if _, known := f.Snapshots[m.ID]; !known {
		return invalidMapping(ErrNotFound, "failed to get snapshot %s.", m.ID)
	}
	return nil
}

// ephemerals: they fit into what the flavor has. One without a size is of all of it.
func (f Facts) ephemerals(all []Mapping) error {
	have, sum := int64(f.Flavor.EphemeralGiB), int64(0)
	for _, m := range all {
		if !m.Ephemeral() {
			continue
		}
		if m.Size == 0 && have == 0 {
			return failure.Invalid("Ephemeral disks requested are larger than the instance type allows. The flavor has none, and one is asked for without a size")
		}
		if m.Size == 0 {
			sum += have
		}
		sum += int64(m.Size)
	}
	if sum > have {
		return failure.Invalid("Ephemeral disks requested are larger than the instance type allows. If no size is given in one block device mapping, flavor ephemeral size will be used. Asked for are %d GiB, and the flavor has %d GiB.", sum, have)
	}
	return nil
}

func (f Facts) swap(all []Mapping) error {
	var swaps []Mapping
	for _, m := range all {
		if m.Swap() {
			swaps = append(swaps, m)
		}
	}
	if len(swaps) > 1 {
		return invalidMapping(failure.ErrInvalid, "More than one swap drive requested.")
	}
	for _, m := range swaps {
		switch {
		case m.Size > f.Flavor.SwapMiB:
			return failure.Invalid("Swap drive requested is larger than instance type allows. Asked for are %d MiB, and the flavor has %d MiB.", m.Size, f.Flavor.SwapMiB)
		case m.Size == 0 && f.Flavor.SwapMiB == 0:
			return failure.Invalid("Swap drive requested is larger than instance type allows. The flavor has none, and one is asked for without a size")
		}
	}
	return nil
}

func (f Facts) local(all []Mapping) error {
	n := 0
	for _, m := range all {
		if m.Dest == DestLocal {
			n++
		}
	}
	if f.MaxLocal >= 0 && n > f.MaxLocal {
		return invalidMapping(failure.ErrInvalid, "You specified more local devices than the limit allows. They are %d, and at most %d are allowed; the root of an image, ephemeral disks and swap count", n, f.MaxLocal)
	}
	return nil
}

// created: what Cinder would refuse when it makes the volumes, which Nova only shows as
// a build that failed.
func (f Facts) created(all []Mapping) error {
	for _, m := range all {
		if m.Dest != DestVolume {
			continue
		}
		var err error
		switch m.Source {
		case SourceImage:
			err = f.createdFromImage(m)
		case SourceSnapshot:
			err = f.createdFromSnapshot(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f Facts) createdFromImage(m Mapping) error {
	img := f.Images[m.ID]
	need := wholeGiB(img)
	switch {
	case img.Status != volume.ImageActive:
		return notActive(m.ID, img)
	case need > int64(m.Size):
		return failure.Invalid("Size of specified image %dGB is larger than volume size %dGB. Give size=%d or more.", need, m.Size, need)
	case img.MinDisk > m.Size:
		return failure.Invalid("Volume size %dGB cannot be smaller than the image minDisk size %dGB. Give size=%d or more.", m.Size, img.MinDisk, img.MinDisk)
	}
	return nil
}

func (f Facts) createdFromSnapshot(m Mapping) error {
	s := f.Snapshots[m.ID]
	switch {
	case s.Status != volume.StatusAvailable:
		return failure.Of(ErrInUse, "Snapshot %s status must be available, but the current status is %s.", m.ID, s.Status)
	case m.Size != 0 && m.Size < s.Size:
		return failure.Invalid("Volume size '%d'GB cannot be smaller than the snapshot size %dGB. They must be >= original snapshot size. Leave size out, or give %d or more.", m.Size, s.Size, s.Size)
	}
	return nil
}
