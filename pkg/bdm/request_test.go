package bdm

import (
	"errors"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// show is mappings as specs, a line each.
func show(all []Mapping) string {
	var lines []string
	for _, m := range all {
		lines = append(lines, m.String())
	}
	return strings.Join(lines, "\n")
}

// TestMappings: the order on the wire, and each shortcut.
func TestMappings(t *testing.T) {
	for name, c := range map[string]struct {
		r    Request
		want []string
	}{
		"image":                {Request{Image: "i"}, []string{"source=image,id=i,dest=local,bootindex=0,shutdown=remove,type=disk"}},
		"image and a device":   {Request{Image: "i", BlockDevices: []string{"id=v,source=volume"}}, []string{"source=image,id=i,dest=local,bootindex=0,shutdown=remove", "source=volume,id=v,dest=volume,shutdown=preserve"}},
		"boot volume":          {Request{BootVolume: "v"}, []string{"source=volume,id=v,dest=volume,bootindex=0,shutdown=preserve"}},
		"snapshot":             {Request{Snapshot: "s"}, []string{"source=snapshot,id=s,dest=volume,bootindex=0,shutdown=preserve"}},
		"boot from volume":     {Request{Image: "i", BootFromVolume: "3"}, []string{"source=image,id=i,dest=volume,size=3,bootindex=0,shutdown=preserve"}},
		"and deleted":          {Request{Image: "i", BootFromVolume: "3", DeleteOnTermination: true}, []string{"source=image,id=i,dest=volume,size=3,bootindex=0,shutdown=remove"}},
		"the blueprint, image": {Request{BlockDevices: []string{"source=image,id=i,dest=volume,size=4,shutdown=PRESERVE,bootindex=0"}}, []string{"source=image,id=i,dest=volume,size=4,bootindex=0,shutdown=preserve"}},
		"the order": {Request{
			Swap: "64", Ephemerals: []string{"size=1,mount=/mnt", "format=xfs"}, BootVolume: "v",
			BlockDevices: []string{"source=blank,dest=volume,size=1", `[{"uuid":"j","source_type":"image","volume_size":2},{"source":"volume","id":"w"}]`, "source=snapshot,id=s"},
		}, []string{
			"source=volume,id=v,dest=volume,bootindex=0,shutdown=preserve",
			"source=blank,dest=volume,size=1,shutdown=preserve",
			"source=image,id=j,dest=volume,size=2,shutdown=preserve",
			"source=volume,id=w,dest=volume,shutdown=preserve",
			"source=snapshot,id=s,dest=volume,shutdown=preserve",
			"source=blank,dest=local,size=1,bootindex=-1,shutdown=remove,mount=/mnt",
			"source=blank,dest=local,bootindex=-1,shutdown=remove,format=xfs",
			"source=blank,dest=local,size=64,bootindex=-1,shutdown=remove,format=swap",
		}},
		"legacy": {Request{Image: "i", Legacy: []string{"vdb=v:::yes", "/dev/vdc=s:snap:2", "sdd=j:image:3:off", "vde=w:vol"}}, []string{
			"source=image,id=i,dest=local,bootindex=0,shutdown=remove,type=disk",
			"source=volume,id=v,dest=volume,bootindex=-1,shutdown=remove,device=vdb",
			"source=snapshot,id=s,dest=volume,size=2,bootindex=-1,shutdown=preserve,device=vdc",
			"source=image,id=j,dest=volume,size=3,bootindex=-1,shutdown=preserve,device=sdd",
			"source=volume,id=w,dest=volume,bootindex=-1,shutdown=preserve,device=vde",
		}},
		"a JSON file": {Request{BootVolume: "v", BlockDevices: []string{"a=b.json"}, Files: map[string][]byte{"a=b.json": []byte(`{"size":1,"bootindex":-2}`)}}, []string{
			"source=volume,id=v,dest=volume,bootindex=0,shutdown=preserve",
			"source=blank,dest=local,size=1,bootindex=-1,shutdown=remove",
		}},
		"legacy root": {Request{Legacy: []string{"vdb=w", "vda=v"}}, []string{
			"source=volume,id=w,dest=volume,bootindex=-1,shutdown=preserve,device=vdb",
			"source=volume,id=v,dest=volume,bootindex=0,shutdown=preserve,device=vda",
		}},
	} {
		all, err := Mappings(c.r)
		if got, want := show(all), strings.Join(c.want, "\n"); err != nil || got != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, want)
		}
	}
}

