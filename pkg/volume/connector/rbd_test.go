package connector

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Keys of the form that ceph-authtool makes; they open nothing.
const (
	testKey  = "AQBRedactedRedactedRedacted012345678ab=="
	otherKey = "AQBOtherOtherOtherOtherOtherOther01234=="
)

func TestRBDConnection(t *testing.T) {
	root := t.TempDir()
	h := New(Options{StateDir: t.TempDir(), Root: root})
	put(t, root, "etc/ceph/ceph.client.cinder.keyring", "[client.cinder]\n\tkey = "+testKey+"\n")
	put(t, root, "etc/ceph/east.conf", "[global]\nmon_host = 10.0.0.1\n")
	for name, c := range map[string]struct {
		data map[string]any
		want rbdVolume
	}{
		"pool and image": {
			map[string]any{"name": "volumes/v", "hosts": []any{"10.1.0.8", "fd00::8", "[fd00::9]"}, "ports": []any{"6789", 6789, 3300.0}, "auth_enabled": true, "auth_username": "cinder"},
			rbdVolume{pool: "volumes", image: "v", user: "cinder", key: testKey, monitors: []string{"10.1.0.8:6789", "[fd00::8]:6789", "[fd00::9]:3300"}},
		},
		"namespace, other cluster, keyring given": {
			map[string]any{"name": "p/ns/v", "cluster_name": "east", "auth_username": "u", "keyring": "[client.u]\nkey=" + otherKey},
			rbdVolume{pool: "p", namespace: "ns", image: "v", user: "u", key: otherKey, conf: root + "/etc/ceph/east.conf"},
		},
		"no authentication": {
			map[string]any{"name": "p/v", "hosts": []any{"a"}, "ports": []any{"1"}, "auth_enabled": false, "auth_username": "cinder"},
			rbdVolume{pool: "p", image: "v", monitors: []string{"a:1"}},
		},
	} {
		got, err := rbdConnection(h, c.data)
		if err != nil || cmp.Diff(c.want, got, cmp.AllowUnexported(rbdVolume{})) != "" {
			t.Errorf("%s: %v\n%s", name, err, cmp.Diff(c.want, got, cmp.AllowUnexported(rbdVolume{})))
		}
	}
	_, err := rbdConnection(h, map[string]any{"name": "p/v", "auth_enabled": false})
	if !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), "ceph.conf") {
		t.Errorf("neither monitor nor configuration: %v", err)
	}
}

func TestCephKey(t *testing.T) {
	ring := func(user, key string) string { return "[client." + user + "]\n\tkey = " + key + "\n" }
	for name, c := range map[string]struct {
		files map[string]string // below /etc/ceph
		env   map[string]string
		want  string
		says  string
	}{
		"named after the user": {files: map[string]string{"ceph.client.u.keyring": ring("u", testKey), "keyring": ring("u", otherKey)}, want: testKey},
		"shared keyring":       {files: map[string]string{"keyring": ring("other", otherKey) + ring("u", testKey)}, want: testKey},
		"named by ceph.conf": {files: map[string]string{
			"ceph.conf":             "[global]\nkeyring = ETC/no\n[client]\nkeyring = ETC/$cluster.$name.key # here\n[client.other]\nkeyring = ETC/other\n",
			"ceph.client.u.key":     ring("u", testKey),
			"ceph.client.u.keyring": ring("u", otherKey),
		}, want: testKey},
		"CEPH_KEYRING":   {files: map[string]string{"mine": ring("u", testKey), "ceph.client.u.keyring": ring("u", otherKey)}, env: map[string]string{"CEPH_KEYRING": "ETC/mine"}, want: testKey},
		"none":           {says: "ETC/ceph.client.u.keyring, ETC/ceph.keyring, ETC/keyring, ETC/keyring.bin"},
		"another's only": {files: map[string]string{"keyring": ring("other", otherKey)}, says: "it holds no key of client.u"},
		"broken":         {files: map[string]string{"keyring": "[client.u]\nkey = x\n"}, says: "not in the form of a Ceph key"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			etc := root + "/etc/ceph"
			fix := func(s string) string { return strings.ReplaceAll(s, "ETC", etc) }
			for k, v := range c.env {
				t.Setenv(k, fix(v))
			}
			for f, text := range c.files {
				put(t, root, "etc/ceph/"+f, fix(text))
			}
			h := New(Options{Root: root})
			conf := ""
			if c.files["ceph.conf"] != "" {
				conf = etc + "/ceph.conf"
			}
			got, err := h.cephKey("ceph", "u", conf, "")
			if got != c.want || (c.says == "") != (err == nil) {
				t.Fatalf("%q, %v", got, err)
			}
			if err != nil && (!errors.Is(err, volume.ErrAuth) || !strings.Contains(err.Error(), fix(c.says))) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzKeyOf(f *testing.F) {
	f.Add("[client.cinder]\n\tkey = "+testKey+"\n", "cinder")
	f.Add(testKey, "")
	f.Fuzz(func(t *testing.T, text, user string) {
		if key, err := keyOf(text, user); err == nil && !isKey(key) {
			t.Errorf("%q is no key", key)
		}
	})
}

func FuzzConfKeyring(f *testing.F) {
	f.Add("[client]\nkeyring = /etc/ceph/$cluster.$name.keyring, /x\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		os.WriteFile(dir+"/conf", []byte(text), 0o600)
		for _, p := range confKeyring(dir+"/conf", "ceph", "u") {
			if p == "" {
				t.Error("an empty path")
			}
		}
	})
}

// TestSecretsStayHidden holds that what a storage tool says back is not passed
// on with the secret in it.
func TestSecretsStayHidden(t *testing.T) {
	data := map[string]any{
		"auth_password": "p4ss-word", "discovery_auth_password": "disc-secret", "keyring": "[client.u]\nkey = " + testKey + "\n",
		"secret_uuid": "9d2a1f6e", "auth_username": "visible",
	}
	err := redacted(errors.Join(volume.ErrAuth, errors.New("login visible p4ss-word disc-secret "+testKey+" 9d2a1f6e")), secretsOf(data))
	if got := err.Error(); got != volume.ErrAuth.Error()+"\nlogin visible *** *** *** 9d2a1f6e" || !errors.Is(err, volume.ErrAuth) {
		t.Errorf("got %q", got)
	}
}
