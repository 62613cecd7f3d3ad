// Package flavor holds flavors: named sizes of an instance.
package flavor

import (
	"errors"
	"slices"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// ErrNotFound is the kind of a flavor that there is not.
var ErrNotFound = errors.New("flavor not found")

// Flavor is the size of an instance, as in Nova.
type Flavor struct {
	ID           string `json:"id"`
	Name         string `json:"name"`
	MemoryMiB    int    `json:"ram"`
	VCPUs        int    `json:"vcpus"`
	DiskGiB      int    `json:"disk"`
	EphemeralGiB int    `json:"ephemeral"`
	SwapMiB      int    `json:"swap"`
}

// Classics are the flavors that Nova had from the start.
var Classics = []Flavor{
	{ID: "1", Name: "m1.tiny", MemoryMiB: 512, VCPUs: 1, DiskGiB: 1},
	{ID: "2", Name: "m1.small", MemoryMiB: 2048, VCPUs: 1, DiskGiB: 20},
	{ID: "3", Name: "m1.medium", MemoryMiB: 4096, VCPUs: 2, DiskGiB: 40},
	{ID: "4", Name: "m1.large", MemoryMiB: 8192, VCPUs: 4, DiskGiB: 80},
	{ID: "5", Name: "m1.xlarge", MemoryMiB: 16384, VCPUs: 8, DiskGiB: 160},
}

// Flavors are the flavors there are, by name and by id.
type Flavors []Flavor

// New adds flavors to the classics; one of the same name takes its place. A flavor
// without an id has its name for one, or the id of the classic whose place it takes.
// A name or id that would stand for two of them is refused.
func New(more []Flavor) (Flavors, error) {
	all := slices.Clone(Flavors(Classics))
	for n, f := range more {
		if err := f.check(); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(more[:n], func(o Flavor) bool { return o.Name == f.Name }) {
			return nil, failure.Invalid("invalid flavor %q: it is there twice", f.Name)
		}
		at := slices.IndexFunc(all, func(o Flavor) bool { return o.Name == f.Name })
		switch {
		case f.ID == "" && at >= 0:
			f.ID = all[at].ID
		case f.ID == "":
			f.ID = f.Name
		}
		for i, o := range all {
			if i != at && (o.ID == f.ID || o.Name == f.ID || o.ID == f.Name) {
				return nil, failure.Invalid("invalid flavor %q with the id %q: flavor %q with the id %q has that already", f.Name, f.ID, o.Name, o.ID)
			}
		}
		if at >= 0 {
			all[at] = f
		} else {
			all = append(all, f)
		}
	}
	return all, nil
}

// Find is the flavor of that name or id.
func (fs Flavors) Find(ref string) (Flavor, error) {
	for _, f := range fs {
		if f.Name == ref || f.ID == ref {
			return f, nil
		}
	}
	return Flavor{}, failure.Of(ErrNotFound, "flavor not found: %q", ref)
}