func TestMappingsRefused(t *testing.T) {
	volume := func(specs ...string) Request { return Request{BootVolume: "v", BlockDevices: specs} }
	for _, c := range []struct {
		r    Request
		want string
	}{
		// a.4: what flags say against each other.
		{Request{}, "you need to specify at least one source ID"},
		{Request{Image: "i", Snapshot: "s"}, "only one of --image, --boot-volume and --snapshot may be given"},
		{Request{Image: "i", BootVolume: "v", Snapshot: "s"}, "only one of"},
		{Request{Legacy: []string{"vda=v"}, Swap: "1"}, "you can't mix old block devices"}, // B2
		{Request{Legacy: []string{"vda=v"}, BlockDevices: []string{"size=1"}}, "you can't mix old block devices"},
		{Request{Legacy: []string{"vdb=v"}, BootVolume: "v"}, "you can't mix old block devices"},
		{Request{Legacy: []string{"vdb=v"}, Image: "i", BootFromVolume: "1"}, "you can't mix old block devices"},
		{Request{Image: "i", MinCount: "0"}, "min_count should be >= 1"},
		// a.6
		{Request{BootFromVolume: "3"}, "An image (--image or --image-with) is required to support --boot-from-volume option"},
		{Request{BootFromVolume: "3", Image: "i", BootVolume: "v"}, "--boot-volume is not allowed with --boot-from-volume"},
		{Request{BootFromVolume: "3", Snapshot: "s"}, "--snapshot is not allowed with --boot-from-volume"},
		{Request{Image: "i", DeleteOnTermination: true}, "--delete-on-termination can only be used with --boot-from-volume"},
		{Request{Image: "i", BootFromVolume: "0"}, `--boot-from-volume "0": the size: 0 is less than`},
		{Request{Image: "i", BootFromVolume: "big"}, `the size "big" is not a whole number of GiB`},
		// Ids outside of specs.
		{Request{Image: "/tmp/disk.raw"}, `--image "/tmp/disk.raw": "/tmp/disk.raw" is a path`},
		{Request{BootVolume: " v"}, `--boot-volume " v": the id " v" has characters`},
		{Request{Snapshot: strings.Repeat("s", 256)}, "the id is too long"},
		// --swap and --ephemeral
		{Request{Image: "i", Swap: "+1"}, `--swap "+1": the size "+1" is not a whole number of MiB`},
		{Request{Image: "i", Swap: "0"}, `--swap "0": the size: 0 is less than the minimum of 1`},
		{Request{Image: "i", Ephemerals: []string{"1"}}, `--ephemeral "1": Expected a comma-separated list`},
		{Request{Image: "i", Ephemerals: []string{"size=1,tag=x"}}, `unknown key "tag"; the keys are size, format, mount`},
		{Request{Image: "i", Ephemerals: []string{"sice=1"}}, `did you mean "size"?`},
		{Request{Image: "i", Ephemerals: []string{"size=0"}}, `--ephemeral "size=0": the size: 0 is less`},
		{Request{Image: "i", Ephemerals: []string{"size=1,format=swap"}}, "use --swap"},
		{Request{Image: "i", Ephemerals: []string{"format=vfat"}}, `a filesystem of type "vfat" cannot be made; the formats are ext2, ext3, ext4, xfs, btrfs, none and swap`},
		{Request{Image: "i", Ephemerals: []string{"mount=/a", "mount=/a"}}, "two devices are mounted at /a"},
		// a.5
		{Request{Legacy: []string{"v"}}, "expected <device>=<id>"},
		{Request{Legacy: []string{"console=v"}}, `the device name "console"`},
		{Request{Legacy: []string{"vda="}}, "the id is empty"},
		{Request{Legacy: []string{"vda=v:volum"}}, `the type "volum" is not one of volume, snapshot (or snap), image`},
		{Request{Legacy: []string{"vda=v::x"}}, `the size "x"`},
		{Request{Legacy: []string{"vda=v::2147483648"}}, "greater than the maximum"},
		{Request{Legacy: []string{"vda=v:::maybe"}}, `delete on termination is "maybe"`},
		{Request{Legacy: []string{"vda=v:::1:x"}}, "it has 5 parts after the device, and at most 4"},
		{Request{Legacy: []string{"vda=v", "/dev/vda=w"}}, "/dev/vda is given twice"},
		{Request{Image: "i", Legacy: []string{"vda=v"}}, "with --image the root is made from the image"},
		// B3, in its order
		{volume("source=blank,id=x"), "Invalid device UUID."},                                                                             // 1
		{volume("source=volume"), "Missing device UUID."},                                                                                 // 2
		{volume("source=image"), "Missing device UUID."},                                                                                  // 2
		{volume("source=image,id=i"), "Mapping image to local is not supported."},                                                         // 3
		{volume("source=image,id=i,volume_type=t"), "Mapping image to local is not supported."},                                           // 3 before 4
		{Request{Image: "i", BlockDevices: []string{"source=image,id=j,dest=local,bootindex=1"}}, "Mapping image to local"},               // 3
		{Request{BlockDevices: []string{"source=image,id=i,dest=local,bootindex=0"}}, "Mapping image to local"},                           // 3
		{volume("source=blank,dest=local,volume_type=t"), "Specifying a volume_type with destination_type=local is not supported."},       // 4
		{volume("source=volume,id=w,dest=local,volume_type=t"), "Specifying a volume_type with destination_type=local is not supported."}, // 4 before 5
		{volume("source=volume,id=w,volume_type=t"), "Specifying volume type to existing volume is not supported."},                       // 5
		// What Nova lets pass and a container cannot have.
		{volume("source=volume,id=w,dest=local"), "a volume cannot become a local disk; use dest=volume"},
		{volume("source=snapshot,id=w,dest=local"), "a snapshot cannot become a local disk"},
		{Request{BlockDevices: []string{"source=blank,dest=volume,size=1,bootindex=0"}}, "a blank device has nothing to boot from"},
		{Request{BlockDevices: []string{"size=1,bootindex=0"}}, "a blank device has nothing to boot from"},
		{volume("source=volume,id=w,type=cdrom"), "a container has disks only, and no cdrom"},
		{volume("source=blank,dest=volume,size=1,format=swap"), "swap is made with source=blank,dest=local"},
		{volume("source=volume,id=w,format=swap"), "swap is made with"},
		{volume("source=blank,size=1,format=ntfs"), `a filesystem of type "ntfs" cannot be made`},
		{Request{BlockDevices: []string{"source=volume,id=w,bootindex=0,mount=/x"}}, "the root is mounted at /"},
		{Request{Image: "i", BlockDevices: []string{"source=volume,id=w,overlay=tmpfs"}}, "an overlay is for the root"},
		{volume("source=blank,size=1,format=none,mount=/x"), "no filesystem to mount; give it one with format="},
		{volume("source=blank,dest=volume,size=1,mount=/x"), "no filesystem to mount"},
		{volume("source=blank,size=1,format=swap,mount=/x"), "no filesystem to mount"},
		{volume("source=blank,size=1,format=swap,readonly=yes"), "swap is there to be written to"},
		{volume("source=volume,id=a,mount=/x", "source=volume,id=b,mount=/x"), "two devices are mounted at /x"},
		// Where it was said, as it was said.
		{volume("source=blank,SIZE=1"), `--block-device "source=blank,SIZE=1": unknown key "SIZE"`},
		{volume(`{"source":"blank","id":"x"}`), `--block-device "source=blank,id=x": Invalid device UUID.`},
		{volume(`{"source":"blank"`), "it is not valid JSON"},
		{Request{Legacy: []string{"vdb=i:image"}, Image: "i", DeleteOnTermination: true}, "--delete-on-termination can only"},
		{Request{BootVolume: "v", BlockDevices: []string{"f"}, Files: map[string][]byte{"f": []byte(`[{"size":1},{"size":"x"}]`)}}, `--block-device f (device 2) "size=x": the size "x"`},
		{Request{Image: "i", MaxCount: "1001"}, "max_count should be <= 1000"},
	} {
		all, err := Mappings(c.r)
		if err == nil {
			t.Errorf("%+v: no error, but\n%s", c.r, show(all))
			continue
		}
		if !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %q\nlacks %q", c.r, err, c.want)
		}
	}
	for _, good := range []string{
		"source=blank,size=1,mount=/x", "source=blank,dest=volume,size=1,format=ext4,mount=/x", "source=volume,id=w,mount=/x",
		"source=image,id=i,dest=volume,size=1,mount=/x,readonly=yes", "source=volume,id=w,format=vfat", "source=volume,id=w,type=disk",
	} {
		if _, err := Mappings(volume(good)); err != nil {
			t.Error(err)
		}
	}
}

