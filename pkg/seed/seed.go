// Package seed makes the files that tell a container who it is: cloud-init's
// NoCloud seed, the host name, ssh keys and the user's own files, by what its root says of
// itself. It writes nothing.
package seed

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// MaxUserData is the most bytes of user data, as in Nova (65,535 in base64).
const MaxUserData = 49_151

// Seed is what the container is told. One that Check found good is the same after it
// was written as JSON.
type Seed struct {
	Hostname    string   `json:"hostname,omitempty"` // as asked; empty: the instance's for a new machine, else the root's own
	SSHKeys     []string `json:"ssh_keys,omitempty"`
	UserData    []byte   `json:"user_data,omitzero"`     // empty is not nil
	NoCloud     bool     `json:"nocloud,omitempty"`      // cloud-init's seed even when the root has no cloud-init
	Bare        bool     `json:"bare,omitempty"`         // nothing is written but what is asked for
	NewIdentity bool     `json:"new_identity,omitempty"` // it is a new machine, whatever the root says
	DNS         bool     `json:"dns,omitempty"`          // a card has name servers
	Copy        bool     `json:"copy,omitempty"`         // the store made the root volume from something, and no boot has
	Files       []File   `json:"files,omitempty"`
}

// Machine is what the seed's instance is, beside what was asked for.
type Machine struct {
	Instance string // id
	Volume   string // id of the root volume
	Made     bool   // the boot made the root volume
	Hostname string
	Meta     map[string]string
	NICs     []NIC
}

// NIC is a network interface with what the seed can say of it. Its name in the container
// tells which it is: a veth has no permanent hardware address, which networkd would want
// of a match by address.
type NIC struct {
	Name      string
	Addresses []netip.Prefix // none: by DHCP
	Gateways  []netip.Addr   // the default routes
	DNS       []netip.Addr
}

// File is a file to be written into the root, owned by the container's root.
type File struct {
	Path string `json:"path"` // absolute, in the container
	Data []byte `json:"data"`
	Mode uint32 `json:"mode"`
}

// Asked says whether the user asked for something that has to be written.
func (s Seed) Asked() bool {
	return s.Hostname != "" || s.NewIdentity || s.DNS || s.wantsNoCloud() || len(s.Files) > 0
}

// Empty says whether there is nothing to write, whatever the root is.
func (s Seed) Empty() bool { return s.Bare && !s.Asked() }

func (s Seed) wantsNoCloud() bool {
	return s.NoCloud || len(s.SSHKeys) > 0 || s.UserData != nil
}

const noCloud = "/var/lib/cloud/seed/nocloud/"

// Render gives the files to write into a root that is to be a machine, the user's own
// last, so that they win.
//
// What the boot made, and what is a copy by the store's word or because lxcboot's seed in
// it is of another volume, is a new machine: it gets its name and its instance-id, and
// has neither the machine id nor the user data of the one that it was copied from. Any
// other keeps its name and its ids, unless it is asked for new ones.
func (s Seed) Render(m Machine, r Root) ([]File, error) {
	fresh := s.fresh(m, r)
	name := s.Hostname
	if name == "" && fresh {
		name = m.Hostname
	}
	var files []File
	if name != "" {
		files = append(files, File{Path: "/etc/hostname", Data: []byte(name + "\n"), Mode: 0o644})
	}
	if fresh {
		for _, id := range r.MachineIDs {
			files = append(files, File{Path: id, Mode: 0o444})
		}
	}
	if len(s.SSHKeys) > 0 {
		files = append(files, File{Path: "/root/.ssh/authorized_keys", Data: []byte(strings.Join(s.SSHKeys, "\n") + "\n"), Mode: 0o600})
	}
	if dns, ok := resolver(m.NICs, r); ok {
		files = append(files, dns)
	}
	if !s.Bare {
		seed, err := s.noCloud(m, r, fresh, name)
		if err != nil {
			return nil, err
		}
		files = append(files, seed...)
	}
	return append(files, s.Files...), nil
}

