package bdm

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// world is what the rules are tried on: one of each, and all in order.
func world() Facts {
	return Facts{
		Flavor:      Flavor{MemoryMiB: 512, VCPUs: 1, RootGiB: 2},
		Images:      map[string]volume.Image{"i": {Status: "active", Size: 3 << 28, MinDisk: 1, MinRAM: 64}, "j": {Status: "active", Size: 1 << 20}},
		Volumes:     map[string]volume.Volume{"v": {Status: "available", Size: 4, Bootable: true}, "w": {Status: "available", Size: 2}},
		Snapshots:   map[string]volume.Snapshot{"s": {Status: "available", Size: 3, VolumeID: "v"}, "t": {Status: "available", Size: 3}},
		VolumeTypes: map[string]string{"1": "fast", "2": "slow"},
		MaxLocal:    3,
	}
}

// devices makes the mappings of specs; one that begins with '!' is past what a spec
// lets through.
func devices(t *testing.T, specs ...string) []Mapping {
	t.Helper()
	var all []Mapping
	for _, text := range specs {
		text, odd := strings.CutPrefix(text, "!bus,")
		m, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if odd {
			m.DiskBus = "virtio-scsi"
		}
		all = append(all, m)
	}
	return all
}

const (
	fromImage  = "source=image,id=i,dest=volume,size=2,bootindex=0"
	fromVolume = "source=volume,id=v,bootindex=0"
	fromSnap   = "source=snapshot,id=s,bootindex=0"
	local      = "source=image,id=i,dest=local,bootindex=0"
)

// held is the attachment of a volume that an instance has.
var held = []volume.Attachment{{InstanceID: "web1", Host: "n1"}}

// setImage changes image i of the facts.
func setImage(change func(*volume.Image)) func(*Facts) {
	return func(f *Facts) {
		i := f.Images["i"]
		change(&i)
		f.Images["i"] = i
	}
}

// setVolume changes a volume of the facts.
func setVolume(id string, change func(*volume.Volume)) func(*Facts) {
	return func(f *Facts) {
		v := f.Volumes[id]
		change(&v)
		f.Volumes[id] = v
	}
}

