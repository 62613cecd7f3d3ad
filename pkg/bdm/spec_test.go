package bdm

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// parse makes a mapping of a spec as a boot does.
func parse(text string) (Mapping, error) {
	s, err := ParseSpec(text)
	if err != nil {
		return Mapping{}, err
	}
	return s.Mapping()
}

// TestSpecErrors: what is wrong with a spec is said with the flag, the spec, the key,
// the value, and what is allowed. Lines of B1 are the API's schema.
func TestSpecErrors(t *testing.T) {
	for _, c := range []struct {
		spec       string
		key, value string
		want       []string
	}{
		{"", "", "", []string{"'' is not a key=value pair"}},
		{"source=blank,", "", "", []string{"'' is not a key=value pair"}},
		{"a", "", "", []string{"'a' is not a key=value pair"}},
		{"sorce=image", "sorce", "image", []string{`unknown key "sorce" (did you mean "source"?)`, "the keys are source, dest, shutdown, id, size"}},
		{"boot-index=0", "boot-index", "0", []string{`did you mean "bootindex"?`}},
		{"Source=image", "Source", "image", []string{`did you mean "source"?`}},
		{"colour=red", "colour", "red", []string{`unknown key "colour"; the keys are`}},
		{"=x", "", "x", []string{`unknown key ""; the keys are`}},
		{strings.Repeat("k", 99) + "=x", strings.Repeat("k", 99), "x", []string{"; the keys are"}},
		{"id=a,id=b", "id", "b", []string{`the key "id" is given twice`}},
		{"id=a,uuid=b", "uuid", "b", []string{`the key "uuid" is given twice, the first time as "id"`}},
		{"shutdown=remove,delete_on_termination=true", "delete_on_termination", "true", []string{"given twice", `"shutdown"`}},
		{"a\x1b[31m", "", "", []string{"cannot be printed"}},
		{"id=a=b", "id", "a=b", []string{`the value "a=b" of key "id" has a '='`}},
		{"id=a\x1b[31m", "", "", []string{"cannot be printed", `a\x1b[31m`}},
		{"id=\xff", "", "", []string{"cannot be printed"}},

		{"source=fake", "source", "fake", []string{"'volume', 'image', 'snapshot' or 'blank' but it was 'fake'"}},
		{"dest=disk", "dest", "disk", []string{"either 'local' or 'volume' but it was 'disk'"}},
		{"shutdown=keep", "shutdown", "keep", []string{"either 'remove' or 'preserve' but it was 'keep'"}},
		{"shutdown=", "shutdown", "", []string{"but it was ''"}},
		{"shutdown=true", "shutdown", "true", []string{"but it was 'true'"}},
		{"delete_on_termination=remove", "delete_on_termination", "remove", []string{"neither true nor false"}},
		{"readonly=perhaps", "readonly", "perhaps", []string{`"perhaps"`, "yes, no"}},
		{"type=tape", "type", "tape", []string{`"tape"`, "disk, cdrom, floppy, lun"}},
		{"bus=", "bus", "", []string{"fdc, ide, lxc"}},
		// novaclient's order: keys, then source, dest, shutdown.
		{"shutdown=x,dest=x,source=x,colour=x", "colour", "x", []string{"unknown key"}},
		{"shutdown=x,dest=x,source=x", "source", "x", []string{"source_type"}},
		{"shutdown=x,dest=x", "dest", "x", []string{"destination_type"}},

		{"id=", "id", "", []string{"the id is empty"}},                                           // B1
		{"id=" + strings.Repeat("x", 256), "id", strings.Repeat("x", 256), []string{"too long"}}, // B1
		{"id=/dev/sdb", "id", "/dev/sdb", []string{`"/dev/sdb" is a path`, "import"}},
		{"id=../x", "id", "../x", []string{"is a path"}},
		{"id= x", "id", " x", []string{"spaces around it"}},
		{"size=", "size", "", []string{`the size "" is not a whole number of GiB`}},                   // B1
		{"size=-1", "size", "-1", []string{`the size "-1" is not a whole number`}},                    // B1
		{"size=0", "size", "0", []string{"0 is less than the minimum of 1"}},                          // B1
		{"size=2147483648", "size", "2147483648", []string{"greater than the maximum of 2147483647"}}, // B1
		{"size=99999999999999999999", "size", "99999999999999999999", []string{"greater than the maximum"}},
		{"size=1.5,format=swap", "size", "1.5", []string{"a whole number of MiB"}},
		{"bootindex=first", "bootindex", "first", []string{`the boot index "first" is not a whole number`}}, // B1
		{"bootindex=", "bootindex", "", []string{"not a whole number"}},
		{"bootindex=99999999999999999999", "bootindex", "99999999999999999999", []string{"not a whole number"}},
		{"device=", "device", "", []string{`the device name "" is not one of a disk`}}, // B1
		{"device=null", "device", "null", []string{"/dev/vdb"}},
		{"device=vdb/x", "device", "vdb/x", []string{"not one of a disk"}},
		{"format=", "format", "", []string{"the format is empty", "ext4"}},
		{"tag=", "tag", "", []string{"1 to 60 characters"}},                                                           // B1
		{"tag=a/b", "tag", "a/b", []string{"'^[^,/]*$'"}},                                                             // B1
		{"tag=" + strings.Repeat("é", 61), "tag", strings.Repeat("é", 61), []string{"too long"}},                      // B1
		{"volume_type=" + strings.Repeat("x", 256), "volume_type", strings.Repeat("x", 256), []string{"is too long"}}, // B1
		{"volume_type=", "volume_type", "", []string{"empty"}},
		{"mount=srv", "mount", "srv", []string{`"srv" is not an absolute path`}},
		{"mount=", "mount", "", []string{"not an absolute path"}},
		{"mount=/a/../b", "mount", "/a/../b", []string{"without '..'"}},
		{"mount=/a/", "mount", "/a/", []string{"not an absolute path"}},
		{"mount=/", "mount", "/", []string{"bootindex=0"}},
		{"partition=0", "partition", "0", []string{`the partition "0" is neither a number from 1 nor root`}},
		{"partition=", "partition", "", []string{"a number from 1"}},
		{"partition=01", "partition", "01", []string{"a number from 1"}},
		{"partition=9999999999", "partition", "9999999999", []string{"a number from 1"}},
		{"subvolume=", "subvolume", "", []string{`the subvolume "" is neither auto nor a path`}},
		{"subvolume=/@", "subvolume", "/@", []string{"without a '/' in front"}},
		{"subvolume=@/../x", "subvolume", "@/../x", []string{"a path from the top"}},
		{"mount=/proc", "mount", "/proc", []string{"/proc, which every container has of its own"}},
		{"mount=/dev/shm", "mount", "/dev/shm", []string{"below /dev"}},
		{"mount=/" + strings.Repeat("x", 4095), "mount", "/" + strings.Repeat("x", 4095), []string{"not an absolute path"}},
	} {
		_, err := parse(c.spec)
		var e *SpecError
		if !errors.As(err, &e) || !errors.Is(err, failure.ErrInvalid) {
			t.Errorf("%s: %v", c.spec, err)
			continue
		}
		if e.Key != c.key || e.Value != c.value {
			t.Errorf("%s: key %q, value %q", c.spec, e.Key, e.Value)
		}
		if e.Spec != c.spec {
			t.Errorf("%s: spec %q", c.spec, e.Spec)
		}
		for _, w := range append(c.want, "--block-device") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q lacks %q", c.spec, err, w)
			}
		}
		if !printable(err.Error()) {
			t.Errorf("%q would reach the terminal", err)
		}
	}
}

