package lxc

import (
	"encoding/xml"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

var update = flag.Bool("update", false, "write the golden files anew")

const testUUID = "7a2c3f0e-3a55-4d5e-9a3b-0d5a1f3f6c11"

func minimal() Config {
	return Config{UUID: testUUID, Name: "web1", MemoryMiB: 512, VCPUs: 1, Launch: "/run/launch", Root: "/srv/root"}
}

func full() Config {
	c := minimal()
	c.Title, c.Description = "Web", "first line\nsecond"
	c.MemoryMiB, c.SwapMiB, c.VCPUs = 2048, 1024, 2
	c.RootReadOnly = true
	c.IDMap = &IDMap{HostID: 100_000, Count: 65536}
	c.Filesystems = []Filesystem{{"/srv/b", "/data/b/", true}, {"/srv/a", "/data", false}}
	c.Disks = []Disk{{"/dev/loop7", "/dev/vdb", false}, {"/dev/loop8", "vdc", true}}
	c.Interfaces = []Interface{
		{Bridge: "br0", MAC: "52:54:00:12:34:56"},
		{Network: "default", Name: "eth1", Addresses: []string{"192.0.2.7/24", "2001:db8::7/64"}, Gateway: "192.0.2.1"},
		{Network: "six", Gateway: "fe80::1"},
	}
	return c
}

// hostile puts what XML must escape into every text that a user chooses.
func hostile() Config {
	const s = `]]></name><devices/>&amp;"'<!--`
	c := full()
	c.Name, c.Title, c.Description = strings.ReplaceAll(s, "/", "|"), s, s
	c.Root, c.Launch = "/"+s, "/l"+s
	c.Filesystems = []Filesystem{{"/" + s, "/m" + s, false}}
	c.Interfaces = []Interface{{Network: s}}
	return c
}

func TestXML(t *testing.T) {
	for name, cfg := range map[string]Config{"minimal": minimal(), "full": full(), "hostile": hostile()} {
		t.Run(name, func(t *testing.T) {
			got, err := cfg.XML()
			must(t, err)
			golden := filepath.Join("testdata", name+".xml")
			if *update {
				must(t, os.MkdirAll("testdata", 0o755))
				must(t, os.WriteFile(golden, []byte(got+"\n"), 0o644))
			}
			want, err := os.ReadFile(golden)
			must(t, err)
			if diff := cmp.Diff(strings.TrimSuffix(string(want), "\n"), got); diff != "" {
				t.Errorf("-want +got (go test -update writes it):\n%s", diff)
			}
		})
	}
}

// What libvirt read is what was meant, by its own schema and parser.
func TestXMLValid(t *testing.T) {
	conn, err := libvirt.NewConnect("test:///default")
	must(t, err)
	defer conn.Close()
	for name, cfg := range map[string]Config{"minimal": minimal(), "full": full(), "hostile": hostile()} {
		t.Run(name, func(t *testing.T) {
			text, err := cfg.XML()
			must(t, err)
			dom, err := conn.DomainDefineXMLFlags(text, libvirt.DOMAIN_DEFINE_VALIDATE)
			must(t, err)
			defer dom.Free()
			defer dom.Undefine()
			back, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE)
			must(t, err)
			var d libvirtxml.Domain
			must(t, d.Unmarshal(back))
			if d.Name != cfg.Name || d.UUID != cfg.UUID || d.Title != cfg.Title || d.Description != cfg.Description ||
				d.OS.Init != "/dev/.lxcboot/lxcboot-init" || len(d.OS.InitArgs)+len(d.OS.InitEnv) > 0 || d.Memory.Value != uint(cfg.MemoryMiB)*1024 {
				t.Errorf("libvirt read %+v %+v", d, d.OS)
			}
			if d.Features.PrivNet == nil {
				t.Error("there is no private network namespace")
			}
			fs := d.Devices.Filesystems
			if len(fs) != 2+len(cfg.Filesystems) || !slices.ContainsFunc(fs, func(f libvirtxml.DomainFilesystem) bool {
				return f.Target.Dir == "/dev/.lxcboot" && f.Source.Mount.Dir == cfg.Launch && f.ReadOnly != nil
			}) || fs[0].Target.Dir != "/" || fs[0].Source.Mount.Dir != cfg.Root || (fs[0].ReadOnly != nil) != cfg.RootReadOnly {
				t.Errorf("libvirt read the filesystems %+v", fs)
			}
			if len(d.Devices.Disks) != len(cfg.Disks) || len(d.Devices.Interfaces) != len(cfg.Interfaces) {
				t.Errorf("libvirt read the devices %+v", d.Devices)
			}
			ours, err := dom.GetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, MetadataURI, libvirt.DOMAIN_AFFECT_CONFIG)
			must(t, err)
			var meta metadata
			if err := xml.Unmarshal([]byte(ours), &meta); err != nil || meta.ID != cfg.UUID || meta.CreatedBy != "lxcboot" {
				t.Errorf("metadata %q: %+v, %v", ours, meta, err)
			}
		})
	}
}