// TestRules has each rule of the API, by its number, and Cinder's.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		rule    string
		devices []string
		change  func(*Facts)
		kind    error
		want    string
	}{
		{"B4 no device", nil, nil, failure.ErrInvalid, "Missing imageRef attribute"},
		{"B4 no image", []string{local}, func(f *Facts) { delete(f.Images, "i") }, ErrNotFound, "Can not find requested image: i"},
		{"B5 image", []string{fromImage}, func(f *Facts) { delete(f.Images, "i") }, ErrNotFound, "Block Device Mapping is Invalid: failed to get image i."},
		{"B5 volume", []string{fromVolume}, func(f *Facts) { delete(f.Volumes, "v") }, ErrNotFound, "Block Device Mapping is Invalid: failed to get volume v."},
		{"B5 snapshot", []string{fromSnap}, func(f *Facts) { delete(f.Snapshots, "s") }, ErrNotFound, "Snapshot s could not be found."},
		{"B5 bootable", []string{fromVolume}, setVolume("v", func(v *volume.Volume) { v.Bootable = false }), failure.ErrInvalid, "Block Device v is not bootable."},
		{"B5 bootable snapshot", []string{fromSnap}, setVolume("v", func(v *volume.Volume) { v.Bootable = false }), failure.ErrInvalid, "Block Device v is not bootable."},
		{"B6 root's name", []string{local, "source=volume,id=w,device=vda"}, nil, failure.ErrInvalid, "The volume cannot be assigned the same device name as the root device vda"},
		{"B6 instances", []string{fromImage, "source=volume,id=w"}, func(f *Facts) { f.Count = 2 }, failure.ErrInvalid, "Cannot attach one or more volumes to multiple instances"},
		{"B6 instances, multiattach", []string{fromVolume}, func(f *Facts) { f.Count = 2; setVolume("v", func(v *volume.Volume) { v.Multiattach = true })(f) }, failure.ErrInvalid, "Cannot attach one or more volumes to multiple instances"},
		{"B7.1", []string{fromImage}, setImage(func(i *volume.Image) { i.Status = "queued" }), failure.ErrInvalid, `Image i is not active. Its status is "queued"`},
		{"B7.1 local", []string{local}, setImage(func(i *volume.Image) { i.Status = "saving" }), failure.ErrInvalid, "Image i is not active."},
		{"B7.2", []string{fromImage}, setImage(func(i *volume.Image) { i.Properties = map[string]string{ConfigDrive: "yes"} }), failure.ErrInvalid, "Image's config drive option 'yes' is invalid"},
		{"B7.3", []string{fromImage}, setImage(func(i *volume.Image) { i.MinRAM = 513 }), failure.ErrInvalid, "Flavor's memory is too small for requested image. The flavor has 512 MiB, image i needs 513 MiB."},
		{"B7.3 volume", []string{fromVolume}, setVolume("v", func(v *volume.Volume) { v.MinRAM = 1024 }), failure.ErrInvalid, "Flavor's memory is too small for requested image."},
		{"B7.3 snapshot", []string{fromSnap}, setVolume("v", func(v *volume.Volume) { v.MinRAM = 1024 }), failure.ErrInvalid, "the image of volume v needs 1024 MiB"},
		{"B7.4", []string{fromImage}, setImage(func(i *volume.Image) { i.MinDisk = 3 }), failure.ErrInvalid, "Volume size is 2147483648 bytes, minimum size is 3221225472 bytes. Give size=3 (GiB) or more."},
		{"B7.4 snapshot", []string{fromSnap + ",size=5"}, setVolume("v", func(v *volume.Volume) { v.MinDisk = 6 }), failure.ErrInvalid, "Volume is smaller than the minimum size specified in image metadata."},
		{"B7.5 bytes", []string{local}, setImage(func(i *volume.Image) { i.Size = 2<<30 + 1 }), failure.ErrInvalid, "Flavor's disk is too small for requested image. Flavor disk is 2147483648 bytes, image is 2147483649 bytes."},
		{"B7.5 virtual size", []string{local}, setImage(func(i *volume.Image) { i.VirtualSize = 3 << 30 }), failure.ErrInvalid, "image is 3221225472 bytes"},
		{"B7.5 min_disk", []string{local}, setImage(func(i *volume.Image) { i.MinDisk = 3 }), failure.ErrInvalid, "Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is 2147483648 bytes, minimum size is 3221225472 bytes."},
		{"B7.5 no disk", []string{local}, func(f *Facts) { f.Flavor.RootGiB = 0 }, failure.ErrInvalid, "Only volume-backed servers are allowed for flavors with zero disk."},
		{"host's machine", []string{fromImage}, onHost("architecture", "aarch64"), failure.ErrInvalid, `its property architecture is "aarch64", and this host has x86_64`},
		{"host's machine, local", []string{local}, onHost("hw_architecture", "PPC64"), failure.ErrInvalid, `"ppc64"`},
		{"host's hypervisor", []string{fromImage}, onHost("hypervisor_type", "qemu"), failure.ErrInvalid, `its property hypervisor_type is "qemu", and this host has lxc`},
		{"host's mode", []string{fromImage}, onHost("hw_vm_mode", "hvm"), failure.ErrInvalid, `its property vm_mode is "hvm"`},
		{"host's machine, volume", []string{fromVolume}, setVolume("v", func(v *volume.Volume) { v.ImageProps = map[string]string{"img_hv_type": "kvm"} }), failure.ErrInvalid, `"kvm"`},
		{"host's machine, snapshot", []string{fromSnap}, setVolume("v", func(v *volume.Volume) { v.ImageProps = map[string]string{"vm_mode": "xen"} }), failure.ErrInvalid, `"xen"`},
		{"B8", []string{fromImage, "source=volume,id=x"}, nil, ErrNotFound, "Volume x could not be found."},
		{"B9.1 none", []string{"source=volume,id=v", "source=volume,id=w,bootindex=-1"}, nil, failure.ErrInvalid, "Boot sequence for the instance and image/block device mapping combination is not valid. No device is the root"},
		{"B9.1 none, and no disk in the flavor", []string{"source=volume,id=v"}, func(f *Facts) { f.Flavor.RootGiB = 0 }, failure.ErrInvalid, "No device is the root"},
		{"B9.1 no root", []string{"source=volume,id=v,bootindex=1"}, nil, failure.ErrInvalid, "No device is the root"},
		{"B9.1 two", []string{fromImage, fromVolume}, nil, failure.ErrInvalid, "Only one device can be the root, and 2 are: image i, volume v"},
		{"B9.1 gap", []string{fromImage, "source=volume,id=w,bootindex=2"}, nil, failure.ErrInvalid, "The boot indexes are [0 2]"},
		{"B9.1 twice", []string{fromImage, "source=volume,id=w,bootindex=1", "source=volume,id=v,bootindex=1"}, nil, failure.ErrInvalid, "The boot indexes are [0 1 1]"},
		{"B9.2a", []string{fromImage + ",volume_type=huge"}, nil, ErrNotFound, "Volume type huge could not be found. The types are: fast, slow"},
		{"B9.2b image", []string{fromVolume, "source=image,id=x,dest=volume,size=1"}, nil, ErrNotFound, "failed to get image x."},
		{"B9.2b size", []string{fromVolume, "source=image,id=i,dest=volume"}, nil, failure.ErrInvalid, "Images with destination_type 'volume' need to have a non-zero size specified"},
		{"B9.2c status", []string{fromVolume}, setVolume("v", func(v *volume.Volume) { v.Status, v.Attachments = "reserved", held }), ErrInUse, "Volume v status must be available to reserve, but the current status is reserved. It is held by instance web1 on host n1."},
		{"B9.2c in use", []string{fromImage, "source=volume,id=w"}, setVolume("w", func(v *volume.Volume) { v.Status = "in-use" }), ErrInUse, "but the current status is in-use."},
		{"B9.2c error", []string{fromImage, "source=volume,id=w"}, setVolume("w", func(v *volume.Volume) { v.Status, v.Multiattach = "error", true }), ErrInUse, "but the current status is error."},
		{"B9.2c downloading", []string{fromVolume}, setVolume("v", func(v *volume.Volume) { v.Status = "downloading" }), ErrInUse, "still being made from its image"},
		{"B9.2c root in use elsewhere", []string{fromVolume}, setVolume("v", func(v *volume.Volume) { v.Status, v.Multiattach, v.Attachments = "in-use", true, held }), ErrInUse, "a filesystem that is mounted twice is destroyed: mount it with readonly=yes, or boot from a copy. It is held by instance web1 on host n1."},
		{"B9.2c mount in use elsewhere", []string{fromImage, "source=volume,id=w,mount=/x"}, setVolume("w", func(v *volume.Volume) { v.Status, v.Multiattach = "in-use", true }), ErrInUse, "mounted twice"},
		{"encrypted", []string{fromVolume}, setVolume("v", func(v *volume.Volume) { v.Encrypted = true }), failure.ErrInvalid, "volume v is encrypted"},
		{"one volume twice", []string{fromVolume, "source=volume,id=v"}, nil, failure.ErrInvalid, "volume v is given twice"},
		{"B9.2d", []string{fromVolume, "source=snapshot,id=x"}, nil, ErrNotFound, "Block Device Mapping is Invalid: failed to get snapshot x."},
		{"B9.2e", []string{fromVolume, "source=blank,dest=volume"}, nil, failure.ErrInvalid, "Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size"},
		{"B9.2f", []string{fromVolume, "!bus,source=blank,dest=volume,size=1"}, nil, failure.ErrInvalid, "Block Device Mapping is Invalid: The provided disk bus virtio-scsi is not valid."},
		{"B9.3", []string{fromVolume, "size=1", "size=2"}, func(f *Facts) { f.Flavor.EphemeralGiB = 2 }, failure.ErrInvalid, "Ephemeral disks requested are larger than the instance type allows."},
		{"B9.3 sizeless", []string{fromVolume, "size=1", "source=blank"}, func(f *Facts) { f.Flavor.EphemeralGiB = 2 }, failure.ErrInvalid, "Asked for are 3 GiB, and the flavor has 2 GiB."},
		{"B9.3 sizeless, flavor has none", []string{fromVolume, "source=blank"}, nil, failure.ErrInvalid, "The flavor has none"},
		{"B9.4 two", []string{fromVolume, "size=1,format=swap", "size=1,format=swap"}, func(f *Facts) { f.Flavor.SwapMiB = 9 }, failure.ErrInvalid, "More than one swap drive requested."},
		{"B9.4 size", []string{fromVolume, "size=10,format=swap"}, func(f *Facts) { f.Flavor.SwapMiB = 9 }, failure.ErrInvalid, "Swap drive requested is larger than instance type allows. Asked for are 10 MiB, and the flavor has 9 MiB."},
		{"B9.4 sizeless, flavor has none", []string{fromVolume, "format=swap"}, nil, failure.ErrInvalid, "Swap drive requested is larger than instance type allows. The flavor has none"},
		{"B9.5", []string{local, "size=1", "size=1", "size=1"}, func(f *Facts) { f.Flavor.EphemeralGiB = 9 }, failure.ErrInvalid, "You specified more local devices than the limit allows. They are 4, and at most 3"},
		{"B9.5 the flavor's own", []string{local}, func(f *Facts) { f.Flavor.EphemeralGiB, f.Flavor.SwapMiB, f.MaxLocal = 1, 1, 2 }, failure.ErrInvalid, "They are 3, and at most 2"},
		{"B10 image", []string{fromVolume, "source=image,id=j,dest=volume,size=1"}, func(f *Facts) { f.Images["j"] = volume.Image{Status: "queued"} }, failure.ErrInvalid, "Image j is not active."},
		{"B10 bytes", []string{fromImage}, setImage(func(i *volume.Image) { i.Size = 2<<30 + 1 }), failure.ErrInvalid, "Size of specified image 3GB is larger than volume size 2GB. Give size=3 or more."},
		{"B10 virtual size", []string{fromImage}, setImage(func(i *volume.Image) { i.VirtualSize = 5 << 30 }), failure.ErrInvalid, "Size of specified image 5GB is larger than volume size 2GB."},
		{"B10 min_disk", []string{fromVolume, "source=image,id=i,dest=volume,size=1"}, setImage(func(i *volume.Image) { i.MinDisk = 2 }), failure.ErrInvalid, "Volume size 1GB cannot be smaller than the image minDisk size 2GB."},
		{"B10 snapshot", []string{fromSnap + ",size=2"}, nil, failure.ErrInvalid, "Volume size '2'GB cannot be smaller than the snapshot size 3GB. They must be >= original snapshot size."},
		{"B10 snapshot's status", []string{fromSnap}, func(f *Facts) { f.Snapshots["s"] = volume.Snapshot{Status: "creating", Size: 3} }, ErrInUse, "Snapshot s status must be available, but the current status is creating."},
		{"two of one name", []string{fromImage, "source=volume,id=v,device=vdb", "source=volume,id=w,device=/dev/vdb"}, nil, failure.ErrInvalid, "two devices have the name /dev/vdb"},
		{"the root's name", []string{fromImage, "source=volume,id=v,device=vda"}, nil, failure.ErrInvalid, "the same device name as the root device vda"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			f := world()
			if c.change != nil {
				c.change(&f)
			}
			given := devices(t, c.devices...)
			before := slices.Clone(given)
			final, _, err := Check(given, f)
			if err == nil || final != nil {
				t.Fatalf("no error; want %q", c.want)
			}
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q (%v)\nlacks %q (%v)", err, errors.Unwrap(err), c.want, c.kind)
			}
			if !reflect.DeepEqual(given, before) {
				t.Error("the mappings that were given are changed")
			}
		})
	}
}

