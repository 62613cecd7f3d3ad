package seed

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

const vol, other = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"

var made = Machine{Instance: "aaaaaaaa-2222-4333-8444-555555555555", Volume: vol, Made: true, Hostname: "web1"}

// render gives what a seed writes into a root, by path.
func render(t *testing.T, s Seed, m Machine, r Root) map[string]string {
	t.Helper()
	files, err := s.Render(m, r)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range files {
		got[f.Path] = string(f.Data)
	}
	return got
}

// decoded is what a text of YAML, or of JSON, says.
func decoded(t *testing.T, text string) (v any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Error(err)
	}
	return v
}

func TestRender(t *testing.T) {
	s := Seed{
		Hostname: "asked", SSHKeys: []string{"ssh-ed25519 AAAA me"}, UserData: []byte("#!/bin/sh\n"),
		Files: []File{{Path: "/etc/hostname", Data: []byte("mine\n"), Mode: 0o600}},
	}
	m := made
	m.Meta = map[string]string{"role": "web"}
	m.NICs = []NIC{
		{
			Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24"), netip.MustParsePrefix("fd00::5/64")},
			Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, DNS: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")},
		},
		{Name: "eth1"},
	}
	got := render(t, s, m, Root{})
	var meta Meta
	if err := json.Unmarshal([]byte(got[noCloud+"meta-data"]), &meta); err != nil {
		t.Fatal(err)
	}
	if meta.InstanceID != vol || meta.Hostname != "asked" || len(meta.SSHKeys) != 1 || meta.Meta["role"] != "web" {
		t.Errorf("meta-data: %+v", meta)
	}
	if got[noCloud+"user-data"] != "#!/bin/sh\n" {
		t.Errorf("user-data: %q", got[noCloud+"user-data"])
	}
	// It names the cards, without a "match" or "set-name": a veth has no address to be matched by.
	const network = `{"version": 2, "ethernets": {
		"eth0": {"dhcp4": false, "addresses": ["10.0.0.5/24", "fd00::5/64"], "nameservers": {"addresses": ["10.0.0.2", "10.0.0.3"]},
			"routes": [{"to": "0.0.0.0/0", "via": "10.0.0.1"}, {"to": "::/0", "via": "fd00::1"}]},
		"eth1": {"dhcp4": true}}}`
	if diff := cmp.Diff(decoded(t, network), decoded(t, got[noCloud+"network-config"])); diff != "" {
		t.Errorf("network-config:\n%s", diff)
	}
	// Without this cloud-init takes the network of an instance-id once.
	const each = `{"updates": {"network": {"when": ["boot-new-instance", "boot"]}}}`
	if vendor := got[noCloud+"vendor-data"]; !strings.HasPrefix(vendor, "#cloud-config\n") || !cmp.Equal(decoded(t, each), decoded(t, vendor)) {
		t.Errorf("vendor-data: %s", vendor)
	}
	if got["/etc/resolv.conf"] != "nameserver 10.0.0.2\nnameserver 10.0.0.3\n" {
		t.Errorf("resolv.conf: %q", got["/etc/resolv.conf"])
	}
	if r := render(t, Seed{Bare: true}, m, Root{Resolved: true}); len(r) != 1 || r["/etc/systemd/resolved.conf.d/lxcboot.conf"] != "[Resolve]\nDNS=10.0.0.2 10.0.0.3\n" {
		t.Errorf("systemd-resolved is told %q", r)
	}
	if got["/etc/hostname"] != "mine\n" {
		t.Errorf("the user's own file does not win: %q", got["/etc/hostname"])
	}
	if got["/root/.ssh/authorized_keys"] != "ssh-ed25519 AAAA me\n" {
		t.Errorf("authorized_keys: %q", got["/root/.ssh/authorized_keys"])
	}
}

func TestAsked(t *testing.T) {
	for _, s := range []Seed{{}, {Bare: true}, {Copy: true}} {
		if s.Asked() || s.Empty() != s.Bare {
			t.Errorf("%+v is asked for, or it is wrong that it is empty: %v", s, s.Empty())
		}
	}
	for _, s := range []Seed{{Hostname: "h"}, {SSHKeys: []string{"k"}}, {UserData: []byte{}}, {NoCloud: true}, {Files: []File{{}}}, {NewIdentity: true}, {DNS: true}} {
		s.Bare = true
		if !s.Asked() || s.Empty() {
			t.Errorf("%+v is not asked for", s)
		}
	}
}

// TestJSON writes seeds down and reads them again, as they are kept until the first
// start.
func TestJSON(t *testing.T) {
	binary := make([]byte, 1<<20)
	for i := range binary {
		binary[i] = byte(i * i >> 3)
	}
	for name, s := range map[string]Seed{
		"nothing":         {},
		"empty user data": {UserData: []byte{}},
		"all": {
			Hostname: "web1", SSHKeys: []string{"ssh-ed25519 AAAA <m\u00fcller>&\u2028", "k"}, UserData: binary[:MaxUserData], NoCloud: true,
			Files: []File{
				{Path: "/bin/x", Data: binary, Mode: 0o6755},
				{Path: "/srv/\u00fc <&>\"\x01\u2028", Data: []byte("\x00\xff\r\n"), Mode: 0},
				{Path: "/empty", Data: []byte{}, Mode: 0o1600},
			},
		},
	} {
		if err := s.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var got Seed
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, s) || got.Empty() != s.Empty() {
			t.Errorf("%s: it became %.200q", name, fmt.Sprintf("%+v", got))
		}
	}
}

func TestCheck(t *testing.T) {
	for name, s := range map[string]Seed{
		"relative":  {Files: []File{{Path: "etc/x"}}},
		"upwards":   {Files: []File{{Path: "/etc/../x"}}},
		"root":      {Files: []File{{Path: "/"}}},
		"nul":       {Files: []File{{Path: "/a\x00b"}}},
		"not utf-8": {Files: []File{{Path: "/a\xff"}}},
		"key":       {SSHKeys: []string{"ssh-ed25519 AAAA m\xfcller"}},
		"twice":     {Files: []File{{Path: "/a"}, {Path: "/a"}}},
		"user data": {UserData: make([]byte, MaxUserData+1)},
		"no seed":   {Bare: true, UserData: []byte{}},
		"bare":      {Bare: true, NewIdentity: true},
	} {
		if err := s.Check(); !errors.Is(err, failure.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (Seed{Files: []File{{Path: "/a"}, {Path: "/b/c"}}, UserData: make([]byte, MaxUserData)}).Check(); err != nil {
		t.Error(err)
	}
}

func TestParseSSHKeys(t *testing.T) {
	keys, err := ParseSSHKeys([]byte("# mine\n\nssh-ed25519 AAAA me\nfrom=\"10.0.0.1\" ecdsa-sha2-nistp256 BBBB\n"))
	if err != nil || len(keys) != 2 {
		t.Errorf("%q, %v", keys, err)
	}
	for _, bad := range []string{"", "# only\n", "-----BEGIN OPENSSH PRIVATE KEY-----\n", "hello world\n", "ssh-ed25519\n"} {
		if _, err := ParseSSHKeys([]byte(bad)); !errors.Is(err, failure.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