// TestDefaults: a.3 of novaclient and of openstack server create.
func TestDefaults(t *testing.T) {
	for spec, want := range map[string]string{
		"size=1":                                                   "source=blank,dest=local,size=1,shutdown=remove",
		"source=,dest=,size=1":                                     "source=blank,dest=local,size=1,shutdown=remove",
		"source=blank,size=1":                                      "source=blank,dest=local,size=1,shutdown=remove",
		"source=blank,dest=volume":                                 "source=blank,dest=volume,shutdown=preserve",
		"source=image,id=i":                                        "source=image,id=i,dest=local,shutdown=remove",
		"source=image,id=i,dest=volume":                            "source=image,id=i,dest=volume,shutdown=preserve",
		"source_type=image,uuid=i":                                 "source=image,id=i,dest=volume,shutdown=preserve",
		"source_type=image,uuid=i,dest=":                           "source=image,id=i,dest=volume,shutdown=preserve",
		"source_type=image,uuid=i,dest=local":                      "source=image,id=i,dest=local,shutdown=remove",
		"source_type=blank,size=1":                                 "source=blank,dest=local,size=1,shutdown=remove",
		"source=volume,id=v":                                       "source=volume,id=v,dest=volume,shutdown=preserve",
		"source=snapshot,id=s":                                     "source=snapshot,id=s,dest=volume,shutdown=preserve",
		"source=blank,shutdown=preserve":                           "source=blank,dest=local,shutdown=preserve",
		"source=VOLUME,id=V,dest=Volume,shutdown=REMOVE":           "source=volume,id=V,dest=volume,shutdown=remove",
		"source=volume,id=v,type=Disk,bus=VirtIO":                  "source=volume,id=v,dest=volume,shutdown=preserve,type=disk,bus=virtio",
		"source=blank,format=EXT4,readonly=TRUE":                   "source=blank,dest=local,shutdown=remove,format=ext4,readonly=yes",
		"source=volume,id=Debian 12 (a/b) é,readonly=0":            "source=volume,id=Debian 12 (a/b) é,dest=volume,shutdown=preserve",
		"source=volume,id=v,delete_on_termination=Off":             "source=volume,id=v,dest=volume,shutdown=preserve",
		"source=volume,id=v,bootindex=0,partition=root":            "source=volume,id=v,dest=volume,bootindex=0,shutdown=preserve,partition=root",
		"source=volume,id=v,mount=/a,partition=12,subvolume=@/x y": "source=volume,id=v,dest=volume,shutdown=preserve,mount=/a,partition=12,subvolume=@/x y",
		"source=volume,id=v,bootindex=-1,tag=été":                  "source=volume,id=v,dest=volume,bootindex=-1,shutdown=preserve,tag=été",
	} {
		m, err := parse(spec)
		if err != nil || m.String() != want {
			t.Errorf("%s:\n%s, %v\nwant %s", spec, m, err, want)
		}
	}
}