// fresh says whether the root is a new machine.
func (s Seed) fresh(m Machine, r Root) bool {
	switch {
	case s.Bare:
		return false
	case s.NewIdentity, m.Made:
		return true
	case r.Meta != nil:
		return !r.Meta.of(m.Volume)
	}
	return s.Copy
}

// noCloud is the seed that cloud-init reads as its NoCloud data source. A root without
// cloud-init gets of it what tells later whose machine it is.
func (s Seed) noCloud(m Machine, r Root, fresh bool, name string) ([]File, error) {
	wanted := s.wantsNoCloud()
	if !wanted && (r.Foreign || !fresh && r.Meta == nil && !r.CloudInit) {
		return nil, nil
	}
	files := map[string][]byte{}
	var err error
	if files["meta-data"], err = indent(s.meta(m, r, fresh, name)); err != nil {
		return nil, err
	}
	if wanted || r.CloudInit || r.held["network-config"] != nil {
		if files["network-config"], err = indent(networkConfig(m.NICs)); err != nil {
			return nil, err
		}
		files["vendor-data"] = []byte(vendorData)
	}
	switch {
	case s.UserData != nil:
		files["user-data"] = s.UserData
	case fresh && r.held["user-data"] != nil, (wanted || r.CloudInit) && (r.Meta == nil || r.held["user-data"] == nil):
		files["user-data"] = []byte("#cloud-config\n{}\n")
	}
	var all []File
	if fresh && r.Meta != nil {
		for _, path := range r.cached {
			all = append(all, File{Path: path, Mode: 0o600})
		}
	}
	for _, name := range noCloudFiles {
		if data, ok := files[name]; ok && !bytes.Equal(data, r.held[name]) {
			all = append(all, File{Path: noCloud + name, Data: data, Mode: 0o600})
		}
	}
	if r.sources != nil && !slices.Contains(r.sources, "NoCloud") {
		all = append(all, r.withNoCloud())
	}
	return all, nil
}

// meta is the seed's meta-data. The machine that a root already is keeps them, but for
// what was asked for; user data that cloud-init has not seen there need an instance-id that
// it has not seen either.
func (s Seed) meta(m Machine, r Root, fresh bool, name string) Meta {
	meta := Meta{InstanceID: m.Volume, Hostname: name, SSHKeys: s.SSHKeys, Meta: m.Meta}
	if !fresh {
		old := r.Meta
		if old == nil {
			old = &Meta{InstanceID: m.Volume, Hostname: r.Hostname}
		}
		meta.InstanceID = old.InstanceID
		if name == "" {
			meta.Hostname = old.Hostname
		}
		if len(s.SSHKeys) == 0 {
			meta.SSHKeys = old.SSHKeys
		}
	}
	if r.Meta.of(m.Volume) && (fresh || s.UserData != nil && !bytes.Equal(s.UserData, r.held["user-data"])) {
		meta.InstanceID = m.Volume + "-" + m.Instance[:8]
	}
	return meta
}

// vendorData lets cloud-init take the network of the seed at each boot, and not at the
// first alone: the next instance of a volume may have another one.
const vendorData = "#cloud-config\nupdates: {network: {when: [boot-new-instance, boot]}}\n"

// networkConfig is cloud-init's network configuration, version 2.
func networkConfig(nics []NIC) any {
	ethernets := map[string]any{}
	for _, nic := range nics {
		eth := map[string]any{"dhcp4": len(nic.Addresses) == 0}
		if len(nic.Addresses) > 0 {
			eth["addresses"] = nic.Addresses
		}
		var routes []map[string]string
		for _, gw := range nic.Gateways {
			all := "0.0.0.0/0" // "default" is not what all of cloud-init's renderers know
			if gw.Is6() {
				all = "::/0"
			}
			routes = append(routes, map[string]string{"to": all, "via": gw.String()})
		}
		if routes != nil {
			eth["routes"] = routes
		}
		if len(nic.DNS) > 0 {
			eth["nameservers"] = map[string]any{"addresses": nic.DNS}
		}
		ethernets[nic.Name] = eth
	}
	return map[string]any{"version": 2, "ethernets": ethernets}
}

