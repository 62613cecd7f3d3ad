package bdm

import "github.com/lxcboot/lxcboot/pkg/failure"

// AssignDevices gives each device that has none a name: the root /dev/vda, and the
// others, in order, the first free ones from /dev/vdb on. Swap is no device in a
// container and gets none. Two devices of one name are refused. It works in place,
// and on devices that were named before too, so that one can be added to them.
func AssignDevices(all []Mapping) error {
	taken := map[string]bool{}
	for i := range all {
		m := &all[i]
		if m.Root() && m.DeviceName == "" {
			m.DeviceName = rootDevice
		}
	}
	for _, m := range all {
		if m.DeviceName == "" {
			continue
		}
		if taken[m.DeviceName] {
			if r, _ := root(all); r.DeviceName == rootDevice && m.DeviceName == rootDevice {
				return sameAsRoot()
			}
			return invalidMapping(failure.ErrInvalid, "two devices have the name %s", m.DeviceName)
		}
		taken[m.DeviceName] = true
	}
	next := 1 // vda stays the root's, even where that has another name
	for i := range all {
		m := &all[i]
		for m.DeviceName == "" && !m.Swap() {
			if name := deviceName(next); !taken[name] {
				m.DeviceName = name
			}
			next++
		}
	}
	return nil
}

// deviceName is the n-th name from 0 on: vda, vdb, …, vdz, vdaa, …
func deviceName(n int) string {
	name := ""
	for n++; n > 0; n = (n - 1) / 26 {
		name = string(rune('a'+(n-1)%26)) + name
	}
	return "/dev/vd" + name
}

// CheckMounts refuses two devices at one place in the container.
func CheckMounts(all []Mapping) error {
	at := map[string]bool{}
	for _, m := range all {
		if m.MountPath == "" {
			continue
		}
		if at[m.MountPath] {
			return failure.Invalid("two devices are mounted at %s in the container; give one of them another mount=", m.MountPath)
		}
		at[m.MountPath] = true
	}
	return nil
}
