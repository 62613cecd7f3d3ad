package flavor

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// Parse reads the flavors of a configuration: what a YAML or JSON list of mappings
// decodes to, or nil for none. Each has the keys name, id, ram (MiB), vcpus, disk
// and ephemeral (GiB) and swap (MiB). An unknown key, a number that is not whole, and a
// missing key that is needed are failure.ErrInvalid.
func Parse(list any) ([]Flavor, error) {
	if list == nil {
		return nil, nil
	}
	items, ok := list.([]any)
	if !ok {
		return nil, failure.Invalid("flavors must be a list, each with a name, ram and vcpus")
	}
	var all []Flavor
	for i, item := range items {
		f, err := parseOne(item)
		if err != nil {
			which := strconv.Itoa(i + 1)
			if f.Name != "" {
				which = strconv.Quote(f.Name)
			}
			return nil, failure.Invalid("invalid flavor %s: %w", which, err)
		}
		all = append(all, f)
	}
	return all, nil
}

func parseOne(item any) (f Flavor, err error) {
	pairs, ok := item.(map[string]any)
	if !ok {
		return f, fmt.Errorf("it is %v, and must have keys: name, ram, vcpus, …", item)
	}
	texts := map[string]*string{"name": &f.Name, "id": &f.ID}
	numbers := map[string]*int{"ram": &f.MemoryMiB, "vcpus": &f.VCPUs, "disk": &f.DiskGiB, "ephemeral": &f.EphemeralGiB, "swap": &f.SwapMiB}
	// Sorted, so that of several faults always the same one is reported; texts first, so
	// that the report can name the flavor.
	for _, key := range slices.Sorted(maps.Keys(pairs)) {
		to, ok := texts[key]
		if !ok {
			continue
		}
		switch v := pairs[key].(type) {
		case string:
			*to = v
		case int:
			*to = strconv.Itoa(v)
		default:
			return f, fmt.Errorf("its %s is %v, and must be text", key, v)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(pairs)) {
		if _, ok := texts[key]; ok {
			continue
		}
		to, ok := numbers[key]
		if !ok {
			return f, fmt.Errorf("unknown key %q; the keys are name, id, ram, vcpus, disk, ephemeral, swap", key)
		}
		if *to, ok = pairs[key].(int); !ok {
			return f, fmt.Errorf("its %s is %v, and must be a whole number", key, pairs[key])
		}
	}
	return f, nil
}

// limits keep what is computed from a flavor within 64 bits by far.
const (
	maxMemoryMiB = 1 << 30 // a PiB
	maxVCPUs     = 1 << 16
	maxDiskGiB   = 1 << 30
)

// check holds a flavor to what it can be.
func (f Flavor) check() error {
	bad := func(format string, args ...any) error {
		return failure.Invalid("invalid flavor %q: %s", f.Name, fmt.Sprintf(format, args...))
	}
	if f.Name == "" {
		return failure.Invalid("a flavor has no name")
	}
	for what, text := range map[string]string{"name": f.Name, "id": f.ID} {
		if strings.TrimSpace(text) != text || strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) || len(text) > 255 {
			return bad("its %s %q is longer than 255 bytes, has spaces around it or characters that cannot be printed", what, text)
		}
	}
	for _, n := range []struct {
		what             string
		value, low, high int
	}{
		{"ram", f.MemoryMiB, 4, maxMemoryMiB},
		{"vcpus", f.VCPUs, 1, maxVCPUs},
		{"disk", f.DiskGiB, 0, maxDiskGiB},
		{"ephemeral", f.EphemeralGiB, 0, maxDiskGiB},
		{"swap", f.SwapMiB, 0, maxMemoryMiB},
	} {
		if n.value < n.low || n.value > n.high {
			return bad("%s is %d, and must be from %d to %d", n.what, n.value, n.low, n.high)
		}
	}
	return nil
}
