package bdm

import (
	"fmt"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// Request is everything on the command line of a boot that makes block devices, or
// that Nova checks together with it. Empty means that a flag was not given.
type Request struct {
	Flavor string // --flavor; CheckFlags asks for it

	Image     string   // --image, or the id that MatchImage found
	ImageWith []string // --image-with, key=value each

	BootVolume string // --boot-volume
	Snapshot   string // --snapshot
	// BlockDevices are the --block-device, each as it was typed: a spec, JSON, or the
	// name of a JSON file, whose content is in Files.
	BlockDevices []string
	Files        map[string][]byte
	Legacy       []string // --block-device-mapping
	Ephemerals   []string // --ephemeral
	Swap         string   // --swap, in MiB
	// BootFromVolume is openstack server create's --boot-from-volume: the size in
	// GiB of the volume that is made from Image. DeleteOnTermination goes with it.
	BootFromVolume      string
	DeleteOnTermination bool

	MinCount, MaxCount string // --min-count, --max-count
}

// The flags, as errors name them.
const (
	flagDevice    = "--block-device"
	flagLegacy    = "--block-device-mapping"
	flagEphemeral = "--ephemeral"
	flagSwap      = "--swap"
)

// device is a mapping and where it came from.
type device struct {
	Mapping
	from origin
}

// CheckFlags holds novaclient's first checks of a boot's flags, those that come
// before anything is looked up.
func (r Request) CheckFlags() error {
	if r.Flavor == "" {
		return failure.Invalid("you need to specify a Flavor ID. Give one with --flavor")
	}
	if r.Image != "" && len(r.ImageWith) > 0 {
		return failure.Invalid("--image and --image-with both say what the image is; give one of them")
	}
	if _, err := r.imageProperties(); err != nil {
		return err
	}
	_, _, err := r.Counts()
	return err
}

// MaxCount is the most instances that one command boots: far more than a host bears,
// and few enough to be planned at once.
const MaxCount = 1000

// Counts are how many instances are to be booted: at least min, and max if that is
// possible. Both are 1 when nothing was said.
func (r Request) Counts() (least, most int, err error) {
	least, most = 1, 1
	for _, c := range []struct {
		name, text string
		set        []*int
	}{{"min_count", r.MinCount, []*int{&least, &most}}, {"max_count", r.MaxCount, []*int{&most}}} {
		if c.text == "" {
			continue
		}
		n, reason := parseSize(c.text, "instances")
		if reason != "" {
			return 0, 0, failure.Invalid("%s should be >= 1, and a whole number: it is %q", c.name, c.text)
		}
		if n > MaxCount {
			return 0, 0, failure.Invalid("%s should be <= %d, which is more than a host bears at once: it is %d", c.name, MaxCount, n)
		}
		for _, p := range c.set {
			*p = n
		}
	}
	if least > most {
		return 0, 0, failure.Invalid("min_count should be <= max_count: they are %d and %d", least, most)
	}
	return least, most, nil
}

// ImageProperties is what --image-with looks at.
type ImageProperties struct {
	ID, Name   string
	Properties map[string]string
}

// MatchImage finds the image of --image-with: as Nova, the first that has all the
// properties, with a warning when there are several.
func (r Request) MatchImage(images []ImageProperties) (id, warning string, err error) {
	want, err := r.imageProperties()
	if err != nil {
		return "", "", err
	}
	var found []ImageProperties
images:
	for _, image := range images {
		for _, p := range want {
			if value, has := image.Properties[p.key]; !has || value != p.value {
				continue images
			}
		}
		found = append(found, image)
	}
	if len(found) == 0 {
		return "", "", failure.Of(ErrNotFound, "No images match the property expected by --image-with (%s)", strings.Join(r.ImageWith, ", "))
	}
	if len(found) > 1 {
		warning = fmt.Sprintf("%d images match --image-with; the first is used: %s (%s)", len(found), found[0].Name, found[0].ID)
	}
	return found[0].ID, warning, nil
}

func (r Request) imageProperties() ([]pair, error) {
	var want []pair
	for _, text := range r.ImageWith {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, failure.Invalid("argument --image-with: '%s' is not in the format of 'key=value'", text)
		}
		want = append(want, pair{key, value})
	}
	return want, nil
}

// Mappings makes the mappings of a boot, in the order in which novaclient sends
// them: the image, the volume or the snapshot to boot from, block devices, ephemeral
// disks, swap. It checks them as far as that is possible without looking anything
// up; Check goes on from there.
func Mappings(r Request) ([]Mapping, error) {
	legacy, err := r.legacy()
	if err != nil {
		return nil, err
	}
	devices, err := r.devices()
	if err != nil {
		return nil, err
	}
	if err := r.exclusions(len(devices) > 0); err != nil {
		return nil, err
	}
	root, err := r.root(len(devices) > 0)
	if err != nil {
		return nil, err
	}
	all := make([]Mapping, 0, 1+len(devices)+len(legacy))
	for _, d := range append(append(root, devices...), legacy...) {
		if err := d.check(d.from, r.Image != ""); err != nil {
			return nil, err
		}
		all = append(all, d.Mapping)
	}
	if _, _, err := r.Counts(); err != nil {
		return nil, err
	}
	if err := CheckMounts(all); err != nil {
		return nil, err
	}
	return all, nil
}