// TestAliases: openstack server create's spelling of all keys means the same.
func TestAliases(t *testing.T) {
	a, err := parse("source=Volume,id=v,dest=VOLUME,bootindex=0,size=4,shutdown=Remove,device=vda,format=xfs,type=disk,bus=lxc")
	if err != nil {
		t.Fatal(err)
	}
	b, err := parse("source_type=volume,uuid=v,destination_type=volume,boot_index=0,volume_size=4,delete_on_termination=yes,device_name=/dev/vda,guest_format=xfs,device_type=disk,disk_bus=lxc")
	if err != nil {
		t.Fatal(err)
	}
	want := Mapping{Source: SourceVolume, Dest: DestVolume, ID: "v", Size: 4, BootIndex: index(0), DeleteOnTermination: true, DeviceName: "/dev/vda", DiskBus: "lxc", DeviceType: "disk", GuestFormat: "xfs"}
	if !reflect.DeepEqual(a, want) || !reflect.DeepEqual(b, want) {
		t.Errorf("%+v\n%+v\nwant %+v", a, b, want)
	}
	for _, k := range Keys() {
		for _, name := range append([]string{k.Name}, k.Aliases...) {
			if found, ok := findKey(keys, name); !ok || found.Name != k.Name {
				t.Errorf("%s is the name of %q and of %q", name, k.Name, found.Name)
			}
		}
		if k.Help == "" {
			t.Errorf("%s has no help", k.Name)
		}
	}
}