// TestRuleOrder breaks two rules at once: the earlier is the one that is told.
// onHost is a 64-bit PC's boot of an image with a property.
func onHost(key, value string) func(*Facts) {
	return func(f *Facts) {
		f.Machine = "x86_64"
		setImage(func(i *volume.Image) { i.Properties = map[string]string{key: value} })(f)
	}
}

// TestHost boots images that say what this host has, in all the ways to say so.
func TestHost(t *testing.T) {
	for _, prop := range [][2]string{
		{"architecture", "x86_64"}, {"architecture", "AMD64"}, {"architecture", "i386"}, {"hw_architecture", "i686"}, {"architecture", ""},
		{"hypervisor_type", "lxc"}, {"img_hv_type", "LXC"}, {"vm_mode", "exe"}, {"hw_vm_mode", " exe "},
	} {
		f := world()
		onHost(prop[0], prop[1])(&f)
		if _, _, err := Check(devices(t, fromImage), f); err != nil {
			t.Errorf("%v: %v", prop, err)
		}
	}
}

func TestRuleOrder(t *testing.T) {
	add := func(spec string) func(*testing.T, *[]Mapping, *Facts) {
		return func(t *testing.T, all *[]Mapping, _ *Facts) { *all = append(devices(t, spec), *all...) }
	}
	breaks := []struct {
		rule string
		do   func(*testing.T, *[]Mapping, *Facts)
		want string
	}{
		{"B5", func(_ *testing.T, _ *[]Mapping, f *Facts) { delete(f.Images, "i") }, "failed to get image i."},
		{"B6", func(t *testing.T, all *[]Mapping, f *Facts) { f.Count = 2; add("source=volume,id=w")(t, all, f) }, "multiple instances"},
		{"B7.1", func(_ *testing.T, _ *[]Mapping, f *Facts) { setImage(func(i *volume.Image) { i.Status = "queued" })(f) }, "is not active"},
		{"B7.2", func(_ *testing.T, _ *[]Mapping, f *Facts) {
			setImage(func(i *volume.Image) { i.Properties = map[string]string{ConfigDrive: "x"} })(f)
		}, "config drive option"},
		{"B7.3", func(_ *testing.T, _ *[]Mapping, f *Facts) { setImage(func(i *volume.Image) { i.MinRAM = 9999 })(f) }, "memory is too small"},
		{"B7.4", func(_ *testing.T, _ *[]Mapping, f *Facts) { setImage(func(i *volume.Image) { i.MinDisk = 9 })(f) }, "smaller than the minimum size"},
		{"B8", add("source=volume,id=gone"), "Volume gone could not be found."},
		{"B9.1", add("source=volume,id=v,bootindex=7"), "Boot sequence"},
		{"B9.2", add("source=snapshot,id=gone"), "failed to get snapshot gone."},
		{"B9.3", add("size=1000"), "Ephemeral disks"},
		{"B9.4", add("size=1000,format=swap"), "Swap drive requested is larger"},
		{"B9.5", func(t *testing.T, all *[]Mapping, f *Facts) {
			f.MaxLocal, f.Flavor.EphemeralGiB = 0, 1
		}, "more local devices"},
		{"B10", func(_ *testing.T, _ *[]Mapping, f *Facts) { setImage(func(i *volume.Image) { i.Size = 9 << 30 })(f) }, "Size of specified image"},
	}
	for i, first := range breaks {
		for _, second := range breaks[i:] {
			all, f := devices(t, fromImage), world()
			second.do(t, &all, &f)
			if second.rule != first.rule {
				first.do(t, &all, &f)
			}
			if _, _, err := Check(all, f); err == nil || !strings.Contains(err.Error(), first.want) {
				t.Errorf("%s and %s: %v\nwant %s", first.rule, second.rule, err, first.want)
			}
		}
	}
	// The name is looked at only here with an image on local disk.
	f := world()
	setImage(func(i *volume.Image) { i.Status = "queued" })(&f)
	if _, _, err := Check(devices(t, local, "source=snapshot,id=t,device=vda"), f); err == nil || !strings.Contains(err.Error(), "the same device name as the root") {
		t.Errorf("B6 and B7.1: %v", err)
	}
	// Within a device: its type, what it is made from, its bus.
	for want, spec := range map[string]string{"Volume type": "!bus,source=snapshot,id=gone,volume_type=huge", "failed to get": "!bus,source=snapshot,id=gone"} {
		if _, _, err := Check(devices(t, fromImage, spec), world()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", spec, err, want)
		}
	}
}