// resolver is a file that names the name servers that were asked for, in the way of who
// keeps /etc/resolv.conf.
func resolver(nics []NIC, r Root) (f File, ok bool) {
	var servers []string
	for _, nic := range nics {
		for _, s := range nic.DNS {
			servers = append(servers, s.String())
		}
	}
	switch {
	case servers == nil:
		return f, false
	case r.Resolved:
		return File{Path: "/etc/systemd/resolved.conf.d/lxcboot.conf", Data: []byte("[Resolve]\nDNS=" + strings.Join(servers, " ") + "\n"), Mode: 0o644}, true
	}
	return File{Path: "/etc/resolv.conf", Data: []byte("nameserver " + strings.Join(servers, "\nnameserver ") + "\n"), Mode: 0o644}, true
}

// withNoCloud is a file of cloud-init's settings that puts NoCloud before the sources that
// it is to look at. It is of one line, which cloud-init's ds-identify wants.
func (r Root) withNoCloud() File {
	name := "zz_lxcboot.cfg"
	if name <= r.decides { // the last one in order decides
		name = strings.TrimSuffix(r.decides, ".cfg") + "_lxcboot.cfg"
	}
	text := "# Written by lxcboot: the seed is a NoCloud one.\ndatasource_list: [" + strings.Join(append([]string{"NoCloud"}, r.sources...), ", ") + "]\n"
	return File{Path: "/" + cloudConfig + ".d/" + name, Data: []byte(text), Mode: 0o644}
}

// indent is JSON, which is YAML, and leaves nothing to quote.
func indent(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return append(data, '\n'), err
}

// Check refuses what cannot be written.
func (s Seed) Check() error {
	switch {
	case s.Bare && s.UserData != nil:
		return failure.Invalid("user data are for cloud-init's seed, and --config-drive false writes none; leave one of them out")
	case s.Bare && s.NewIdentity:
		return failure.Invalid("--new-identity writes into the root, and --config-drive false leaves it as it is; leave one of them out")
	}
	if len(s.UserData) > MaxUserData {
		return failure.Invalid("the user data are of %d bytes, and at most %d are allowed", len(s.UserData), MaxUserData)
	}
	for _, key := range s.SSHKeys {
		if !utf8.ValidString(key) {
			return failure.Invalid("the ssh key %.40q is not UTF-8", key)
		}
	}
	var paths []string
	for _, f := range s.Files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" || strings.ContainsRune(f.Path, 0) {
			return failure.Invalid("the file %q is not an absolute path of a file in the container", f.Path)
		}
		if !utf8.ValidString(f.Path) {
			return failure.Invalid("the file %q has a name that is not UTF-8", f.Path)
		}
		if slices.Contains(paths, f.Path) {
			return failure.Invalid("the file %q is given twice", f.Path)
		}
		paths = append(paths, f.Path)
	}
	return nil
}

// ParseSSHKeys reads public keys, one a line, with comments and empty lines as in
// an authorized_keys file.
func ParseSSHKeys(data []byte) ([]string, error) {
	var keys []string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.Contains(line, "PRIVATE KEY") {
			return nil, failure.Invalid("this is a private key; give the public one (its name ends in .pub)")
		}
		fields := strings.Fields(line)
		known := slices.ContainsFunc(fields, func(f string) bool {
			return strings.HasPrefix(f, "ssh-") || strings.HasPrefix(f, "ecdsa-") || strings.HasPrefix(f, "sk-")
		})
		if len(fields) < 2 || !known {
			return nil, failure.Invalid("the line %.40q is not an ssh public key", line)
		}
		keys = append(keys, line)
	}
	if len(keys) == 0 {
		return nil, failure.Invalid("there is no ssh public key in it")
	}
	return keys, nil
}
