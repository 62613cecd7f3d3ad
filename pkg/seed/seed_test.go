package seed

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

func TestRender(t *testing.T) {
	s := Seed{InstanceID: "i-1", Hostname: "web1", SSHKeys: []string{"ssh-ed25519 AAAA me"}, UserData: []byte("#!/bin/sh\n"),
		Meta:  map[string]string{"role": "web"},
		NICs:  []NIC{{MAC: "52:54:00:00:00:01", Address: netip.MustParsePrefix("10.0.0.5/24"), Gateway: netip.MustParseAddr("10.0.0.1")}, {}},
		Files: []File{{Path: "/etc/hostname", Data: []byte("mine\n"), Mode: 0o600}}}
	files, err := s.Render()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range files {
		got[f.Path] = string(f.Data)
	}
	var meta struct {
		ID   string            `json:"instance-id"`
		Host string            `json:"local-hostname"`
		Keys []string          `json:"public-keys"`
		Meta map[string]string `json:"meta"`
	}
	if err := json.Unmarshal([]byte(got[noCloud+"meta-data"]), &meta); err != nil {
		t.Fatal(err)
	}
	if meta.ID != "i-1" || meta.Host != "web1" || len(meta.Keys) != 1 || meta.Meta["role"] != "web" {
		t.Errorf("meta-data: %+v", meta)
	}
	if got[noCloud+"user-data"] != "#!/bin/sh\n" {
		t.Errorf("user-data: %q", got[noCloud+"user-data"])
	}
	for _, want := range []string{`"10.0.0.5/24"`, `"52:54:00:00:00:01"`, `"via": "10.0.0.1"`, `"dhcp4": true`} {
		if !strings.Contains(got[noCloud+"network-config"], want) {
			t.Errorf("network-config lacks %s:\n%s", want, got[noCloud+"network-config"])
		}
	}
	if got["/etc/hostname"] != "mine\n" {
		t.Errorf("the user's own file does not win: %q", got["/etc/hostname"])
	}
	if got["/root/.ssh/authorized_keys"] != "ssh-ed25519 AAAA me\n" {
		t.Errorf("authorized_keys: %q", got["/root/.ssh/authorized_keys"])
	}
}

func TestEmpty(t *testing.T) {
	if !(Seed{InstanceID: "i", Meta: map[string]string{"a": "b"}, NICs: []NIC{{}}}).Empty() {
		t.Error("a seed that nobody asked for is to be written")
	}
	for _, s := range []Seed{{Hostname: "h"}, {SSHKeys: []string{"k"}}, {UserData: []byte{}}, {NoCloud: true}, {Files: []File{{}}}} {
		if s.Empty() {
			t.Errorf("%+v is empty", s)
		}
	}
}

func TestCheck(t *testing.T) {
	for name, s := range map[string]Seed{
		"relative":  {Files: []File{{Path: "etc/x"}}},
		"upwards":   {Files: []File{{Path: "/etc/../x"}}},
		"root":      {Files: []File{{Path: "/"}}},
		"nul":       {Files: []File{{Path: "/a\x00b"}}},
		"twice":     {Files: []File{{Path: "/a"}, {Path: "/a"}}},
		"user data": {UserData: make([]byte, MaxUserData+1)},
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
