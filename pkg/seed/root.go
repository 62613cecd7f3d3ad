package seed

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/google/uuid"
	"go.yaml.in/yaml/v3"
)

// maxRead is the most that is read of a file in a root; a larger one is not what it is
// named for.
const maxRead = 1 << 20

// Root is what a root says of the machine that it is.
type Root struct {
	CloudInit  bool              // it is there, and nobody has switched it off
	Hostname   string            // of /etc/hostname
	MachineIDs []string          // the files that hold a machine id
	Meta       *Meta             // of the seed that lxcboot wrote; nil: there is none
	Foreign    bool              // there is a seed that somebody else wrote
	Resolved   bool              // systemd-resolved keeps /etc/resolv.conf
	held       map[string][]byte // the seed's files
	sources    []string          // cloud-init's datasource_list; nil: its own
	decides    string            // the name in cloud.cfg.d that sets it
	cached     []string          // what cloud-init keeps of the seeds that it has read
}

// Meta is the meta-data of NoCloud as lxcboot writes them.
type Meta struct {
	InstanceID string            `json:"instance-id"`
	Hostname   string            `json:"local-hostname,omitempty"`
	SSHKeys    []string          `json:"public-keys,omitempty"`
	Meta       map[string]string `json:"meta,omitempty"`
}

// of says whether the meta-data are of the machine that has a volume for its root. Its
// instance-id is the volume's, with something behind it where that had to be another.
func (m *Meta) of(volume string) bool {
	return m != nil && (m.InstanceID == volume || strings.HasPrefix(m.InstanceID, volume+"-"))
}

// parseMeta reads meta-data, and gives nil for those that lxcboot did not write: its own
// are JSON, of these fields alone, with an id that begins with a volume's or, as older
// ones do, is an instance's.
func parseMeta(data []byte) *Meta {
	var m Meta
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if d.Decode(&m) != nil || len(m.InstanceID) < 36 || uuid.Validate(m.InstanceID[:36]) != nil {
		return nil
	}
	return &m
}

// noCloudFiles are the files of a NoCloud seed.
var noCloudFiles = []string{"meta-data", "user-data", "vendor-data", "network-config"}

// Look reads what a root says of itself. What is not there, or not what it should be, is
// passed over.
func Look(root fs.FS) Root {
	r := Root{held: map[string][]byte{}}
	r.CloudInit = slices.ContainsFunc([]string{"usr/bin/cloud-init", "bin/cloud-init", "usr/local/bin/cloud-init"}, func(name string) bool { return there(root, name) }) &&
		!there(root, "etc/cloud/cloud-init.disabled")
	if name, ok := read(root, "etc/hostname"); ok {
		r.Hostname = hostnameOf(name)
	}
	r.MachineIDs = machineIDs(root)
	for _, name := range noCloudFiles {
		if data, ok := read(root, strings.TrimPrefix(noCloud, "/")+name); ok {
			r.held[name] = data
		}
	}
	r.Meta = parseMeta(r.held["meta-data"])
	r.Foreign = r.Meta == nil && len(r.held) > 0
	if to, err := fs.ReadLink(root, "etc/resolv.conf"); err == nil {
		r.Resolved = strings.Contains(to, "systemd/resolve/")
	}
	if r.CloudInit {
		r.sources, r.decides = sources(root)
	}
	r.cached = cached(root)
	return r
}

// there says whether a root has a file, also one of no bytes.
func there(root fs.FS, name string) bool {
	f, err := root.Open(name)
	if err == nil {
		f.Close()
	}
	return err == nil
}

// read reads a file of a root that is not too large.
func read(root fs.FS, name string) ([]byte, bool) {
	f, err := root.Open(name)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	return data, err == nil && len(data) <= maxRead
}

// hostnameOf is the name in an /etc/hostname, which may have comments.
func hostnameOf(data []byte) string {
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return ""
}

// machineIDs are the files that hold a machine id. systemd takes D-Bus's before it makes a
// new one; where that is a link, it leads to the other.
func machineIDs(root fs.FS) (all []string) {
	for _, name := range []string{"etc/machine-id", "var/lib/dbus/machine-id"} {
		info, err := fs.Lstat(root, name)
		if err != nil || !info.Mode().IsRegular() && name != "etc/machine-id" {
			continue
		}
		data, ok := read(root, name)
		if id := strings.TrimSpace(string(data)); ok && id != "" && id != "uninitialized" {
			all = append(all, "/"+name)
		}
	}
	return all
}

// cloudConfig is where cloud-init's settings are.
const cloudConfig = "etc/cloud/cloud.cfg"

// sources is cloud-init's datasource_list, and the name in cloud.cfg.d that has the last
// word on it; empty where it is cloud.cfg itself, or none.
func sources(root fs.FS) (list []string, decides string) {
	list = sourcesIn(root, cloudConfig)
	entries, _ := fs.ReadDir(root, cloudConfig+".d") // sorted, as cloud-init reads them
	for _, e := range entries {
		if path.Ext(e.Name()) != ".cfg" {
			continue
		}
		if l := sourcesIn(root, cloudConfig+".d/"+e.Name()); l != nil {
			list, decides = l, e.Name()
		}
	}
	return list, decides
}

func sourcesIn(root fs.FS, name string) []string {
	var cfg struct {
		List []string `yaml:"datasource_list"`
	}
	data, ok := read(root, name)
	// Most of these files have none, and hostile YAML is not worth the time.
	if !ok || len(data) > 1<<16 || !bytes.Contains(data, []byte("datasource_list")) || yaml.Unmarshal(data, &cfg) != nil {
		return nil
	}
	return cfg.List
}

// maxCached is how many files and directories of cloud-init's cache are looked at. Each
// machine leaves some 60, also those that were emptied for the next one.
const maxCached = 10_000

// cached are the files in which cloud-init keeps user data and what it made of them.
func cached(root fs.FS) (all []string) {
	seen := 0
	_ = fs.WalkDir(root, "var/lib/cloud/instances", func(name string, e fs.DirEntry, err error) error {
		if seen++; seen > maxCached {
			return fs.SkipAll
		}
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		info, err := e.Info()
		if err == nil && info.Size() > 0 {
			all = append(all, "/"+name)
		}
		return nil
	})
	return all
}