// exclusions refuses flags that exclude each other.
func (r Request) exclusions(devices bool) error {
	roots := 0
	for _, given := range []string{r.Image, r.BootVolume, r.Snapshot} {
		if given != "" {
			roots++
		}
	}
	const noSource = "you need to specify at least one source ID (Image, Snapshot, or Volume), a block device mapping or provide a set of properties to match against an image"
	fromVolume := r.BootFromVolume != ""
	switch {
	case fromVolume && r.BootVolume != "":
		return failure.Invalid("--boot-volume is not allowed with --boot-from-volume: the volume exists already, leave out --boot-from-volume")
	case fromVolume && r.Snapshot != "":
		return failure.Invalid("--snapshot is not allowed with --boot-from-volume: a snapshot becomes a volume anyway, leave out --boot-from-volume")
	case fromVolume && r.Image == "":
		return failure.Invalid("An image (--image or --image-with) is required to support --boot-from-volume option")
	case r.DeleteOnTermination && !fromVolume:
		return failure.Invalid("--delete-on-termination can only be used with --boot-from-volume; with --block-device say shutdown=remove")
	case roots > 1:
		return failure.Invalid("only one of --image, --boot-volume and --snapshot may be given: each of them is the root; give the others as --block-device (Nova says here: %s)", noSource)
	case roots == 0 && !devices && len(r.Legacy) == 0:
		return failure.Invalid("%s: give one of --image, --boot-volume, --snapshot and --block-device", noSource)
	case len(r.Legacy) > 0 && (devices || fromVolume || r.BootVolume != "" || r.Snapshot != ""):
		return failure.Invalid("you can't mix old block devices (--block-device-mapping) with the new ones (--block-device, --boot-volume, --snapshot, --ephemeral, --swap, --boot-from-volume)")
	}
	return nil
}

// root is the device of --image, --boot-volume or --snapshot: one or none.
func (r Request) root(devices bool) ([]device, error) {
	m := Mapping{Dest: DestVolume, BootIndex: index(0)}
	var from origin
	switch {
	case r.BootFromVolume != "":
		size, reason := parseSize(r.BootFromVolume, "GiB")
		if reason != "" {
			return nil, origin{"--boot-from-volume", r.BootFromVolume}.fail("", r.BootFromVolume, "%s", reason)
		}
		from = origin{"--image", r.Image}
		m.Source, m.ID, m.Size, m.DeleteOnTermination = SourceImage, r.Image, size, r.DeleteOnTermination
	case r.Image != "":
		from = origin{"--image", r.Image}
		m.Source, m.ID, m.Dest, m.DeleteOnTermination = SourceImage, r.Image, DestLocal, true
		if !devices { // Nova's API makes it, with a type; beside other devices novaclient does, without
			m.DeviceType = "disk"
		}
	case r.BootVolume != "":
		from = origin{"--boot-volume", r.BootVolume}
		m.Source, m.ID = SourceVolume, r.BootVolume
	case r.Snapshot != "":
		from = origin{"--snapshot", r.Snapshot}
		m.Source, m.ID = SourceSnapshot, r.Snapshot
	default:
		return nil, nil
	}
	if reason := badID(m.ID, m.Source); reason != "" {
		return nil, from.fail("", m.ID, "%s", reason)
	}
	return []device{{m, from}}, nil
}

// devices are those of --block-device, --ephemeral and --swap.
func (r Request) devices() ([]device, error) {
	var all []device
	for _, text := range r.BlockDevices {
		specs, err := r.blockDevice(text)
		if err != nil {
			return nil, err
		}
		for i, s := range specs {
			from := origin{flagDevice, text}
			if _, file := r.Files[text]; file {
				from = origin{fmt.Sprintf("%s %s (device %d)", flagDevice, text, i+1), s.String()}
			} else if isJSON(text) {
				from.text = s.String()
			}
			m, err := s.mapping(from)
			if err != nil {
				return nil, err
			}
			all = append(all, device{m, from})
		}
	}
	for _, text := range r.Ephemerals {
		d, err := ephemeral(text)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	if r.Swap != "" {
		from := origin{flagSwap, r.Swap}
		size, reason := parseSize(r.Swap, "MiB")
		if reason != "" {
			return nil, from.fail("", r.Swap, "%s", reason)
		}
		all = append(all, device{Mapping{Source: SourceBlank, Dest: DestLocal, GuestFormat: FormatSwap, Size: size, BootIndex: index(-1), DeleteOnTermination: true}, from})
	}
	return all, nil
}

// isJSON: no key of a spec begins with a bracket.
func isJSON(text string) bool {
	text = strings.TrimSpace(text)
	return strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[")
}

func (r Request) blockDevice(text string) ([]Spec, error) {
	if data, file := r.Files[text]; file {
		return ParseJSON(text, data)
	}
	if isJSON(text) {
		return ParseJSON(text, []byte(text))
	}
	s, err := ParseSpec(text)
	return []Spec{s}, err
}

// ephemeral reads size=GiB[,format=FS]. Any other key is passed over by Nova and
// refused here, but for mount, which is understood.
func ephemeral(text string) (device, error) {
	from := origin{flagEphemeral, text}
	s, err := parsePairs(from, ephemeralKeys)
	if err != nil {
		return device{}, err
	}
	m, err := s.mapping(from)
	if err != nil {
		return device{}, err
	}
	if m.Swap() {
		return device{}, from.fail("format", FormatSwap, "swap is not an ephemeral disk; use --swap")
	}
	m.BootIndex = index(-1)
	return device{m, from}, nil
}

func index(n int) *int { return &n }
