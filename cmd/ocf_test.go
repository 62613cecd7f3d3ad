package cmd

import (
	"encoding/xml"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// TestOCFParameters holds what Pacemaker is told of a resource that is configured wrong:
// everywhere, and before anything is asked of a host.
func TestOCFParameters(t *testing.T) {
	clean(t)
	for what, x := range map[string]struct {
		set  []string
		code int
		says string
	}{
		"no name":             {[]string{"volume=v", "flavor=m1.tiny"}, ocfConfigured, "name is missing"},
		"bad name":            {[]string{"name=a b", "volume=v", "flavor=m1.tiny"}, ocfConfigured, `"a b"`},
		"no flavor":           {[]string{"name=a", "volume=v"}, ocfConfigured, "Flavor"},
		"no root":             {[]string{"name=a", "flavor=m1.tiny"}, ocfConfigured, "--boot-volume"},
		"local root":          {[]string{"name=a", "flavor=m1.tiny", "options=--image i"}, ocfConfigured, `image "i"`},
		"a new volume":        {[]string{"name=a", "flavor=m1.tiny", "volume=v", "block_devices=source=blank,dest=volume,size=1"}, ocfConfigured, "anew at each start"},
		"a device of a host":  {[]string{"name=a", "flavor=m1.tiny", "volume=/dev/vg0/v"}, ocfConfigured, "/dev/vg0/v"},
		"no flag":             {[]string{"name=a", "flavor=m1.tiny", "volume=v", "options=--nik none"}, ocfConfigured, "--nik"},
		"a word too many":     {[]string{"name=a", "flavor=m1.tiny", "volume=v", "options=web"}, ocfConfigured, `"web"`},
		"a restart policy":    {[]string{"name=a", "flavor=m1.tiny", "volume=v", "options=--restart always"}, ocfConfigured, "leave --restart out"},
		"takeover":            {[]string{"name=a", "flavor=m1.tiny", "volume=v", "takeover=perhaps"}, ocfConfigured, "perhaps"},
		"both":                {[]string{"name=a", "volume=v", "definition=/none"}, ocfConfigured, "leave it or them out"},
		"a definition's file": {[]string{"name=a", "definition=/none"}, ocfArgs, "/none"},
		"right":               {[]string{"name=a", "flavor=m1.tiny", "volume=v", "block_devices=source=volume,id=d source=blank,dest=local,size=1", "options=--nic none --meta a=b", "takeover=yes"}, ocfSuccess, ""},
	} {
		t.Run(what, func(t *testing.T) {
			for _, s := range x.set {
				key, value, _ := strings.Cut(s, "=")
				t.Setenv("OCF_RESKEY_"+key, value)
			}
			code, out, err := run(t, "ocf", "validate-all")
			if code != x.code || !strings.Contains(err, x.says) || out != "" || code != 0 && !strings.HasPrefix(err, "ocf-exit-reason:") {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, out, err)
			}
		})
	}
	t.Setenv("OCF_RESKEY_name", "a")
	if code, _, _ := run(t, "ocf", "promote"); code != ocfUnimplemented {
		t.Errorf("an action that there is not: exit code %d", code)
	}
}

// TestOCFMetaData holds that the description names each parameter that is read, whatever
// the configuration says.
func TestOCFMetaData(t *testing.T) {
	clean(t)
	t.Setenv("LXCBOOT_CONFIG", "/none")
	code, out, _ := run(t, "ocf", "meta-data")
	var agent struct {
		Parameters []struct {
			Name string `xml:"name,attr"`
		} `xml:"parameters>parameter"`
	}
	if err := xml.Unmarshal([]byte(out), &agent); err != nil || code != 0 {
		t.Fatalf("%d, %v", code, err)
	}
	if fields := reflect.TypeFor[parameters]().NumField(); len(agent.Parameters) != fields {
		t.Errorf("%d parameters are described, and %d are read", len(agent.Parameters), fields)
	}
	for _, p := range agent.Parameters {
		if text, _ := os.ReadFile("ocf_parameters.go"); !strings.Contains(string(text), `get("`+p.Name+`")`) {
			t.Errorf("the parameter %s is not read", p.Name)
		}
	}
}

// TestOnlyAs: what was taken anew since the cluster was asked is not released.
func TestOnlyAs(t *testing.T) {
	was := volume.Attachment{ID: "a1", HostID: "h1", BootID: "b1"}
	for what, now := range map[string][]volume.Attachment{
		"":                {was},
		"another":         {{ID: "a2", HostID: "h1", BootID: "b1"}},
		"of a new start":  {{ID: "a1", HostID: "h1", BootID: "b2"}},
		"one more beside": {was, {ID: "a3", HostID: "h1", BootID: "b1"}},
	} {
		if err := onlyAs(was)(instance.Holding{Attachments: now}); (what == "") != (err == nil) || err != nil && !errors.Is(err, volume.ErrInUse) {
			t.Errorf("%q: %v", what, err)
		}
	}
}
