package seed

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// cloudRoot is a root with cloud-init that has run as a machine of a volume's.
func cloudRoot(volume string) fstest.MapFS {
	return fstest.MapFS{
		"usr/bin/cloud-init":                                        {Mode: 0o755},
		"etc/cloud/cloud.cfg":                                       {Data: []byte("users: [default]\n")},
		"etc/hostname":                                              {Data: []byte("# ours\nold1\n")},
		"etc/machine-id":                                            {Data: []byte("0123456789abcdef0123456789abcdef\n")},
		"var/lib/dbus/machine-id":                                   {Data: []byte("/etc/machine-id"), Mode: fs.ModeSymlink},
		"var/lib/cloud/seed/nocloud/meta-data":                      {Data: []byte(`{"instance-id": "` + volume + `", "local-hostname": "old1", "public-keys": ["ssh-ed25519 OLD"]}`)},
		"var/lib/cloud/seed/nocloud/user-data":                      {Data: []byte("#cloud-config\npassword: secret\n")},
		"var/lib/cloud/seed/nocloud/network-config":                 {Data: []byte("{}")},
		"var/lib/cloud/instances/" + volume + "/user-data.txt":      {Data: []byte("password: secret\n")},
		"var/lib/cloud/instances/" + volume + "/scripts/part-001":   {Data: []byte("#!/bin/sh\n")},
		"var/lib/cloud/instances/" + volume + "/sem/config_scripts": {},
		"var/lib/cloud/instance":                                    {Data: []byte("instances/" + volume), Mode: fs.ModeSymlink},
	}
}

func paths(files map[string]string) []string { return slices.Sorted(maps.Keys(files)) }

const secrets = "/var/lib/cloud/instances/"

