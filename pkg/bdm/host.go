package bdm

import (
	"cmp"
	"slices"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// machines are the other names that Nova knows a machine by.
var machines = map[string]string{"amd64": "x86_64", "x86-64": "x86_64", "i386": "i686", "i486": "i686", "i586": "i686", "arm64": "aarch64"}

// runsToo is what a machine's kernel runs beside its own programs.
var runsToo = map[string]string{"x86_64": "i686", "aarch64": "armv7l", "ppc64": "ppc", "s390x": "s390"}

// host holds what the root's image says that it needs of a host against this one, as the
// filter of Nova's scheduler does with the hosts that have libvirt's LXC driver.
func (f Facts) host(all []Mapping) error {
	m, _ := root(all)
	props := f.Images[m.ID].Properties
	switch m.Source {
	case SourceVolume:
		props = f.Volumes[m.ID].ImageProps
	case SourceSnapshot:
		props = f.Volumes[f.Snapshots[m.ID].VolumeID].ImageProps
	}
	wants := func(names ...string) string {
		for _, name := range names {
			if v := strings.ToLower(strings.TrimSpace(props[name])); v != "" {
				return v
			}
		}
		return ""
	}
	const refusal = "the image of the root is for another host: its property %s is %q, and this host has %s"
	arch := wants("hw_architecture", "architecture")
	if arch = cmp.Or(machines[arch], arch); arch != "" && f.Machine != "" && !slices.Contains([]string{f.Machine, runsToo[f.Machine]}, arch) {
		return failure.Invalid(refusal, "architecture", arch, f.Machine)
	}
	if kind := wants("img_hv_type", "hypervisor_type"); kind != "" && kind != "lxc" {
		return failure.Invalid(refusal, "hypervisor_type", kind, "lxc")
	}
	if mode := wants("hw_vm_mode", "vm_mode"); mode != "" && mode != "exe" {
		return failure.Invalid(refusal, "vm_mode", mode, "exe, containers")
	}
	return nil
}
