package openstack

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/volumetest"
)

// TestConformance runs what is about attachments of the suite that the real services
// pass.
func TestConformance(t *testing.T) {
	c := newCloud(t)
	volumetest.Attachments(t, func(t *testing.T) volumetest.Store { return c.open(t, nil) }, volumetest.Options{
		Elsewhere: func(t *testing.T, _ volumetest.Store) volumetest.Store {
			return c.open(t, func(o *Options) { o.Host = host.Host{ID: "id-of-there", Name: "there", BootID: "boot-of-there"} })
		},
	})
}

// TestNova has Cinder keep an attachment for a Nova that is not there.
func TestNova(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, func(o *Options) { o.Patience = -1 })
	vol, id := c.add("in-use", nil), uuid.NewString()
	c.locked(func() {
		c.attachments[id] = map[string]any{"id": id, "volume_id": vol, "instance": uuid.NewString(), "status": "attached", "connection_info": map[string]any{"driver_volume_type": "nfs"}}
	})
	c.fail("DELETE", "/attachments", 9, status(500, "", `{"computeFault": {"message": "The server has either erred"}}`))
	if err := s.Detach(t.Context(), id); err == nil || !strings.Contains(err.Error(), "os-service-cloud") {
		t.Errorf("%v", err)
	}
}