// TestIdentity: who a root is after a boot, by where its volume comes from and what
// stands in it.
func TestIdentity(t *testing.T) {
	brought := made
	brought.Made = false
	plain := fstest.MapFS{"etc/hostname": {Data: []byte("old1\n")}, "etc/machine-id": {Data: []byte("0123456789abcdef0123456789abcdef\n")}}
	neverBooted := cloudRoot(vol)
	for name := range neverBooted {
		if strings.HasPrefix(name, "var/lib/cloud") {
			delete(neverBooted, name)
		}
	}
	foreign := maps.Clone(neverBooted)
	foreign["var/lib/cloud/seed/nocloud/meta-data"] = &fstest.MapFile{Data: []byte("instance-id: mine\n")}
	foreign["var/lib/cloud/seed/nocloud/user-data"] = &fstest.MapFile{Data: []byte("#cloud-config\n")}
	// cloud-init was taken out, and its seed and what it kept were not.
	taken := cloudRoot(other)
	delete(taken, "usr/bin/cloud-init")
	half := cloudRoot(vol)
	delete(half, "var/lib/cloud/seed/nocloud/user-data")
	almost := maps.Clone(neverBooted)
	almost["var/lib/cloud/seed/nocloud/meta-data"] = &fstest.MapFile{Data: []byte(`{"instance-id": "` + other + `", "availability-zone": "nova"}`)}
	short := maps.Clone(neverBooted)
	short["var/lib/cloud/seed/nocloud/meta-data"] = &fstest.MapFile{Data: []byte(`{"instance-id": "iid-` + other + `"}`)}
	huge := maps.Clone(neverBooted)
	huge["var/lib/cloud/seed/nocloud/meta-data"] = &fstest.MapFile{Data: []byte(`{"instance-id": "` + other + `"}` + strings.Repeat(" ", maxRead))}
	const dir = noCloud
	id := []string{"/etc/hostname", "/etc/machine-id"}
	full := []string{dir + "meta-data", dir + "network-config", dir + "user-data", dir + "vendor-data"}
	for name, c := range map[string]struct {
		seed     Seed
		machine  Machine
		root     fs.FS
		written  []string
		instance string // id, in the meta-data
		hostname string // there
	}{
		"from an image":                   {Seed{}, made, neverBooted, slices.Concat(id, full), vol, "web1"},
		"without cloud-init":              {Seed{}, made, plain, append(id, dir+"meta-data"), vol, "web1"},
		"nothing in it":                   {Seed{}, made, fstest.MapFS{}, []string{"/etc/hostname", dir + "meta-data"}, vol, "web1"},
		"from a snapshot":                 {Seed{}, made, cloudRoot(other), slices.Concat(id, []string{secrets + other + "/scripts/part-001", secrets + other + "/user-data.txt"}, full), vol, "web1"},
		"its image has a seed of its own": {Seed{}, made, foreign, id, "", ""},
		"one of JSON that says more":      {Seed{}, made, almost, id, "", ""},
		"one of an id of another kind":    {Seed{}, made, short, id, "", ""},
		"what is too large is no seed":    {Seed{}, brought, huge, full, vol, "old1"},
		"its old seed is read by nobody":  {Seed{}, made, taken, slices.Concat(id, []string{secrets + other + "/scripts/part-001", secrets + other + "/user-data.txt"}, full), vol, "web1"},
		"and it is replaced when asked":   {Seed{NoCloud: true}, made, foreign, slices.Concat(id, full), vol, "web1"},
		"bare":                            {Seed{Bare: true}, made, cloudRoot(other), nil, "", ""},
		"bare, with a name":               {Seed{Bare: true, Hostname: "x"}, made, cloudRoot(other), []string{"/etc/hostname"}, "", ""},
		"a clone that was brought":        {Seed{}, brought, cloudRoot(other), slices.Concat(id, []string{secrets + other + "/scripts/part-001", secrets + other + "/user-data.txt"}, full), vol, "web1"},
		"a copy by the store's word":      {Seed{Copy: true}, brought, plain, append(id, dir+"meta-data"), vol, "web1"},
		"a copy that has run":             {Seed{Copy: true}, brought, cloudRoot(vol), []string{dir + "meta-data", dir + "network-config", dir + "vendor-data"}, vol, "old1"},
		"brought":                         {Seed{}, brought, plain, nil, "", ""},
		"brought, with cloud-init":        {Seed{}, brought, neverBooted, full, vol, "old1"},
		"brought, with a name":            {Seed{Hostname: "x"}, brought, cloudRoot(vol), []string{"/etc/hostname", dir + "meta-data", dir + "network-config", dir + "vendor-data"}, vol, "x"},
		"brought, with another's seed":    {Seed{NoCloud: true}, brought, foreign, full, vol, "old1"},
		"brought, with half of a seed":    {Seed{}, brought, half, full, vol, "old1"},
		"the same user data":              {Seed{UserData: []byte("#cloud-config\npassword: secret\n")}, brought, cloudRoot(vol), []string{dir + "meta-data", dir + "network-config", dir + "vendor-data"}, vol, "old1"},
		"other user data":                 {Seed{UserData: []byte("#cloud-config\n")}, brought, cloudRoot(vol), full, vol + "-aaaaaaaa", "old1"},
		"a new identity":                  {Seed{NewIdentity: true}, brought, cloudRoot(vol), slices.Concat(id, []string{secrets + vol + "/scripts/part-001", secrets + vol + "/user-data.txt"}, full), vol + "-aaaaaaaa", "web1"},
		"which stays its own":             {Seed{}, brought, cloudRoot(vol + "-12345678"), []string{dir + "meta-data", dir + "network-config", dir + "vendor-data"}, vol + "-12345678", "old1"},
	} {
		t.Run(name, func(t *testing.T) {
			got := render(t, c.seed, c.machine, Look(c.root))
			slices.Sort(c.written)
			if !slices.Equal(paths(got), c.written) {
				t.Errorf("wrote\n%q, not\n%q", paths(got), c.written)
			}
			if c.instance == "" {
				return
			}
			meta := parseMeta([]byte(got[dir+"meta-data"]))
			if meta == nil || meta.InstanceID != c.instance || meta.Hostname != c.hostname {
				t.Errorf("it says that it is %s", got[dir+"meta-data"])
			}
			if old := Look(c.root).Meta; meta != nil && old != nil && !slices.Contains(c.written, "/etc/machine-id") && !slices.Equal(meta.SSHKeys, old.SSHKeys) {
				t.Errorf("the machine that it was had the keys %q, and has %q", old.SSHKeys, meta.SSHKeys)
			}
			if fresh := slices.Contains(c.written, "/etc/machine-id"); fresh {
				for p, text := range got {
					if strings.Contains(text, "secret") || strings.Contains(text, "OLD") || p == "/etc/machine-id" && text != "" {
						t.Errorf("a new machine has in %s of the old one's: %q", p, text)
					}
				}
			}
		})
	}
}

// TestSame: what stands there already is not written again.
func TestSame(t *testing.T) {
	root := cloudRoot(other)
	for p, text := range render(t, Seed{}, made, Look(root)) {
		root[strings.TrimPrefix(p, "/")] = &fstest.MapFile{Data: []byte(text)}
	}
	brought := made
	brought.Made = false
	if got := render(t, Seed{Copy: true}, brought, Look(root)); len(got) != 0 {
		t.Errorf("written again: %q", paths(got))
	}
}

