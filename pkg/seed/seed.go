// Package seed makes the files that tell a container who it is: cloud-init's
// NoCloud seed, the host name, ssh keys and the user's own files. It does no I/O.
package seed

import (
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
// was written as JSON, but for what its instance has anyway.
type Seed struct {
	InstanceID string            `json:"-"`
	Hostname   string            `json:"hostname,omitempty"` // as asked; empty: the root's own stays
	SSHKeys    []string          `json:"ssh_keys,omitempty"`
	UserData   []byte            `json:"user_data,omitzero"` // empty is not nil
	NoCloud    bool              `json:"nocloud,omitempty"`  // --config-drive: the seed even when nothing else asks for it
	Meta       map[string]string `json:"-"`
	NICs       []NIC             `json:"-"`
	Files      []File            `json:"files,omitempty"`
}

// NIC is a network interface with what the seed can say of it. Its name in the container
// tells which it is: a veth has no permanent hardware address, which networkd would want
// of a match by address.
type NIC struct {
	Name    string
	Address netip.Prefix // invalid: by DHCP
	Gateway netip.Addr
}

// File is a file to be written into the root, owned by the container's root.
type File struct {
	Path string `json:"path"` // absolute, in the container
	Data []byte `json:"data"`
	Mode uint32 `json:"mode"`
}

// Empty says whether there is nothing to write.
func (s Seed) Empty() bool {
	return s.Hostname == "" && !s.wantsNoCloud() && len(s.Files) == 0
}

func (s Seed) wantsNoCloud() bool {
	return s.NoCloud || len(s.SSHKeys) > 0 || s.UserData != nil
}

const noCloud = "/var/lib/cloud/seed/nocloud/"

// Render gives the files of the seed, the user's own last, so that they win.
func (s Seed) Render() ([]File, error) {
	var files []File
	if s.Hostname != "" {
		files = append(files, File{Path: "/etc/hostname", Data: []byte(s.Hostname + "\n"), Mode: 0o644})
	}
	if len(s.SSHKeys) > 0 {
		files = append(files, File{Path: "/root/.ssh/authorized_keys", Data: []byte(strings.Join(s.SSHKeys, "\n") + "\n"), Mode: 0o600})
	}
	if s.wantsNoCloud() {
		seed, err := s.noCloud()
		if err != nil {
			return nil, err
		}
		files = append(files, seed...)
	}
	return append(files, s.Files...), nil
}

// noCloud is the seed that cloud-init reads as its NoCloud data source. JSON is
// YAML, and leaves nothing to quote.
func (s Seed) noCloud() ([]File, error) {
	meta := map[string]any{"instance-id": s.InstanceID}
	if s.Hostname != "" {
		meta["local-hostname"] = s.Hostname
	}
	if len(s.SSHKeys) > 0 {
		meta["public-keys"] = s.SSHKeys
	}
	if len(s.Meta) > 0 {
		meta["meta"] = s.Meta
	}
	ethernets := map[string]any{}
	for _, nic := range s.NICs {
		eth := map[string]any{"dhcp4": !nic.Address.IsValid()}
		if nic.Address.IsValid() {
			eth["addresses"] = []string{nic.Address.String()}
		}
		if nic.Gateway.IsValid() {
			eth["routes"] = []map[string]string{{"to": "default", "via": nic.Gateway.String()}}
		}
		ethernets[nic.Name] = eth
	}
	user := s.UserData
	if user == nil {
		user = []byte("#cloud-config\n{}\n")
	}
	var files []File
	for _, f := range []struct {
		name string
		data any
	}{{"meta-data", meta}, {"network-config", map[string]any{"version": 2, "ethernets": ethernets}}} {
		data, err := json.MarshalIndent(f.data, "", "  ")
		if err != nil {
			return nil, err
		}
		files = append(files, File{Path: noCloud + f.name, Data: append(data, '\n'), Mode: 0o600})
	}
	return append(files, File{Path: noCloud + "user-data", Data: user, Mode: 0o600}), nil
}

// Check refuses what cannot be written.
func (s Seed) Check() error {
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
