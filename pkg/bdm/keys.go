package bdm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/spelling"
)

// Key is a key of a block device spec.
type Key struct {
	Name    string   // as nova boot spells it
	Aliases []string // as the API and openstack server create spell it
	Values  []string // all that is allowed, in any case; empty: free text
	Help    string   // a line for help and completion
}

// The disk buses that Nova's API knows.
var buses = []string{"fdc", "ide", "lxc", "sata", "scsi", "uml", "usb", "virtio", "xen"}

// The order of the keys is the order in which their values are checked:
// novaclient's source, dest, shutdown, and then the rest.
var keys = []Key{
	{"source", []string{"source_type"}, []string{"image", "volume", "snapshot", "blank"}, "what the device is made from"},
	{"dest", []string{"destination_type"}, []string{"volume", "local"}, "where the device lives"},
	{"shutdown", []string{"delete_on_termination"}, []string{"preserve", "remove"}, "what becomes of it when the instance is deleted"},
	{"id", []string{"uuid"}, nil, "id or name of the image, volume or snapshot"},
	{"size", []string{"volume_size"}, nil, "in GiB; in MiB for swap"},
	{"bootindex", []string{"boot_index"}, nil, "0 for the root; -1, or none at all, for a data device"},
	{"device", []string{"device_name"}, nil, "name in the container, as vdb"},
	{"format", []string{"guest_format"}, nil, "filesystem to make on a blank device: ext2, ext3, ext4, xfs, btrfs; or none, or swap"},
	{"mount", nil, nil, "absolute path at which the container has its filesystem (not in Nova)"},
	{"readonly", nil, []string{"yes", "no"}, "whether the container may only read it (not in Nova)"},
	{"overlay", nil, []string{OverlayNone, OverlayMemory, OverlayDisk}, "where what is written to a root goes that stays as it is (not in Nova)"},
	{"partition", nil, nil, "which partition has its filesystem: a number, or root (not in Nova)"},
	{"subvolume", nil, nil, "which subvolume of a btrfs is meant: its path, or auto (not in Nova)"},
	{"volume_type", nil, nil, "volume type of a volume that is made"},
	{"tag", nil, nil, "a word that is kept with the device"},
	{"type", []string{"device_type"}, []string{"disk", "cdrom", "floppy", "lun"}, "a container has disks only"},
	{"bus", []string{"disk_bus"}, buses, "without meaning for a container"},
}

// Keys are the keys of a block device spec, for help and shell completion.
func Keys() []Key {
	all := slices.Clone(keys)
	for i := range all {
		all[i].Aliases, all[i].Values = slices.Clone(all[i].Aliases), slices.Clone(all[i].Values)
	}
	return all
}

// ephemeralKeys are those of them that an ephemeral disk has.
var ephemeralKeys = slices.DeleteFunc(Keys(), func(k Key) bool {
	return k.Name != "size" && k.Name != "format" && k.Name != "mount"
})

// IsKey says whether a word is a key of a block device spec, under either name.
func IsKey(word string) bool {
	_, known := findKey(keys, word)
	return known
}

// findKey is the key of that name or alias.
func findKey(among []Key, name string) (Key, bool) {
	for _, k := range among {
		if k.Name == name || slices.Contains(k.Aliases, name) {
			return k, true
		}
	}
	return Key{}, false
}

func keyNames(among []Key) string {
	var n []string
	for _, k := range among {
		n = append(n, k.Name)
	}
	return strings.Join(n, ", ")
}

// canonical is the value as specs print it: enumerations are taken in any case,
// since the blueprint itself writes PRESERVE. name is the spelling of the key that
// the user chose. reason is empty when the value is allowed.
func (k Key) canonical(name, value string) (_, reason string) {
	lower := strings.ToLower(value)
	switch {
	case name == "delete_on_termination":
		remove, ok := boolean(value)
		if !ok {
			return "", fmt.Sprintf("the value %q of key %q is neither true nor false", value, name)
		}
		if remove {
			return "remove", ""
		}
		return "preserve", ""
	case name == "readonly":
		yes, ok := boolean(value)
		if !ok {
			return "", fmt.Sprintf("the value %q of key %q is not one of yes, no (or true, on, 1, t, y, false, off, 0, f, n)", value, name)
		}
		if yes {
			return "yes", ""
		}
		return "no", ""
	case k.Values == nil:
		return value, ""
	case value == "" && (k.Name == "source" || k.Name == "dest"): // the same as absent, as in novaclient
		return "", ""
	case slices.Contains(k.Values, lower):
		return lower, ""
	}
	// novaclient's words, where it has some.
	switch k.Name {
	case "source":
		return "", fmt.Sprintf("The value of source_type key of --block-device should be one of 'volume', 'image', 'snapshot' or 'blank' but it was '%s'", value)
	case "dest":
		return "", fmt.Sprintf("The value of destination_type key of --block-device should be either 'local' or 'volume' but it was '%s'", value)
	case "shutdown":
		return "", fmt.Sprintf("The value of shutdown key of --block-device shall be either 'remove' or 'preserve' but it was '%s'", value)
	}
	return "", fmt.Sprintf("the value %q of key %q is not one of %s", value, name, strings.Join(k.Values, ", "))
}

// boolean reads the words that OpenStack takes for a truth value.
func boolean(v string) (value, ok bool) {
	switch strings.ToLower(v) {
	case "true", "1", "on", "yes", "t", "y":
		return true, true
	case "false", "0", "off", "no", "f", "n":
		return false, true
	}
	return false, false
}

// didYouMean names the key that a misspelt one is nearest to, or nothing.
func didYouMean(among []Key, name string) string {
	if len(name) > 40 {
		return ""
	}
	// A short word is near to everything.
	best, limit := "", min(3, 1+len(name)/3)
	for _, k := range among {
		for _, known := range append([]string{k.Name}, k.Aliases...) {
			if d := spelling.Distance(strings.ToLower(name), known); d < limit {
				best, limit = known, d
			}
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}