func TestNeedsFilesystem(t *testing.T) {
	for spec, want := range map[string]bool{
		"source=blank": true, "source=blank,format=xfs": true, "source=blank,format=none": false, "source=blank,format=swap": false,
		"source=blank,dest=volume": false, "source=blank,dest=volume,format=ext4": true, "source=blank,dest=volume,format=none": false,
		"source=volume,id=v,format=ext4": false, "source=image,id=i,dest=volume": false,
	} {
		if m, err := parse(spec); err != nil || m.NeedsFilesystem() != want {
			t.Errorf("%s: %t, %v", spec, m.NeedsFilesystem(), err)
		}
	}
}

func TestCheckFlags(t *testing.T) {
	for _, c := range []struct {
		r    Request
		want string // empty: no error
	}{
		{Request{Flavor: "f"}, ""},
		{Request{Flavor: "f", ImageWith: []string{"os=debian", "a=b=c", "x="}, MinCount: "2", MaxCount: "2"}, ""},
		{Request{MinCount: "0"}, "you need to specify a Flavor ID."},
		{Request{Flavor: "f", Image: "i", ImageWith: []string{"a=b"}}, "--image and --image-with"},
		{Request{Flavor: "f", ImageWith: []string{"foo"}, MinCount: "0"}, "argument --image-with: 'foo' is not in the format of 'key=value'"},
		{Request{Flavor: "f", ImageWith: []string{"=x"}}, "'=x' is not in the format"},
		{Request{Flavor: "f", MinCount: "0"}, "min_count should be >= 1"},
		{Request{Flavor: "f", MinCount: "some"}, `min_count should be >= 1, and a whole number: it is "some"`},
		{Request{Flavor: "f", MaxCount: "-1"}, "max_count should be >= 1"},
		{Request{Flavor: "f", MinCount: "3", MaxCount: "1"}, "min_count should be <= max_count"},
	} {
		err := c.r.CheckFlags()
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v\nwant %q", c.r, err, c.want)
		}
	}
	for _, c := range []struct {
		minCount, maxCount string
		least, most        int
	}{{"", "", 1, 1}, {"3", "", 3, 3}, {"", "4", 1, 4}, {"2", "4", 2, 4}} {
		least, most, err := Request{MinCount: c.minCount, MaxCount: c.maxCount}.Counts()
		if err != nil || least != c.least || most != c.most {
			t.Errorf("%+v: %d, %d, %v", c, least, most, err)
		}
	}
}

func TestMatchImage(t *testing.T) {
	images := []ImageProperties{
		{"1", "plain", nil},
		{"2", "old", map[string]string{"os": "debian", "release": "11"}},
		{"3", "new", map[string]string{"os": "debian", "release": "12", "empty": ""}},
	}
	for _, c := range []struct {
		with          []string
		id, says, err string
	}{
		{[]string{"os=debian", "release=12"}, "3", "", ""},
		{[]string{"os=debian"}, "2", "2 images match --image-with; the first is used: old (2)", ""},
		{[]string{"empty="}, "3", "", ""},
		{[]string{"os=arch"}, "", "", "No images match the property expected by --image-with (os=arch)"},
		{[]string{"os"}, "", "", "'os' is not in the format"},
	} {
		id, warning, err := Request{ImageWith: c.with}.MatchImage(images)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if id != c.id || warning != c.says || !strings.Contains(text, c.err) || (err != nil) != (c.err != "") {
			t.Errorf("%q: %q, %q, %v", c.with, id, warning, err)
		}
	}
	if _, _, err := (Request{ImageWith: []string{"os=arch"}}).MatchImage(images); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