func TestMachineIDs(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef\n"
	for name, c := range map[string]struct {
		root fstest.MapFS
		want []string
	}{
		"both are files":              {fstest.MapFS{"etc/machine-id": {Data: []byte(id)}, "var/lib/dbus/machine-id": {Data: []byte(id)}}, []string{"/etc/machine-id", "/var/lib/dbus/machine-id"}},
		"a link to dbus":              {fstest.MapFS{"etc/machine-id": {Data: []byte("../var/lib/dbus/machine-id"), Mode: fs.ModeSymlink}, "var/lib/dbus/machine-id": {Data: []byte(id)}}, []string{"/etc/machine-id", "/var/lib/dbus/machine-id"}},
		"a link to it":                {fstest.MapFS{"etc/machine-id": {Data: []byte(id)}, "var/lib/dbus/machine-id": {Data: []byte("../../../etc/machine-id"), Mode: fs.ModeSymlink}}, []string{"/etc/machine-id"}},
		"empty":                       {fstest.MapFS{"etc/machine-id": {}}, nil},
		"to be made":                  {fstest.MapFS{"etc/machine-id": {Data: []byte("uninitialized\n")}}, nil},
		"a link to what is not there": {fstest.MapFS{"etc/machine-id": {Data: []byte("/run/id"), Mode: fs.ModeSymlink}}, nil},
		"a directory":                 {fstest.MapFS{"etc/machine-id/x": {}}, nil},
	} {
		if got := Look(c.root).MachineIDs; !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
	}
}

// TestSources: NoCloud is put into cloud-init's list where a list leaves it out, by a file
// that has the last word.
func TestSources(t *testing.T) {
	for name, c := range map[string]struct {
		files      map[string]string // below /etc/cloud
		file, want string
	}{
		"none":           {nil, "", ""},
		"there":          {map[string]string{"cloud.cfg": "datasource_list: [ NoCloud, None ]\n"}, "", ""},
		"missing":        {map[string]string{"cloud.cfg": "a: 1\ndatasource_list:\n- Azure\n- None\n"}, "zz_lxcboot.cfg", "datasource_list: [NoCloud, Azure, None]\n"},
		"empty":          {map[string]string{"cloud.cfg": "datasource_list: []\n"}, "zz_lxcboot.cfg", "datasource_list: [NoCloud]\n"},
		"overridden":     {map[string]string{"cloud.cfg": "datasource_list: [NoCloud]\n", "cloud.cfg.d/90_dpkg.cfg": "datasource_list: [Ec2]\n", "cloud.cfg.d/91.cfg": "x: 1\n"}, "zz_lxcboot.cfg", "datasource_list: [NoCloud, Ec2]\n"},
		"mended":         {map[string]string{"cloud.cfg.d/90_dpkg.cfg": "datasource_list: [Ec2]\n", "cloud.cfg.d/zz_lxcboot.cfg": "datasource_list: [NoCloud, Ec2]\n"}, "", ""},
		"after ours":     {map[string]string{"cloud.cfg.d/zzz.cfg": "datasource_list: [Ec2]\n"}, "zzz_lxcboot.cfg", "datasource_list: [NoCloud, Ec2]\n"},
		"too large":      {map[string]string{"cloud.cfg": "datasource_list: [Ec2]\n#" + strings.Repeat("x", 1<<16)}, "", ""},
		"no settings":    {map[string]string{"cloud.cfg.d/zzz.txt": "datasource_list: [Ec2]\n", "cloud.cfg": "datasource_list: [{\n"}, "", ""},
		"of other kinds": {map[string]string{"cloud.cfg": "datasource_list: [{a: 1}, Ec2]\n"}, "", ""},
	} {
		root := fstest.MapFS{"usr/bin/cloud-init": {}}
		for p, text := range c.files {
			root["etc/cloud/"+p] = &fstest.MapFile{Data: []byte(text)}
		}
		got := render(t, Seed{}, made, Look(root))
		for p := range got {
			if base, ok := strings.CutPrefix(p, "/etc/cloud/cloud.cfg.d/"); ok && base != c.file {
				t.Errorf("%s: it wrote %s", name, p)
			}
		}
		if text := got["/etc/cloud/cloud.cfg.d/"+c.file]; c.file != "" && !strings.HasSuffix(text, c.want) {
			t.Errorf("%s: it wrote %q into %s, not %q", name, text, c.file, c.want)
		}
	}
}

// TestCached: what many machines before this one have left is found, and of a root that
// was made to have no end of it not more.
func TestCached(t *testing.T) {
	root := fstest.MapFS{}
	for n := range 2 * maxCached {
		root[fmt.Sprintf("var/lib/cloud/instances/i/%06d", n)] = &fstest.MapFile{Data: []byte("x")}
	}
	// Each machine leaves some 60 files and directories.
	if got := len(Look(root).cached); got < 100*60 || got > maxCached {
		t.Errorf("%d files are found", got)
	}
}

// TestCloudInit: it is found where packages, and pip, put it; one that is not to run has
// no seed.
func TestCloudInit(t *testing.T) {
	for _, name := range []string{"usr/bin/cloud-init", "bin/cloud-init", "usr/local/bin/cloud-init"} {
		root := fstest.MapFS{name: {Mode: 0o755}}
		if !Look(root).CloudInit {
			t.Errorf("%s is not found", name)
		}
		root["etc/cloud/cloud-init.disabled"] = &fstest.MapFile{}
		if Look(root).CloudInit {
			t.Errorf("%s is taken for one that runs", name)
		}
	}
}
