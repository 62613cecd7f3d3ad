package bdm

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// seeds are the values of one flag in all vectors.
func seeds(f *testing.F, flag string) (all []string) {
	for _, v := range readVectors(f) {
		for i, arg := range v.Argv[:len(v.Argv)-1] {
			if arg == flag {
				all = append(all, v.Argv[i+1])
			}
		}
	}
	if len(all) == 0 {
		f.Fatalf("no vector has %s", flag)
	}
	return all
}

// FuzzSpec: a spec that is read is printed, read again and the same; so is the
// mapping that it makes, also through JSON.
func FuzzSpec(f *testing.F) {
	for _, s := range seeds(f, "--block-device") {
		f.Add(s)
	}
	for _, s := range []string{
		"source_type=image,uuid=i,dest=", "source=,dest=", "source=volume,id=v,mount=/srv,readonly=TRUE,tag=é,device=/dev/vdb,bus=LXC",
		"delete_on_termination=ON,size=007,bootindex=-0", "source=snapshot,id=a b,format=EXT4,volume_type=x", ",", "a=b=c",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSpec(text)
		if err != nil {
			wantSpecError(t, err)
			return
		}
		again, err := ParseSpec(s.String())
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Fatalf("%q -> %q -> %q, %v", text, s, again, err)
		}
		m, err := s.Mapping()
		if err != nil {
			wantSpecError(t, err)
			return
		}
		if m2, err := parse(m.String()); err != nil || !reflect.DeepEqual(m, m2) {
			t.Fatalf("%q: %+v\n%q: %+v, %v", text, m, m, m2, err)
		}
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var m3 Mapping
		if err := json.Unmarshal(data, &m3); err != nil || !reflect.DeepEqual(m, m3) {
			t.Fatalf("%+v\n%s\n%+v, %v", m, data, m3, err)
		}
	})
}

// wantSpecError: an error is of our own kind, and fit for a terminal.
func wantSpecError(t *testing.T, err error) {
	t.Helper()
	var e *SpecError
	if !errors.As(err, &e) || !errors.Is(err, failure.ErrInvalid) || e.Flag == "" || e.Reason == "" || !printable(err.Error()) {
		t.Fatalf("%#v: %q", err, err)
	}
}

// FuzzJSON: what a file holds is refused, or is a spec like one that is typed.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`{"uuid":"v","source_type":"volume","boot_index":0,"delete_on_termination":true,"tag":null}`,
		`[{"source":"blank","size":1},{"source":"blank","size":"2"}]`, `{"id":"a","id":"b"}`, `{"size":1e9}`, `[[]]`, `{"a":{"b":[`, `{} {}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		specs, err := ParseJSON("", data)
		if err != nil {
			var e *SpecError
			if !errors.As(err, &e) {
				t.Fatalf("%#v", err)
			}
			return
		}
		if len(specs) == 0 {
			t.Fatal("neither specs nor an error")
		}
		for _, s := range specs {
			if again, err := ParseSpec(s.String()); err != nil || !reflect.DeepEqual(s, again) {
				t.Fatalf("%q: %v", s, err)
			}
		}
	})
}

// FuzzMappings: whatever the flags are, they are refused, or make mappings that hold
// what is promised of them; and so through Check.
func FuzzMappings(f *testing.F) {
	devices, legacy, ephemerals := seeds(f, "--block-device"), seeds(f, "--block-device-mapping"), seeds(f, "--ephemeral")
	for i, d := range devices {
		f.Add("i", "", "", d, "", ephemerals[i%len(ephemerals)], "1", "", uint16(i))
		f.Add("", "v", "", d, d, "", "", "", uint16(i))
	}
	for i, l := range legacy {
		f.Add("i", "", "", "", l, "", "", "", uint16(i))
	}
	f.Add("i", "", "", `{"source":"blank"}`, "", "size=1,mount=/x", "64", "3", uint16(0xffff))
	f.Add("", "", "s", "source=volume,id=v,device=vda", "", "", "", "", uint16(7))
	f.Fuzz(func(t *testing.T, image, vol, snap, device, other, eph, swap, size string, bits uint16) {
		r := Request{Image: image, BootVolume: vol, Snapshot: snap, Swap: swap, BootFromVolume: size}
		for _, x := range []struct {
			text string
			into *[]string
		}{{device, &r.BlockDevices}, {other, &r.Legacy}, {eph, &r.Ephemerals}} {
			if x.text != "" {
				*x.into = strings.SplitN(x.text, ";", 4)
			}
		}
		all, err := Mappings(r)
		if err != nil {
			if !errors.Is(err, failure.ErrInvalid) || all != nil {
				t.Fatalf("%v", err)
			}
			return
		}
		facts := Facts{
			Flavor:   Flavor{MemoryMiB: 1 << 20, RootGiB: 1 << 20, EphemeralGiB: int(bits>>4) & 3, SwapMiB: int(bits>>6) & 64},
			Images:   map[string]volume.Image{},
			Volumes:  map[string]volume.Volume{},
			MaxLocal: int(bits>>12) - 1, Count: int(bits & 1), Snapshots: map[string]volume.Snapshot{},
		}
		for _, m := range all {
			switch m.Source {
			case SourceImage:
				facts.Images[m.ID] = volume.Image{Status: volume.ImageActive, Size: int64(bits), MinDisk: int(bits>>1) & 1}
			case SourceVolume:
				facts.Volumes[m.ID] = volume.Volume{Status: volume.StatusAvailable, Size: 1 + int(bits&7), Bootable: bits&8 == 0, ReadOnly: bits&16 != 0}
			case SourceSnapshot:
				facts.Snapshots[m.ID] = volume.Snapshot{Status: volume.StatusAvailable, Size: 1 + int(bits&7)}
			}
		}
		final, _, err := Check(all, facts)
		if err != nil {
			if final != nil || !errors.Is(err, failure.ErrInvalid) && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrInUse) {
				t.Fatalf("%v", err)
			}
			return
		}
		if len(final) < len(all) {
			t.Fatalf("%d of %d mappings are left", len(final), len(all))
		}
		roots, names := 0, map[string]bool{}
		for _, m := range final {
			if m.Root() {
				roots++
			}
			if m.Swap() == (m.DeviceName != "") || names[m.DeviceName] {
				t.Fatalf("%s has not a name of its own", m)
			}
			names[m.DeviceName] = true
			// The disk of an image is of the flavor's size, and its mapping has none.
			if m.Size <= 0 && !(m.Root() && m.Dest == DestLocal) {
				t.Fatalf("%s has no size", m)
			}
		}
		if roots != 1 {
			t.Fatalf("%d roots", roots)
		}
	})
}
