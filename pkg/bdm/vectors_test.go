package bdm

import (
	"encoding/json"
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// vector is one command line of nova boot, what there is, and what Nova makes of it.
type vector struct {
	Name    string
	Argv    []string
	Context struct {
		Flavor struct {
			MemoryMB    int `json:"memory_mb"`
			VCPUs       int
			RootGB      int `json:"root_gb"`
			EphemeralGB int `json:"ephemeral_gb"`
			Swap        int
		}
		Images map[string]struct {
			Status  string
			MinDisk int `json:"min_disk"`
			MinRAM  int `json:"min_ram"`
			Size    int64
		}
		Volumes map[string]struct {
			Status                string
			Size                  int
			Bootable, Multiattach bool
		}
		Snapshots map[string]struct {
			Status   string
			Size     int
			VolumeID string `json:"volume_id"`
		}
		VolumeTypes []struct{ ID, Name string } `json:"volume_types"`
		MaxLocal    int                         `json:"max_local_block_devices"`
	}
	Expect        string
	ErrorContains string           `json:"error_contains"`
	BDMs          []map[string]any // as the API has them from the client
	Final         []map[string]any `json:"bdms_final"` // after its validation
	Advice        string
}

// elsewhere are the vectors of what makes no device, and of what takes time: this
// package has no part in them.
var elsewhere = map[string]string{
	"meta not key=value":       "metadata makes no device: the command reads it",
	"config-drive not boolean": "the config drive is no block device here: the command reads it",
	"missing NAME":             "arguments that are no flags are the command's",
	"volume ends in error while waiting, shutdown=remove": "waiting is the store's, and what becomes of the volume the manager's",
	"volume never leaves creating":                        "waiting is the store's",
}

// outcome is what lxcboot does where a vector comes with advice, or where it does
// other than Nova on purpose.
type outcome struct {
	want    string // "ok", or a part of the error
	why     string
	removes bool   // delete_on_termination is true where Nova has false
	warns   string // a part of a warning
}

var outcomes = map[string]outcome{
	"spec text verbatim with shutdown=PRESERVE, image source":                      {want: "ok", why: "the blueprint writes it in capitals"},
	"spec text verbatim with shutdown=PRESERVE, image source (novaclient < 3.4.0)": {want: "ok", why: "as advised"},
	"shutdown=REMOVE silently preserves (novaclient < 3.4.0)":                      {want: "ok", why: "enumerations in any case", removes: true},
	"shutdown=REMOVE rejected now":                                                 {want: "ok", why: "enumerations in any case", removes: true},
	"source value is case sensitive":                                               {want: "ok", why: "enumerations in any case"},
	"API name boot_index is not a client key":                                      {want: "ok", why: "the API's spellings are aliases"},
	"keys are case sensitive":                                                      {want: `unknown key "Source" (did you mean "source"?)`, why: "says which key was meant"},
	"value with a second equals sign":                                              {want: `of key "id" has a '=' or ','`, why: "a Python exception otherwise"},
	"repeated key: last one wins":                                                  {want: `the key "id" is given twice`, why: "not to guess which was meant"},
	"source image, no dest -> local -> API refuses":                                {want: "Mapping image to local is not supported. Add dest=volume", why: "adopted, and says what to do"},
	"--boot-volume with --snapshot":                                                {want: "only one of --image, --boot-volume and --snapshot", why: "too many is not too few"},
	"legacy size not a number":                                                     {want: `the size "big" is not a whole number of GiB`, why: "a Python exception otherwise"},
	"legacy without equals":                                                        {want: "expected <device>=<id>", why: "a Python exception otherwise"},
	"legacy same device twice: last one wins":                                      {want: "/dev/vda is given twice", why: "not to guess which was meant"},
	"legacy on vda with image makes the volume root, no image BDM":                 {want: "with --image the root is made from the image", why: "Nova passes over the image"},
	"same volume twice is not caught by the API":                                   {want: "is given twice", why: "it cannot be attached twice"},
	"bus not known to nova":                                                        {want: `the value "virtio-scsi" of key "bus" is not one of fdc, ide, lxc`, why: "names the bus, which Nova's typo hides"},
	"id with slash":                                                                {want: "failed to get volume /dev/sdb", why: "a path is that of a device of this host, which is not there"},
	"id= empty":                                                                    {want: "the id is empty", why: "in words instead of a schema's"},
	"size empty":                                                                   {want: `the size "" is not a whole number of GiB`, why: "in words instead of a regular expression"},
	"size fraction":                                                                {want: `the size "1.5" is not a whole number of GiB`, why: "in words instead of a regular expression"},
	"size with unit":                                                               {want: `the size "1G" is not a whole number of GiB`, why: "in words instead of a regular expression"},
	"bootindex text":                                                               {want: `the boot index "first" is not a whole number`, why: "in words instead of a regular expression"},
	"bootindex +0":                                                                 {want: `the boot index "+0" is not a whole number`, why: "in words instead of a regular expression"},
	"bootindex none word":                                                          {want: `the boot index "none" is not a whole number`, why: "in words instead of a regular expression"},
	"device name with space":                                                       {want: `the device name "v da" is not one of a disk`, why: "it becomes a node in the container's /dev"},
	"device name empty":                                                            {want: `the device name "" is not one of a disk`, why: "it becomes a node in the container's /dev"},
	"legacy empty device name":                                                     {want: `the device name "" is not one of a disk`, why: "it becomes a node in the container's /dev"},
	"--swap not a number":                                                          {want: `--swap "abc": the size "abc" is not a whole number of MiB`, why: "names the flag"},
	"legacy delete invalid":                                                        {want: `delete on termination is "invalid"`, why: "in words instead of a list of 21"},
	"legacy trailing empty delete":                                                 {want: `delete on termination is ""`, why: "in words instead of a list of 21"},
	"blank volume as boot disk is accepted":                                        {want: "a blank device has nothing to boot from", why: "an empty root cannot boot a container"},
	"type=lun accepted":                                                            {want: "a container has disks only, and no lun", why: "nothing is accepted and ignored"},
	"type=cdrom accepted":                                                          {want: "a container has disks only, and no cdrom", why: "nothing is accepted and ignored"},
	"type=floppy accepted":                                                         {want: "a container has disks only, and no floppy", why: "nothing is accepted and ignored"},
	"size on an existing volume is overwritten by the real size":                   {want: "ok", why: "the blueprint's own line gives size= with a volume", warns: "the volume's own size is used"},
	"image bytes larger than volume: API accepts, cinder refuses":                  {want: "Size of specified image 3GB is larger than volume size 1GB.", why: "refused before a volume is made"},
	"blank volume is named after the instance":                                     {want: "ok", why: "all volumes are: the manager names them"},
}

type texts []string

func (l *texts) String() string     { return strings.Join(*l, " ") }
func (l *texts) Set(s string) error { *l = append(*l, s); return nil }

// request reads the flags that make devices. The command has a reader of its own.
func (v vector) request(t *testing.T) (r Request) {
	t.Helper()
	fs := flag.NewFlagSet("boot", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&r.Flavor, "flavor", "", "")
	fs.StringVar(&r.Image, "image", "", "")
	fs.Var((*texts)(&r.ImageWith), "image-with", "")
	fs.StringVar(&r.BootVolume, "boot-volume", "", "")
	fs.StringVar(&r.Snapshot, "snapshot", "", "")
	fs.Var((*texts)(&r.BlockDevices), "block-device", "")
	fs.Var((*texts)(&r.Legacy), "block-device-mapping", "")
	fs.Var((*texts)(&r.Ephemerals), "ephemeral", "")
	fs.StringVar(&r.Swap, "swap", "", "")
	fs.StringVar(&r.MinCount, "min-count", "", "")
	fs.StringVar(&r.MaxCount, "max-count", "", "")
	fs.Var(new(texts), "meta", "")
	if err := fs.Parse(v.Argv); err != nil {
		t.Fatal(err)
	}
	if fs.NArg() != 1 || fs.Arg(0) != "NAME" {
		t.Fatalf("arguments %q", fs.Args())
	}
	return r
}

func (v vector) facts() Facts {
	c := v.Context
	f := Facts{
		Flavor: Flavor{c.Flavor.MemoryMB, c.Flavor.VCPUs, c.Flavor.RootGB, c.Flavor.EphemeralGB, c.Flavor.Swap},
		Images: map[string]volume.Image{}, Volumes: map[string]volume.Volume{}, Snapshots: map[string]volume.Snapshot{}, MaxLocal: c.MaxLocal,
	}
	for id, i := range c.Images {
		f.Images[id] = volume.Image{Status: i.Status, Size: i.Size, MinDisk: i.MinDisk, MinRAM: i.MinRAM}
	}
	for id, x := range c.Volumes {
		f.Volumes[id] = volume.Volume{Status: x.Status, Size: x.Size, Bootable: x.Bootable, Multiattach: x.Multiattach}
	}
	for id, s := range c.Snapshots {
		f.Snapshots[id] = volume.Snapshot{Status: s.Status, Size: s.Size, VolumeID: s.VolumeID}
	}
	for _, vt := range c.VolumeTypes {
		if f.VolumeTypes == nil {
			f.VolumeTypes = map[string]string{}
		}
		f.VolumeTypes[vt.ID] = vt.Name
	}
	return f
}

// run goes the whole way; first are the mappings as the client sends them.
func (v vector) run(t *testing.T) (first, final []Mapping, warnings []string, err error) {
	r := v.request(t)
	if err := r.CheckFlags(); err != nil {
		return nil, nil, nil, err
	}
	first, err = Mappings(r)
	if err != nil {
		return nil, nil, nil, err
	}
	f := v.facts()
	if f.Count, _, err = r.Counts(); err != nil {
		t.Fatal("Mappings let it pass: ", err)
	}
	final, warnings, err = Check(first, f)
	return first, final, warnings, err
}

func readVectors(t testing.TB) []vector {
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	return vectors
}

func TestVectors(t *testing.T) {
	vectors := readVectors(t)
	ran, used := 0, map[string]bool{}
	for _, v := range vectors {
		if _, ok := elsewhere[v.Name]; ok {
			used[v.Name] = true
			continue
		}
		ran++
		o, ours := outcomes[v.Name]
		used[v.Name] = ours
		t.Run(v.Name, func(t *testing.T) {
			want, text := v.Expect, v.ErrorContains
			switch {
			case ours && o.want == "ok":
				want = "ok"
			case ours:
				want, text = "error", o.want
			case v.Advice != "":
				t.Errorf("it has an advice that is in no table: %s", v.Advice)
			}
			first, final, warnings, err := v.run(t)
			if want == "error" {
				switch {
				case err == nil:
					t.Fatalf("no error; want one with %q", text)
				case text == "":
					t.Fatal("the vector has no text to look for")
				case !strings.Contains(err.Error(), text):
					t.Errorf("error %q\nlacks  %q", err, text)
				}
				return
			}
			if err != nil {
				t.Fatalf("error %v", err)
			}
			if o.warns != "" && !strings.Contains(strings.Join(warnings, "\n"), o.warns) {
				t.Errorf("warnings %q lack %q", warnings, o.warns)
			}
			if v.BDMs == nil && v.Expect == "ok" {
				t.Fatal("the vector has nothing to compare with")
			}
			for _, list := range [][]map[string]any{v.BDMs, v.Final} {
				if o.removes && list != nil {
					list[0]["delete_on_termination"] = true
				}
			}
			if v.BDMs != nil {
				compare(t, first, v.BDMs, false)
			}
			if v.Final == nil {
				v.Final = v.BDMs
			}
			if v.Final != nil {
				compare(t, final, v.Final, true)
			}
		})
	}
	for name := range elsewhere {
		if !used[name] {
			t.Errorf("no vector is named %q", name)
		}
	}
	for name := range outcomes {
		if !used[name] {
			t.Errorf("no vector is named %q", name)
		}
	}
	if len(vectors) != 141 || ran != len(vectors)-len(elsewhere) {
		t.Errorf("%d of %d vectors ran", ran, len(vectors))
	}
}

// compare holds mappings against those of a vector, in the API's words. The names
// that Check gives to devices without one are lxcboot's own.
func compare(t *testing.T, got []Mapping, want []map[string]any, named bool) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d mappings, want %d:\n%+v", len(got), len(want), got)
	}
	for i, w := range want {
		data, err := json.Marshal(got[i])
		if err != nil {
			t.Fatal(err)
		}
		var g map[string]any
		if err := json.Unmarshal(data, &g); err != nil {
			t.Fatal(err)
		}
		if id, ok := g["uuid"]; ok {
			delete(g, "uuid")
			g[string(got[i].Source)+"_id"] = id
		}
		if _, given := w["device_name"]; named && !given {
			delete(g, "device_name")
		}
		for key, value := range w {
			if g[key] != value {
				t.Errorf("mapping %d: %s is %v, want %v", i, key, g[key], value)
			}
		}
		for key, value := range g {
			if w[key] == nil && value != nil {
				t.Errorf("mapping %d: %s is %v, and is not wanted", i, key, value)
			}
		}
	}
}