// TestKeys: what completion offers is accepted, and belongs to the caller.
func TestKeys(t *testing.T) {
	for _, k := range Keys() {
		for _, v := range k.Values {
			if _, err := ParseSpec(k.Name + "=" + strings.ToUpper(v)); err != nil {
				t.Error(err)
			}
		}
		if k.Values != nil {
			k.Values[0] = "spoilt"
		}
	}
	if _, err := ParseSpec("source=image,shutdown=preserve"); err != nil {
		t.Error(err)
	}
}

func TestMappingJSON(t *testing.T) {
	m, err := parse("source=image,id=i,dest=volume,size=1,bootindex=0,volume_type=fast,tag=t,device=vdb,mount=/srv,readonly=yes,format=ext4,type=disk,bus=lxc")
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"source_type":"image","destination_type":"volume","uuid":"i","volume_size":1,"boot_index":0,"delete_on_termination":false,"device_name":"/dev/vdb","disk_bus":"lxc","device_type":"disk","guest_format":"ext4","tag":"t","volume_type":"fast","mount":"/srv","readonly":true}`
	if string(data) != want {
		t.Errorf("%s\nwant %s", data, want)
	}
	var again Mapping
	if err := json.Unmarshal(data, &again); err != nil || !reflect.DeepEqual(m, again) {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestParseJSON(t *testing.T) {
	for text, want := range map[string]string{
		`{"uuid":"v","source_type":"volume","boot_index":0,"delete_on_termination":true,"tag":null}`: "id=v,source=volume,bootindex=0,shutdown=remove",
		`{"source_type": "image", "uuid": "i", "volume_size": "2", "readonly": false}`:               "source=image,id=i,size=2,readonly=no,dest=volume",
		" [{\"source\":\"blank\",\"size\":1},{\"source\":\"blank\",\"size\":2}]\n":                   "source=blank,size=1 source=blank,size=2",
	} {
		specs, err := ParseJSON("devices.json", []byte(text))
		var got []string
		for _, s := range specs {
			got = append(got, s.String())
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for bad, want := range map[string]string{
		``:                        `--block-device "devices.json": it is empty`,
		`{`:                       "not valid JSON",
		`{"id":"a",`:              "not valid JSON",
		`{"id":`:                  "not valid JSON",
		`[{}`:                     "not valid JSON",
		`3`:                       "neither a JSON object nor a list",
		`null`:                    "neither a JSON object nor a list",
		`[3]`:                     "neither a JSON object nor a list",
		`[]`:                      "list is empty",
		`{}`:                      "says nothing of a device",
		`{"tag":null}`:            "says nothing of a device",
		`{"id":"a"} {"id":"b"}`:   "there is more after",
		`{"id":["a"]}`:            `the value of key "id" is neither text`,
		`{"size":1.5}`:            `the value 1.5 of key "size" is not a whole number`,
		`{"size":1e3}`:            "not a whole number",
		`{"id":"a,b"}`:            `has a '=' or ','`,
		"{\"id\":\"a\\u001b\"}":   "cannot be printed",
		`{"nonsense":1}`:          `unknown key "nonsense"`,
		`{"id":"a","id":"b"}`:     "given twice",
		`{"id":"a","uuid":"b"}`:   "given twice",
		`[{"size":1},{"sice":1}]`: `(device 2 of the list) "devices.json": unknown key "sice"`,
		strings.Repeat(" ", 1<<20) + `{"id":"a"}`: "at most",
	} {
		_, err := ParseJSON("devices.json", []byte(bad))
		var e *SpecError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "devices.json") {
			t.Errorf("%.60s: %v\nwant %s", bad, err, want)
		}
	}
}