// TestCheck: what is allowed, and what Check makes of it.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name     string
		devices  []string
		change   func(*Facts)
		want     []string
		warnings []string
	}{
		{"each combination", []string{fromImage, "source=volume,id=w", "source=snapshot,id=t", "source=image,id=j,dest=volume,size=1", "source=blank,dest=volume,size=1"}, nil, []string{
			"source=image,id=i,dest=volume,size=2,bootindex=0,shutdown=preserve,device=vda",
			"source=volume,id=w,dest=volume,size=2,shutdown=preserve,device=vdb",
			"source=snapshot,id=t,dest=volume,size=3,shutdown=preserve,device=vdc",
			"source=image,id=j,dest=volume,size=1,shutdown=preserve,device=vdd",
			"source=blank,dest=volume,size=1,shutdown=preserve,device=vde",
		}, nil},
		{"the blueprint's volume", []string{"source=volume,id=v,dest=volume,size=4,shutdown=PRESERVE,bootindex=0"}, nil,
			[]string{"source=volume,id=v,dest=volume,size=4,bootindex=0,shutdown=preserve,device=vda"}, nil},
		{"another size", []string{fromVolume + ",size=1"}, nil,
			[]string{"source=volume,id=v,dest=volume,size=4,bootindex=0,shutdown=preserve,device=vda"},
			[]string{"volume v is of 4 GiB, not of the 1 GiB that were given: the volume's own size is used"}},
		// Nova holds min_disk against the size that was said, and refuses this one.
		{"min_disk of a volume", []string{fromVolume + ",size=1"}, setVolume("v", func(v *volume.Volume) { v.MinDisk = 3 }),
			[]string{"source=volume,id=v,dest=volume,size=4,bootindex=0,shutdown=preserve,device=vda"},
			[]string{"the volume's own size is used"}},
		{"snapshot", []string{fromSnap}, nil, []string{"source=snapshot,id=s,dest=volume,size=3,bootindex=0,shutdown=preserve,device=vda"}, nil},
		{"a greater snapshot", []string{fromSnap + ",size=7"}, nil, []string{"source=snapshot,id=s,dest=volume,size=7,bootindex=0,shutdown=preserve,device=vda"}, nil},
		{"a snapshot whose volume is not known", []string{"source=snapshot,id=t,bootindex=0"}, nil, []string{"source=snapshot,id=t,dest=volume,size=3,bootindex=0,shutdown=preserve,device=vda"}, nil},
		{"no disk in the flavor", []string{fromImage}, func(f *Facts) { f.Flavor.RootGiB = 0 }, []string{"source=image,id=i,dest=volume,size=2,bootindex=0,shutdown=preserve,device=vda"}, nil},
		{"as much as there is", []string{local}, setImage(func(i *volume.Image) {
			i.Size, i.MinDisk, i.MinRAM, i.Properties = 2<<30, 2, 512, map[string]string{ConfigDrive: "optional"}
		}), []string{"source=image,id=i,dest=local,bootindex=0,shutdown=remove,device=vda"}, nil},
		{"the flavor's disks", []string{local}, func(f *Facts) { f.Flavor.EphemeralGiB, f.Flavor.SwapMiB = 2, 64 }, []string{
			"source=image,id=i,dest=local,bootindex=0,shutdown=remove,device=vda",
			"source=blank,dest=local,size=2,bootindex=-1,shutdown=remove,device=vdb",
			"source=blank,dest=local,size=64,bootindex=-1,shutdown=remove,format=swap",
		}, nil},
		{"sizes of the flavor", []string{local, "format=xfs", "format=swap"}, func(f *Facts) { f.Flavor.EphemeralGiB, f.Flavor.SwapMiB = 2, 64 }, []string{
			"source=image,id=i,dest=local,bootindex=0,shutdown=remove,device=vda",
			"source=blank,dest=local,size=2,shutdown=remove,device=vdb,format=xfs",
			"source=blank,dest=local,size=64,shutdown=remove,format=swap",
		}, nil},
		{"no limit", []string{local, "size=1", "size=1", "size=1"}, func(f *Facts) { f.Flavor.EphemeralGiB, f.MaxLocal = 3, -1 }, []string{
			"source=image,id=i,dest=local,bootindex=0,shutdown=remove,device=vda",
			"source=blank,dest=local,size=1,shutdown=remove,device=vdb", "source=blank,dest=local,size=1,shutdown=remove,device=vdc", "source=blank,dest=local,size=1,shutdown=remove,device=vdd",
		}, nil},
		{"a type by its id", []string{fromImage + ",volume_type=2"}, nil, []string{"source=image,id=i,dest=volume,size=2,bootindex=0,shutdown=preserve,device=vda,volume_type=slow"}, nil},
		{"a type by its name", []string{fromImage + ",volume_type=fast"}, nil, []string{"source=image,id=i,dest=volume,size=2,bootindex=0,shutdown=preserve,device=vda,volume_type=fast"}, nil},
		{"types not looked up", []string{fromImage + ",volume_type=huge"}, func(f *Facts) { f.VolumeTypes = nil }, []string{"source=image,id=i,dest=volume,size=2,bootindex=0,shutdown=preserve,device=vda,volume_type=huge"}, nil},
		{"multiattach, in use", []string{fromImage, "source=volume,id=w"}, setVolume("w", func(v *volume.Volume) { v.Status, v.Multiattach = "in-use", true }), []string{
			"source=image,id=i,dest=volume,size=2,bootindex=0,shutdown=preserve,device=vda", "source=volume,id=w,dest=volume,size=2,shutdown=preserve,device=vdb",
		}, []string{"volume w is in use elsewhere too"}},
		{"multiattach, read-only", []string{fromVolume + ",readonly=yes"}, setVolume("v", func(v *volume.Volume) { v.Status, v.Multiattach = "in-use", true }),
			[]string{"source=volume,id=v,dest=volume,size=4,bootindex=0,shutdown=preserve,device=vda,readonly=yes"}, nil},
		{"a read-only volume", []string{fromVolume}, setVolume("v", func(v *volume.Volume) { v.ReadOnly = true }),
			[]string{"source=volume,id=v,dest=volume,size=4,bootindex=0,shutdown=preserve,device=vda,readonly=yes"}, []string{"volume v is read-only"}},
		{"without effect", []string{fromVolume + ",bus=virtio,format=ext4", "size=1,format=swap,device=vdb"}, func(f *Facts) { f.Flavor.SwapMiB = 1 }, []string{
			"source=volume,id=v,dest=volume,size=4,bootindex=0,shutdown=preserve,device=vda,format=ext4,bus=virtio", "source=blank,dest=local,size=1,shutdown=remove,format=swap",
		}, []string{"bus=virtio has no meaning", "format=ext4 has no meaning", "device=/dev/vdb has no meaning for swap"}},
		{"several instances", []string{fromImage, "source=snapshot,id=t"}, func(f *Facts) { f.Count = 3 }, []string{
			"source=image,id=i,dest=volume,size=2,bootindex=0,shutdown=preserve,device=vda", "source=snapshot,id=t,dest=volume,size=3,shutdown=preserve,device=vdb",
		}, nil},
		{"vda, when the root has another name", []string{fromVolume + ",device=sda", "source=volume,id=w,device=vda"}, nil, []string{
			"source=volume,id=v,dest=volume,size=4,bootindex=0,shutdown=preserve,device=sda", "source=volume,id=w,dest=volume,size=2,shutdown=preserve,device=vda",
		}, nil},
		{"names", []string{"source=volume,id=w", "source=blank,dest=volume,size=1,device=vdb", fromImage + ",device=sda", "source=blank,dest=volume,size=1"}, nil, []string{
			"source=volume,id=w,dest=volume,size=2,shutdown=preserve,device=vdc", "source=blank,dest=volume,size=1,shutdown=preserve,device=vdb",
			"source=image,id=i,dest=volume,size=2,bootindex=0,shutdown=preserve,device=sda", "source=blank,dest=volume,size=1,shutdown=preserve,device=vdd",
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := world()
			if c.change != nil {
				c.change(&f)
			}
			final, warnings, err := Check(devices(t, c.devices...), f)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := show(final), strings.Join(c.want, "\n"); got != want {
				t.Errorf("\n%s\nwant\n%s", got, want)
			}
			if len(warnings) != len(c.warnings) {
				t.Fatalf("warnings %q, want %q", warnings, c.warnings)
			}
			for i, w := range c.warnings {
				if !strings.Contains(warnings[i], w) {
					t.Errorf("warning %q lacks %q", warnings[i], w)
				}
			}
		})
	}
}

