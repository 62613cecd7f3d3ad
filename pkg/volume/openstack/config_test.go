package openstack

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// entry makes a clouds.yaml with one entry, for a fake, and names it.
func (c *cloud) entry(t *testing.T, lines ...string) {
	t.Helper()
	c.setenv(t)
	path := filepath.Join(t.TempDir(), "clouds.yaml")
	text := "clouds:\n  c:\n    auth: {auth_url: " + c.URL + "/identity/v3, username: demo, password: " + fakePassword + ", project_name: demo}\n    " + strings.Join(lines, "\n    ") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OS_CLIENT_CONFIG_FILE", path)
	t.Setenv("OS_CLOUD", "c")
}

// TestEntries reads entries that are right, wrong, and to be warned of. What is wrong is
// refused by its name, and nothing is sent.
func TestEntries(t *testing.T) {
	for _, test := range []struct {
		lines, env  string
		refuse, say string
		tls         bool // certificates are verified
	}{
		{lines: "region_name: One", tls: true},
		{lines: "regions: [One, Two]", tls: true},
		{lines: "regions: [Two, One]", env: "OS_REGION_NAME=One", tls: true},
		{lines: "regions: [{name: Two}, {name: One, values: {verify: false}}]", env: "OS_REGION_NAME=One"},
		{lines: "regions: [Two, One]", env: "OS_REGION_NAME=Three", refuse: `no region "Three"`},
		{lines: "regions: [Two]", refuse: `in region "Two": check the region and the interface; the catalog's regions are: One`},
		{lines: "verify: 'False'"},
		{lines: "verify: 'True'", tls: true},
		{lines: "insecure: true"},
		{lines: "verify: perhaps", refuse: `verify: "perhaps"`},
		{lines: "auth_type: v3oidcpassword", refuse: `auth_type "v3oidcpassword"`},
		{lines: "auth_type: v3applicationcredential", refuse: "application_credential_secret is missing"},
		{lines: "interface: external", refuse: `interface "external"`},
		{lines: "volume_endpoint_override: cinder", refuse: `"cinder" is no URL`},
		{lines: "cacert: /none", refuse: "/none"},
		{lines: "key: /none", refuse: "cert, which it is for, is not"},
		{lines: "profile: nobody", say: `profile "nobody"`, tls: true},
		{lines: "", env: "OS_CLIENT_SECURE_FILE=/none", refuse: "/none"},
		{lines: "", env: "OS_CLOUD=envvars", tls: true},
		{lines: "", env: "OS_CLOUD=envvars OS_AUTH_TYPE=v3kerberos", refuse: `"v3kerberos"`},
		{lines: "", env: "OS_CLOUD=envvars OS_INSECURE=no", tls: true},
		{lines: "", env: "OS_CLOUD=envvars OS_INSECURE=1", say: "OS_INSECURE=1", tls: true},
	} {
		t.Run(test.lines+" "+test.env, func(t *testing.T) {
			c := newCloud(t)
			c.entry(t, test.lines)
			for _, one := range strings.Fields(test.env) {
				name, value, _ := strings.Cut(one, "=")
				t.Setenv(name, value)
			}
			var said string
			_, err := Open(t.Context(), Options{Patience: -1, Warn: func(text string) { said += text }})
			if test.refuse != "" {
				signedIn := strings.Contains(test.refuse, "catalog")
				if err == nil || !strings.Contains(err.Error(), test.refuse) || strings.Contains(err.Error(), fakePassword) ||
					!signedIn && (!errors.Is(err, failure.ErrInvalid) || len(c.tokens) != 0) {
					t.Errorf("%v, after %d tokens", err, len(c.tokens))
				}
				return
			}
			creds, e := findCredentials("", func(string) {})
			if err != nil || e != nil || creds.tls.InsecureSkipVerify == test.tls || !strings.Contains(said, test.say) || test.say == "" && said != "" {
				t.Errorf("%v, %v, TLS %+v, said %q", err, e, creds.tls, said)
			}
		})
	}
}