// The capabilities of the XML are those that libvirt's schema knows, and none of
// those that reach beyond a container is among them.
func TestXMLCapabilities(t *testing.T) {
	for _, ns := range []bool{true, false} {
		text, err := xml.Marshal(capabilities(ns))
		must(t, err)
		for _, c := range []string{"sys_module", "sys_rawio", "sys_time", "mknod", "mac_", "audit_control", "dac_read", "syslog", "immutable", "wake"} {
			if strings.Contains(string(text), c) {
				t.Errorf("%s is kept", c)
			}
		}
		for _, c := range []string{"sys_ptrace", "sys_resource"} {
			if strings.Contains(string(text), c) != ns {
				t.Errorf("%s with a user namespace %v: kept %v", c, ns, !ns)
			}
		}
	}
}

func TestConfigInvalid(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"not a UUID":             func(c *Config) { c.UUID = "x" },
		"must not be empty":      func(c *Config) { c.Name = " " },
		"hold a '/'":             func(c *Config) { c.Name = "a/b" },
		`name "a\nb" holds`:      func(c *Config) { c.Name = "a\nb" },
		`title "\x1b[2J" holds`:  func(c *Config) { c.Title = "\x1b[2J" },
		`description "\x00"`:     func(c *Config) { c.Description = "\x00" },
		"memory of 0 MiB":        func(c *Config) { c.MemoryMiB = 0 },
		"-1 vcpus":               func(c *Config) { c.VCPUs = -1 },
		"range 5+0":              func(c *Config) { c.IDMap = &IDMap{5, 0} },
		"range 4294967295":       func(c *Config) { c.IDMap = &IDMap{1<<32 - 1, 65536} },
		"launch directory must":  func(c *Config) { c.Launch = "" },
		"root must be":           func(c *Config) { c.Root = "" },
		"second filesystem":      func(c *Config) { c.Filesystems = []Filesystem{{"/a", "/x/..", false}} },
		"mount point data":       func(c *Config) { c.Filesystems = []Filesystem{{"/a", "data", false}} },
		`"../x" is not the name`: func(c *Config) { c.Disks = []Disk{{"/dev/loop1", "../x", false}} },
		"needs a bridge":         func(c *Config) { c.Interfaces = []Interface{{}} },
		"one only":               func(c *Config) { c.Interfaces = []Interface{{Bridge: "a", Network: "b"}} },
		`named "a b"`:            func(c *Config) { c.Interfaces = []Interface{{Bridge: "a b"}} },
		"MAC address":            func(c *Config) { c.Interfaces = []Interface{{Bridge: "a", MAC: "01:00:00:00:00:00"}} },
		"with its prefix":        func(c *Config) { c.Interfaces = []Interface{{Bridge: "a", Addresses: []string{"1.2.3.4"}}} },
		"of a gateway":           func(c *Config) { c.Interfaces = []Interface{{Bridge: "a", Gateway: "x"}} },
	} {
		c := minimal()
		change(&c)
		if _, err := c.XML(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func FuzzXML(f *testing.F) {
	f.Add("web1", "a\nb", "/srv/root")
	f.Add("]]>", "\x1b", "/\u202e")
	f.Fuzz(func(t *testing.T, name, description, root string) {
		c := minimal()
		c.Name, c.Description, c.Root = name, description, root
		text, err := c.XML()
		if err != nil {
			return
		}
		var d libvirtxml.Domain
		if err := d.Unmarshal(text); err != nil {
			t.Fatal(err)
		}
		if d.Name != name || d.Description != description || d.Devices.Filesystems[0].Source.Mount.Dir != root {
			t.Errorf("%q came back as %+v", []string{name, description, root}, d)
		}
	})
}

func TestStartErrorText(t *testing.T) {
	for text, want := range map[string]string{
		"internal error: guest failed to start: 2025-01-02 03:04:05.678+0000: 12: error : virCgroupV2MakeGroup:9 : Unable to create directory /sys/fs/cgroup/unified/machine: No space left\n": "cgroup v2",
		"internal error: guest failed to start: 2025-01-02 03:04:05.678+0000: 12: error : f:9 : some \x1b[31mnew words\n":                                                                      `some \x1b[31mnew words`,
		"internal error: Timed out while reading log output: Failure in libvirt_lxc startup: Odd thing":                                                                                        "Odd thing",
		"Hook script execution failed: internal error: Child process (/etc/libvirt/hooks/lxc) unexpected exit status 1: the volume is gone":                                                    "the volume is gone",
		"internal error: guest failed to start: Timed out while reading log output: \n":                                                                                                        "does not say why",
	} {
		got := startError("ID", text)
		if !strings.Contains(got.Error(), want) || strings.ContainsAny(got.Error(), "\x1b\n") || !strings.HasPrefix(got.Error(), "container ID did not start: ") {
			t.Errorf("%q", got)
		}
	}
}

func TestTranslate(t *testing.T) {
	for want, err := range map[error]libvirt.Error{
		ErrNotFound: {Code: libvirt.ERR_NO_DOMAIN},
		ErrNoDaemon: {Code: libvirt.ERR_SYSTEM_ERROR, Domain: libvirt.FROM_RPC, Message: "Failed to connect socket"},
	} {
		if got := translate(err, "x"); !errors.Is(got, want) {
			t.Errorf("%v: %v", err, got)
		}
	}
	if got := translate(nil, "x"); got != nil {
		t.Error(got)
	}
	// Of any call but the first it says that something else is not supported.
	if got := translate(libvirt.Error{Code: libvirt.ERR_CONFIG_UNSUPPORTED, Message: "no such thing"}, "x"); errors.Is(got, ErrNoDriver) || !strings.Contains(got.Error(), "no such thing") {
		t.Error(got)
	}
}