// TestAssignDevices: names past vdz, and a device that is added later.
func TestAssignDevices(t *testing.T) {
	for n, want := range map[int]string{0: "/dev/vda", 25: "/dev/vdz", 26: "/dev/vdaa", 27: "/dev/vdab", 701: "/dev/vdzz", 702: "/dev/vdaaa"} {
		if got := deviceName(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	all := devices(t, fromImage)
	for i := range 60 {
		all = append(all, Mapping{Source: SourceVolume, Dest: DestVolume, ID: fmt.Sprint(i)})
	}
	if err := AssignDevices(all); err != nil {
		t.Fatal(err)
	}
	if last := all[60].DeviceName; last != "/dev/vdbi" {
		t.Error(last)
	}
	all[5].DeviceName = ""
	if err := AssignDevices(all); err != nil || all[5].DeviceName != "/dev/vdf" || all[6].DeviceName != "/dev/vdg" {
		t.Error(all[5], all[6], err)
	}
}

func TestCheckAttach(t *testing.T) {
	have := devices(t, fromVolume+",device=vda", "source=volume,id=w,device=vdb,mount=/srv")
	free := volume.Volume{Status: volume.StatusAvailable, Size: 7}
	for _, c := range []struct {
		spec string
		v    volume.Volume
		want string // the mapping, or a part of the error
	}{
		{"source=volume,id=x", free, "source=volume,id=x,dest=volume,size=7,shutdown=preserve,device=vdc"},
		{"source=volume,id=x,device=vdx,mount=/x", free, "source=volume,id=x,dest=volume,size=7,shutdown=preserve,device=vdx,mount=/x"},
		{"source=volume,id=x", volume.Volume{Status: volume.StatusAvailable, Size: 7, ReadOnly: true}, "source=volume,id=x,dest=volume,size=7,shutdown=preserve,device=vdc,readonly=yes"},
		{"source=blank,dest=volume,size=1", free, "only a volume that exists can be attached"},
		{"source=volume,id=x,bootindex=0", free, "the instance has its root"},
		{"source=volume,id=x,type=lun", free, "a container has disks only"},
		{"source=volume,id=w", free, "has volume w already, as /dev/vdb"},
		{"source=volume,id=x", volume.Volume{Status: volume.StatusInUse}, "the current status is in-use"},
		{"source=volume,id=x", volume.Volume{Status: volume.StatusAvailable, Encrypted: true}, "is encrypted"},
		{"source=volume,id=x,mount=/x", volume.Volume{Status: volume.StatusInUse, Multiattach: true}, "mounted twice"},
		{"source=volume,id=x,mount=/srv", free, "two devices are mounted at /srv"},
		{"source=volume,id=x,device=vdb", free, "two devices have the name /dev/vdb"},
	} {
		before := slices.Clone(have)
		m, _, err := CheckAttach(have, devices(t, c.spec)[0], c.v)
		text := m.String()
		if err != nil {
			text = err.Error()
		}
		if err == nil && text != c.want || !strings.Contains(text, c.want) {
			t.Errorf("%s: %s\nwant %s", c.spec, text, c.want)
		}
		if !reflect.DeepEqual(have, before) {
			t.Fatal("the devices that were there are changed")
		}
	}
	_, warnings, err := CheckAttach(have, devices(t, "source=volume,id=x,size=1")[0], free)
	if err != nil || len(warnings) != 1 {
		t.Error(warnings, err)
	}
}
