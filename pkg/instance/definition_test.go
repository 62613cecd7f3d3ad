package instance

import (
	"errors"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// TestParseDefinition holds that nothing in a definition is passed over.
func TestParseDefinition(t *testing.T) {
	for text, want := range map[string]string{
		``:                           "not valid JSON",
		`{`:                          "not valid JSON",
		`[]`:                         "no JSON object",
		`{} {}`:                      "more after",
		`{"Name": "a"}`:              `unknown key "Name"`,
		`{"name": "a", "name": "b"}`: `"name" is given twice`,
		`{"name": 1}`:                `"name" is number, and has to be a text`,
		`{"tags": [1]}`:              `"tags" is number, and has to be a list of texts`,
		`{"privileged": "yes"}`:      `"privileged" is string, and has to be true or false`,
		`{"env": {"A": 1}}`:          `"env" is number, and has to be an object of texts`,
		`{"block_devices": {}}`:      `"block_devices" is object, and has to be a list of objects`,
		`{"metadata": {"a=b": "c"}}`: `"a=b" in the value of key "metadata"`,
		`{"env": {"": "c"}}`:         `"" in the value of key "env"`,
		`{"grow": "some"}`:           `"some" of key "grow"`,
	} {
		if _, err := ParseDefinition([]byte(text)); !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, and not %q", text, err, want)
		}
	}
	d, err := ParseDefinition([]byte(`{"name": null, "fsck": null, "privileged": true, "block_devices": [{"uuid": "x"}]}`))
	if err != nil || d.Name != "" || d.Fsck || !d.Privileged || len(d.BlockDevices) != 1 {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestDefinitionOf holds what of a record has no definition, and what stays behind of one
// that has.
func TestDefinitionOf(t *testing.T) {
	zero := 0
	rec := state.Record{Name: "web.1", Phase: state.Built, Spec: state.Spec{Hostname: "web-1"}, Volumes: []state.Volume{
		{VolumeID: "v1", Mapping: bdm.Mapping{Source: bdm.SourceImage, Dest: bdm.DestVolume, ID: "i", Size: 4, BootIndex: &zero, DeviceName: "/dev/vda", VolumeType: "fast", DiskBus: "virtio", Grow: true, DeleteOnTermination: true}},
		{VolumeID: "u", Mapping: bdm.Mapping{Source: bdm.SourceBlank, Dest: bdm.DestLocal, Size: 1, Upper: true}},
	}}
	d, err := DefinitionOf(&rec)
	if err != nil || len(d.BlockDevices) != 1 || d.Hostname != "" || d.NICs[0] != "none" {
		t.Fatalf("%+v, %v", d, err)
	}
	specs, err := bdm.ParseJSON("it", d.BlockDevices[0])
	if err != nil {
		t.Fatal(err)
	}
	if mp, err := specs[0].Mapping(); err != nil || mp.String() != "source=volume,id=v1,dest=volume,bootindex=0,shutdown=remove,device=vda" {
		t.Errorf("%s, %v", mp, err)
	}
	for what, change := range map[string]func(*state.Record){
		"under way": func(r *state.Record) { r.Phase = state.Building },
		"local root": func(r *state.Record) {
			r.Volumes = []state.Volume{{Mapping: bdm.Mapping{Dest: bdm.DestLocal, BootIndex: &zero}}}
		},
	} {
		other := rec
		change(&other)
		if _, err := DefinitionOf(&other); !errors.Is(err, state.ErrState) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestInterfaceWords holds that an interface is written as it is read.
func TestInterfaceWords(t *testing.T) {
	text := "net-name=default,mac=52:54:00:12:34:56,v4-fixed-ip=192.0.2.7/28,v6-fixed-ip=2001:db8::7/64,gateway=192.0.2.1,v6-gateway=2001:db8::1,dns=192.0.2.53,dns=2001:db8::53"
	n, err := lxc.ParseInterface(text)
	if err != nil || n.Words() != text {
		t.Errorf("%s, %v", n.Words(), err)
	}
}
