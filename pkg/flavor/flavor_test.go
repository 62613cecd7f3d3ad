package flavor

import (
	"errors"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

func TestNew(t *testing.T) {
	all, err := New([]Flavor{{Name: "nano", MemoryMiB: 64, VCPUs: 1}, {Name: "m1.tiny", MemoryMiB: 256, VCPUs: 2, DiskGiB: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for ref, ram := range map[string]int{"nano": 64, "m1.tiny": 256, "1": 256, "5": 16384} {
		if f, err := all.Find(ref); err != nil || f.MemoryMiB != ram {
			t.Errorf("%s: %+v, %v", ref, f, err)
		}
	}
	if _, err := all.Find("huge"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	for name, bad := range map[string][]Flavor{
		"no name":   {{MemoryMiB: 64, VCPUs: 1}},
		"no memory": {{Name: "a", VCPUs: 1}},
		"no cpu":    {{Name: "a", MemoryMiB: 64}},
		"negative":  {{Name: "a", MemoryMiB: 64, VCPUs: 1, DiskGiB: -1}},
		"id taken":  {{Name: "a", ID: "3", MemoryMiB: 64, VCPUs: 1}},
		"id a name": {{Name: "a", ID: "m1.tiny", MemoryMiB: 64, VCPUs: 1}},
	} {
		if _, err := New(bad); !errors.Is(err, failure.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
