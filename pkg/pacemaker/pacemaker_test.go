package pacemaker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tools stand for Pacemaker's: their output is that of Pacemaker 2.1.5 on Debian 12.
func tools(t *testing.T, nodes, attributes string) {
	t.Helper()
	dir := t.TempDir()
	for name, says := range map[string]string{"crm_node": nodes, "attrd_updater": attributes} {
		script := "#!/bin/sh\nenv | grep ^OCF_ && exit\ncat <<'END'\n" + says + "\nEND\n"
		if says == "" {
			script = "#!/bin/sh\necho 'cannot connect' >&2\nexit 102\n"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestGone holds which hosts count as gone: those that the cluster lost, and those that it
// has in another start.
func TestGone(t *testing.T) {
	const nodes = "1 n1 member\n2 n2 lost\n3 n3 member"
	const attributes = `name="lxcboot-start" host="n1" value="id1/boot1"` + "\n" + `name="lxcboot-start" host="n3" value="id3/boot9"`
	for what, x := range map[string]struct {
		nodes, attributes string
		start             Start
		refused           string // empty: it is gone
	}{
		"lost":                 {nodes, "", Start{"n2", "id2", "boot2"}, ""},
		"started anew":         {nodes, attributes, Start{"n3", "id3", "boot3"}, ""},
		"never went":           {nodes, attributes, Start{"n1", "id1", "boot1"}, "not started anew"},
		"says nothing":         {nodes, `name="lxcboot-start" host="n1" value="id1/boot1"`, Start{"n3", "id3", "boot3"}, "does not say"},
		"of an older lxcboot":  {nodes, attributes, Start{"n3", "", ""}, "cannot be told"},
		"of no cluster":        {nodes, attributes, Start{"n9", "id9", "boot9"}, "no node of this cluster"},
		"no cluster":           {"", attributes, Start{"n2", "id2", "boot2"}, "cannot be asked: crm_node"},
		"no attributes to see": {nodes, "", Start{"n3", "id3", "boot3"}, "cannot be asked: attrd_updater"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Setenv("OCF_RESKEY_CRM_meta_on_node", "n1")
			tools(t, x.nodes, x.attributes)
			switch _, err := Gone(t.Context(), x.start); {
			case x.refused == "" && err != nil:
				t.Error(err)
			case x.refused != "" && (err == nil || !strings.Contains(err.Error(), x.refused)):
				t.Errorf("%v, and not %q", err, x.refused)
			case x.refused != "" && errors.Is(err, ErrUp) == strings.Contains(x.refused, "asked"):
				t.Errorf("%v has not its kind", err)
			}
		})
	}
}