// TestBrokenServices opens clouds whose Glance or Cinder does not work, or is where
// catalogs have them in different ways: that stops only what needs it.
func TestBrokenServices(t *testing.T) {
	for what, test := range map[string]struct {
		catalog  map[string]string
		spoil    func(*cloud)
		glance   error
		cinder   error
		contains string
	}{
		"as usual":                  {},
		"addresses with a version":  {catalog: map[string]string{"image": "/image/v2/", "block-storage": "/volume/v3/"}},
		"addresses without":         {catalog: map[string]string{"image": "/image/", "block-storage": "/volume"}},
		"an old Cinder beside":      {catalog: map[string]string{"image": "/image", "volume": "/volume/v1/x", "volumev2": "/volume/v2/x", "volumev3": "/volume/v3/" + fakeProject}},
		"no Glance":                 {catalog: map[string]string{"volumev3": "/volume/v3/" + fakeProject}, glance: volume.ErrUnsupported, contains: "no image service (glance)"},
		"a Glance that is down":     {spoil: func(c *cloud) { c.fail("GET", "/image/", 99, status(503, "", "")) }, glance: volume.ErrUnreachable, contains: "glance"},
		"a Glance that is down now": {spoil: func(c *cloud) { c.fail("GET", "/image/", 1, status(503, "", "")) }},
		"a Cinder that refuses":     {spoil: func(c *cloud) { c.fail("GET", "/volume/", 99, status(403, "", "")) }, cinder: volume.ErrAuth, contains: "cinder"},
		"a Cinder that is down now": {spoil: func(c *cloud) { c.fail("GET", "/volume/", 1, status(503, "", "")) }},
		"an old Cinder":             {spoil: func(c *cloud) { c.minor = 50 }, cinder: volume.ErrUnsupported, contains: "maximum is 3.50; 3.54 (Stein, 2019) is needed"},
	} {
		t.Run(what, func(t *testing.T) {
			c := newCloud(t)
			if test.catalog != nil {
				c.catalog = test.catalog
			}
			s := c.open(t, nil)
			if len(c.log) != 0 {
				t.Errorf("to sign in, the services were asked: %q", c.log)
			}
			if test.spoil != nil {
				test.spoil(c)
			}
			s.o.Patience = 500e6
			_, cinder := s.Volumes(t.Context())
			_, glance := s.Images(t.Context())
			ping := s.Ping(t.Context())
			for _, got := range []struct{ err, want error }{{cinder, test.cinder}, {glance, test.glance}, {ping, errors.Join(test.cinder, test.glance)}} {
				if (got.err == nil) != (got.want == nil) || test.cinder != nil && got.want != nil && !errors.Is(got.err, test.cinder) || test.glance != nil && got.want != nil && !errors.Is(got.err, test.glance) {
					t.Errorf("%v, want %v", got.err, got.want)
				}
			}
			if ping != nil && !strings.Contains(ping.Error(), test.contains) {
				t.Error(ping)
			}
		})
	}
}

// TestKeystoneVersions asks a Keystone without a version in its address which it has.
func TestKeystoneVersions(t *testing.T) {
	c := newCloud(t)
	c.setenv(t)
	t.Setenv("OS_AUTH_URL", c.URL+"/identity")
	c.fail("GET", "/identity", 1, status(503, "", ""))
	if _, err := Open(t.Context(), Options{}); err != nil {
		t.Errorf("busy once: %v", err)
	}
	t.Setenv("OS_AUTH_URL", c.URL+"/identity/v2.0/")
	tokens := len(c.tokens)
	if _, err := Open(t.Context(), Options{}); !errors.Is(err, failure.ErrInvalid) || len(c.tokens) != tokens {
		t.Errorf("version 2: %v", err)
	}
}
