package bdm

import (
	"fmt"
	"strings"
)

// rootDevice is the device name that Nova assumes for the root.
const rootDevice = "/dev/vda"

// legacy reads --block-device-mapping, device=id[:type[:size[:delete]]]. As in Nova's
// API, the device that is called vda becomes the root, and the others data. What
// novaclient silently ignores is refused: a device that is given twice, an unknown type,
// parts beyond the fourth.
func (r Request) legacy() ([]device, error) {
	var all []device
	seen := map[string]bool{}
	for _, text := range r.Legacy {
		from := origin{flagLegacy, text}
		m, reason := parseLegacy(text)
		if reason == "" && seen[m.DeviceName] {
			reason = fmt.Sprintf("the device %s is given twice", m.DeviceName)
		}
		if reason == "" && m.DeviceName == rootDevice && r.Image != "" {
			reason = fmt.Sprintf("%s is the root, and with --image the root is made from the image; leave out --image, or give the volume another device", rootDevice)
		}
		if reason != "" {
			return nil, from.fail("", "", "%s", reason)
		}
		if m.DeviceName == rootDevice {
			m.BootIndex = index(0)
		}
		seen[m.DeviceName] = true
		all = append(all, device{m, from})
	}
	return all, nil
}

func parseLegacy(text string) (m Mapping, reason string) {
	name, rest, ok := strings.Cut(text, "=")
	if !ok {
		return m, "expected <device>=<id>[:<type>[:<size in GiB>[:<delete on termination>]]], as in vda=ID:volume::false"
	}
	m = Mapping{Source: SourceVolume, Dest: DestVolume, BootIndex: index(-1)}
	if m.DeviceName, reason = parseDevice(name); reason != "" {
		return m, reason
	}
	parts := strings.Split(rest, ":")
	if len(parts) > 4 {
		return m, fmt.Sprintf("it has %d parts after the device, and at most 4 are allowed: <id>:<type>:<size in GiB>:<delete on termination>", len(parts))
	}
	if m.ID, reason = parts[0], badID(parts[0], SourceVolume); reason != "" {
		return m, reason
	}
	if len(parts) > 1 {
		switch strings.ToLower(parts[1]) {
		case "", "vol", "volume":
		case "snap", "snapshot":
			m.Source = SourceSnapshot
		case "image": // openstack server create has it
			m.Source = SourceImage
		default:
			return m, fmt.Sprintf("the type %q is not one of volume, snapshot (or snap), image", parts[1])
		}
	}
	if len(parts) > 2 && parts[2] != "" {
		if m.Size, reason = parseSize(parts[2], "GiB"); reason != "" {
			return m, reason
		}
	}
	if len(parts) > 3 {
		if m.DeleteOnTermination, ok = boolean(parts[3]); !ok {
			return m, fmt.Sprintf("delete on termination is %q, and neither true nor false", parts[3])
		}
	}
	return m, ""
}