// TestServiceUser looks at what is sent when there is one.
func TestServiceUser(t *testing.T) {
	c := newCloud(t)
	c.setenv(t)
	file := filepath.Join(t.TempDir(), "clouds.yaml")
	text := `clouds:
  mine: &mine
    auth: {auth_url: "` + c.URL + `/identity/v3", username: demo, password: ` + fakePassword + `, project_name: demo, user_domain_name: Default, project_domain_name: Default}
  service:
    auth: {auth_url: "` + c.URL + `/identity/v3", username: cinder, password: ` + fakePassword + `, project_name: service, user_domain_name: Default, project_domain_name: Default}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OS_CLIENT_CONFIG_FILE", file)
	s, err := Open(t.Context(), Options{Cloud: "mine", ServiceCloud: "service"})
	if err != nil {
		t.Fatal(err)
	}
	if d := s.Describe(); !strings.Contains(d, "cloud mine") || !strings.Contains(d, "user demo") || strings.Contains(d, fakePassword) {
		t.Error(d)
	}
	c.expire()
	vol, instance := c.add("available", nil), uuid.NewString()
	id, err := s.Reserve(t.Context(), vol, volume.Instance{ID: instance}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	c.locked(func() {
		if c.attachments[id]["instance"] != instance {
			t.Errorf("the attachment is of %v", c.attachments[id]["instance"])
		}
		for i, line := range c.log {
			_, cinder := strings.CutPrefix(line[strings.Index(line, " ")+1:], "/volume/v3/"+fakeProject)
			if got := c.tokens[c.service[i]]; cinder && i > len(c.log)-4 && got != "cinder" || !cinder && c.service[i] != "" {
				t.Errorf("%s came with the service token of %q", line, got)
			}
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	for _, test := range []struct {
		what  string
		spoil func(*testing.T, *cloud)
		want  error
		text  string
	}{
		{"no cloud", func(t *testing.T, c *cloud) { t.Setenv("OS_AUTH_URL", "") }, failure.ErrInvalid, "OS_CLOUD"},
		{"no password", func(t *testing.T, c *cloud) { t.Setenv("OS_PASSWORD", "") }, failure.ErrInvalid, "password"},
		{"a bad address", func(t *testing.T, c *cloud) { t.Setenv("OS_AUTH_URL", "keystone.example") }, failure.ErrInvalid, "keystone.example"},
		{"no cinder", func(t *testing.T, c *cloud) { delete(c.catalog, "volumev3") }, volume.ErrUnsupported, "block storage"},
		{"another region", func(t *testing.T, c *cloud) { t.Setenv("OS_REGION_NAME", "Two") }, volume.ErrUnsupported, `region "Two"`},
		{"an unknown entry", func(t *testing.T, c *cloud) { t.Setenv("OS_CLOUD", "nowhere") }, failure.ErrInvalid, "nowhere"},
		{"a file that is no YAML", func(t *testing.T, c *cloud) {
			file := filepath.Join(t.TempDir(), "clouds.yaml")
			os.WriteFile(file, []byte("clouds:\n  x:\n\tauth: "+fakePassword+"\n"), 0o600)
			t.Setenv("OS_CLOUD", "x")
			t.Setenv("OS_CLIENT_CONFIG_FILE", file)
		}, failure.ErrInvalid, "line 3"},
		{"an entry without auth", func(t *testing.T, c *cloud) {
			file := filepath.Join(t.TempDir(), "clouds.yaml")
			os.WriteFile(file, []byte("clouds:\n  x:\n    region_name: One\n"), 0o600)
			t.Setenv("OS_CLOUD", "x")
			t.Setenv("OS_CLIENT_CONFIG_FILE", file)
		}, failure.ErrInvalid, "auth"},
	} {
		t.Run(test.what, func(t *testing.T) {
			c := newCloud(t)
			c.setenv(t)
			test.spoil(t, c)
			_, err := Open(t.Context(), Options{Patience: -1})
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), fakePassword) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestEnvironment signs in with each way to name the user and the project.
func TestEnvironment(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"two domains":              {},
		"domain ids":               {"OS_USER_DOMAIN_NAME": "", "OS_PROJECT_DOMAIN_NAME": "", "OS_USER_DOMAIN_ID": "default", "OS_PROJECT_DOMAIN_ID": "default"},
		"one domain":               {"OS_USER_DOMAIN_NAME": "", "OS_PROJECT_DOMAIN_NAME": "", "OS_DOMAIN_NAME": "Default"},
		"all domains":              {"OS_DOMAIN_NAME": "Default", "OS_DOMAIN_ID": "default"},
		"project by id":            {"OS_PROJECT_NAME": "", "OS_PROJECT_ID": fakeProject, "OS_PROJECT_DOMAIN_NAME": ""},
		"id and name":              {"OS_PROJECT_ID": fakeProject},
		"region":                   {"OS_REGION_NAME": "One"},
		"old names":                {"OS_PROJECT_NAME": "", "OS_TENANT_NAME": "demo"},
		"no domain":                {"OS_USER_DOMAIN_NAME": "", "OS_PROJECT_DOMAIN_NAME": ""},
		"names and ids of domains": {"OS_USER_DOMAIN_ID": "default", "OS_PROJECT_DOMAIN_ID": "default"},
		"user by id":               {"OS_USER_ID": "u"},
		"a token":                  {"OS_PASSWORD": "", "OS_TOKEN": "token-of-demo"},
		"a token too":              {"OS_TOKEN": "token-of-demo"},
		"credential":               {"OS_PASSWORD": "", "OS_APPLICATION_CREDENTIAL_ID": "c", "OS_APPLICATION_CREDENTIAL_SECRET": fakePassword},
		"credential by name":       {"OS_APPLICATION_CREDENTIAL_NAME": "c", "OS_APPLICATION_CREDENTIAL_SECRET": fakePassword},
		"versionless":              {"OS_AUTH_URL": "/identity"},
		"trailing slash":           {"OS_AUTH_URL": "/identity/v3/"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			c.setenv(t)
			c.tokens["token-of-demo"] = "demo"
			for k, v := range env {
				if k == "OS_AUTH_URL" {
					v = c.URL + v
				}
				t.Setenv(k, v)
			}
			s, err := Open(t.Context(), Options{Patience: -1})
			if err != nil {
				t.Fatal(err)
			}
			if d := s.Describe(); !strings.Contains(d, "user demo, project demo") {
				t.Error(d)
			}
		})
	}
}

func TestCheckCreateQuota(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, nil)
	limit := func(limit, used int) map[string]any {
		return map[string]any{"limit": limit, "in_use": used, "reserved": 1}
	}
	c.quota["volumes"], c.quota["gigabytes"] = limit(10, 5), limit(-1, 500)
	c.quota["gigabytes_fast"], c.quota["per_volume_gigabytes"] = limit(20, 10), map[string]any{"limit": 8, "in_use": 0, "reserved": 0}
	vol := func(size int, typ string) volume.CreateVolume { return volume.CreateVolume{Size: size, Type: typ} }
	for _, test := range []struct {
		what string
		reqs []volume.CreateVolume
		want error
		text string
	}{
		{"what there is room for", []volume.CreateVolume{vol(8, "fast"), vol(1, "fast"), vol(8, "")}, nil, ""},
		{"too many", []volume.CreateVolume{vol(1, ""), vol(1, ""), vol(1, ""), vol(1, ""), vol(1, "")}, volume.ErrQuota, "10 volumes"},
		{"too much of a type", []volume.CreateVolume{vol(5, "fast"), vol(5, "fast")}, volume.ErrQuota, "gigabytes fast"},
		{"too large", []volume.CreateVolume{vol(9, "")}, volume.ErrQuota, "per volume"},
		{"an unknown type", []volume.CreateVolume{vol(1, "slow")}, failure.ErrInvalid, "fast, shared"},
		{"several instances", []volume.CreateVolume{{Size: 1, Multiattach: true, Type: "shared"}}, nil, ""},
		{"several instances of a type for one", []volume.CreateVolume{{Size: 1, Multiattach: true, Type: "fast"}}, failure.ErrInvalid, "multiattach"},
	} {
		err := s.CheckCreate(t.Context(), test.reqs)
		if !errors.Is(err, test.want) || err != nil && !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v", test.what, err)
		}
	}
	// A cloud that hides its quota is asked by creating.
	c.fail("GET", "/os-quota-sets", 9, status(http.StatusForbidden, "", ""))
	if err := s.CheckCreate(t.Context(), []volume.CreateVolume{vol(100, "")}); err != nil {
		t.Error(err)
	}
}

func TestAnswerText(t *testing.T) {
	for body, want := range map[string]string{
		`{"badRequest": {"code": 400, "message": "Invalid volume: no."}}`:                      "Invalid volume: no",
		`{"error": {"code": 401, "message": "The request", "title": "Unauthorized"}}`:          "The request",
		`{"message": "No image.<br /><br />\n\n", "code": "404 Not Found", "title": "x"}`:      "No image",
		"<html><head><title>502</title></head><body><h1>Bad Gateway</h1> &amp;c</body></html>": "Bad Gateway &c",
		"": "", "[]": "[]", "null": "", `{"a": 1}`: "", "{": "{",
	} {
		if got := answerText([]byte(body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func FuzzAnswerText(f *testing.F) {
	for _, s := range []string{`{"badRequest": {"message": "x"}}`, "<a>", `{"message": 3}`, "&#x110000;", "{\"message\":\"\x1b[2J\"}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		text := answerText(body)
		if strings.ContainsAny(text, "\n\r\x1b\x00") || len([]rune(text)) > 501 {
			t.Errorf("%q", text)
		}
	})
}
