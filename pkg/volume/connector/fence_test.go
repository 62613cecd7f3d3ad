package connector

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

func TestRBDClients(t *testing.T) {
	const watchers = `{"watchers":[{"address":"10.0.0.2:0/12","client":4,"cookie":1},{"address":"10.0.0.1:0/34","client":5,"cookie":2}]}`
	for name, c := range map[string]struct {
		status, locks string
		want          []string // nil: an error
	}{
		"nobody":           {`{"watchers":[]}`, `[]`, []string{}},
		"who watches":      {watchers, `{}`, []string{"10.0.0.1:0/34", "10.0.0.2:0/12"}},
		"who has the lock": {`{"watchers":[]}`, `[{"id":"auto 1","locker":"client.4","address":"10.0.0.2:0/12"}]`, []string{"10.0.0.2:0/12"}},
		"the same":         {watchers, `{"auto 1":{"locker":"client.4","address":"10.0.0.2:0/12"}}`, []string{"10.0.0.1:0/34", "10.0.0.2:0/12"}},
		"no JSON":          {"Watchers: none", `[]`, nil},
		"no JSON of locks": {watchers, "none", nil},
	} {
		got, err := rbdClients(c.status, c.locks)
		if (err != nil) != (c.want == nil) || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestFence holds what Ceph's tools are told, that none of it is the key, and that a key which
// may not is one error.
func TestFence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	host, port, _ := net.SplitHostPort(l.Addr().String())
	req := Request{VolumeID: "v", Connection: volume.Connection{Driver: "rbd", Data: map[string]any{
		"name": "p/v", "hosts": []any{host}, "ports": []any{port}, "auth_username": "u", "keyring": testKey}}}
	var ran []string
	refused := error(nil)
	h := New(Options{StateDir: t.TempDir(), Root: t.TempDir(), Run: func(_ context.Context, argv ...string) (string, error) {
		line := strings.Join(argv, " ")
		ran = append(ran, line)
		if key, err := os.ReadFile(argv[slices.Index(argv, "--keyfile")+1]); err != nil || string(key) != testKey {
			t.Errorf("the key that %s finds: %q, %v", line, key, err)
		}
		switch argv[1] {
		case "status":
			return `{"watchers":[{"address":"10.0.0.2:0/12"}]}`, nil
		case "lock":
			return "[]", nil
		}
		return "", refused
	}})
	if got, err := h.Fence(t.Context(), req); err != nil || !slices.Equal(got, []string{"10.0.0.2:0/12"}) {
		t.Errorf("%q, %v", got, err)
	}
	if len(ran) != 3 || !strings.HasPrefix(ran[2], "ceph osd blocklist add 10.0.0.2:0/12 --conf /dev/null --mon_host "+l.Addr().String()+" --id u --keyfile /proc/") {
		t.Errorf("it ran %q", ran)
	}
	if strings.Contains(strings.Join(ran, "\n"), testKey) {
		t.Error("an argument is the key")
	}
	refused = &CommandError{Argv: []string{"ceph"}, Code: 13, Stderr: "Error EACCES: access denied"}
	if got, err := h.Fence(t.Context(), req); !errors.Is(err, refused) && !strings.Contains(err.Error(), "EACCES") || len(got) != 0 {
		t.Errorf("a key that may not: %q, %v", got, err)
	}
	req.Connection.Driver = "iscsi"
	if got, err := h.Fence(t.Context(), req); got != nil || err != nil {
		t.Errorf("not Ceph: %q, %v", got, err)
	}
}
