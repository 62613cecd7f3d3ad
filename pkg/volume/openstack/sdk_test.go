//go:build openstack

package openstack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// way is one way to say which cloud is meant and how to sign in. @ stands for the
// address of a Keystone.
type way struct {
	what  string
	files map[string]string // in the current directory; those below home/ in the user's
	env   string            // "NAME=value NAME=value"
	// but is a text of our refusal, or of our warning, where we knowingly are not like openstacksdk.
	but, warns string
	// trips is what openstacksdk trips over, in a way that tells nobody anything.
	trips string
}

// user is what most entries have in common.
const user = "auth_url: @/v3, username: u, password: secret, project_name: p, user_domain_name: D, project_domain_name: D"

// entry is a clouds.yaml with one entry, called c.
func entry(auth string, lines ...string) map[string]string {
	return map[string]string{"clouds.yaml": "clouds:\n  c:\n    auth: {" + auth + "}\n    " + strings.Join(lines, "\n    ") + "\n"}
}

const openrc = "OS_AUTH_URL=@/v3 OS_USERNAME=u OS_PASSWORD=secret OS_PROJECT_NAME=p OS_USER_DOMAIN_NAME=D OS_PROJECT_DOMAIN_NAME=D"

var ways = []way{
	{what: "password", files: entry(user)},
	{what: "ids", files: entry("auth_url: @/v3, user_id: u, password: secret, project_id: p")},
	{what: "a project by id and name", files: entry(user + ", project_id: q")},
	{what: "numbers and dashes", files: entry("auth-url: @/v3, username: 12, password: 34, project-name: 56, domain-id: 78")},
	{what: "outside auth", files: entry("auth_url: @/v3, password: secret", "username: u", "project_name: p", "domain_name: D")},
	{what: "tenant", files: entry("auth_url: @/v3, username: u, password: secret, tenant_name: p, domain_id: d")},
	{what: "trailing slash", files: entry(strings.Replace(user, "/v3", "/v3/", 1))},
	{what: "no version in the address", files: entry(strings.Replace(user, "@/v3", "@", 1))},

	{what: "regions", files: entry(user, "regions: [Two, One]")},
	{what: "regions, one chosen", files: entry(user, "regions: [Two, One]"), env: "OS_REGION_NAME=One"},
	{what: "regions, another chosen", files: entry(user, "regions: [Two, One]"), env: "OS_REGION_NAME=Three"},
	{what: "regions with values", files: entry("auth_url: @/v3, username: u, password: secret, user_domain_name: D, project_domain_name: D, project_name: p", "regions:", "- name: Two", "  values: {interface: internal, auth: {project_name: q}}", "- One")},
	{what: "regions with an address", files: entry("username: u, password: secret, user_domain_name: D, project_domain_name: D, project_name: p", "regions:", "- name: One", "  values: {auth: {auth_url: @/v3}}")},
	{what: "regions with values, the other", files: entry(user, "regions:", "- name: Two", "  values: {interface: internal}", "- One"), env: "OS_REGION_NAME=One"},
	{what: "a region without a name", files: entry(user, "regions: [{values: {}}]")},
	{what: "regions and region_name", files: entry(user, "regions: [Two]", "region_name: One")},
	{what: "region_name", files: entry(user, "region_name: Two")},
	{what: "region_name with commas", files: entry(user, "region_name: Two,One")},
	{what: "region_name as a list", files: entry(user, "region_name: [Two, One]")},
	{what: "region_name and another in the environment", files: entry(user, "region_name: Two"), env: "OS_REGION_NAME=One"},
	{what: "no region, one chosen", files: entry(user), env: "OS_REGION_NAME=Two"},
	{what: "no region", files: entry(user), warns: "One, Two"},
	{what: "a region of one service", files: entry(user, "region_name: One", "volume_region_name: Two")},
	{what: "a region in the address", files: entry("auth_url: '@/{region_name}/v3', username: u, password: secret, project_name: p, domain_name: D", "region_name: Two")},

	{what: "auth_type password", files: entry(user+", token: t", "auth_type: password"), trips: "unexpected keyword argument"},
	{what: "auth_type v3password", files: entry(user, "auth_type: v3password")},
	{what: "auth_type token", files: entry("auth_url: @/v3, token: t, project_name: p, project_domain_name: D", "auth_type: token")},
	{what: "auth_type token beside a password", files: entry(user+", token: t", "auth_type: v3token"), trips: "unexpected keyword argument"},
	{what: "auth_type v3applicationcredential", files: entry("auth_url: @/v3, application_credential_id: i, application_credential_secret: secret", "auth_type: v3applicationcredential")},
	{what: "auth_type v3applicationcredential by name", files: entry("auth_url: @/v3, application_credential_name: n, username: u, user_domain_name: D, application_credential_secret: secret", "auth_type: v3applicationcredential")},
	{what: "auth_type token without one", files: entry("auth_url: @/v3, username: u, password: secret", "auth_type: token"), but: "token is missing"},
	{what: "auth_type that there is not", files: entry(user, "auth_type: magic")},
	{what: "auth_type v3oidcpassword", files: entry(user+", identity_provider: i, protocol: openid, client_id: x, client_secret: y, access_token_endpoint: @/idp", "auth_type: v3oidcpassword"), but: `"v3oidcpassword"`},
	{what: "auth_type v3totp", files: entry(user+", passcode: '123456'", "auth_type: v3totp"), but: `"v3totp"`},
	{what: "auth_type v2password", files: entry("auth_url: @/v2.0, username: u, password: secret, tenant_name: p", "auth_type: v2password"), but: "version 2"},
	{what: "auth_type none", files: entry(user+", endpoint: @", "auth_type: none"), but: `"none"`},
	{what: "OS_AUTH_TYPE", env: openrc + " OS_AUTH_TYPE=v3totp OS_PASSCODE=123456", but: `"v3totp"`},
	{what: "OS_AUTH_TYPE token", env: openrc + " OS_AUTH_TYPE=v3token OS_TOKEN=t", trips: "unexpected keyword argument"},
	{what: "OS_AUTH_TYPE of a named cloud", files: entry(user), env: "OS_AUTH_TYPE=v3totp"},

	{what: "trust", files: entry("auth_url: @/v3, username: u, password: secret, user_domain_name: D, trust_id: t")},
	{what: "OS_TRUST_ID", env: "OS_AUTH_URL=@/v3 OS_USERNAME=u OS_PASSWORD=secret OS_USER_DOMAIN_NAME=D OS_TRUST_ID=t"},
	{what: "trust and project", files: entry(user + ", trust_id: t")},
	{what: "system", files: entry("auth_url: @/v3, username: u, password: secret, user_domain_name: D, system_scope: all"), but: "system_scope"},
	{what: "domain_name", files: entry("auth_url: @/v3, username: u, password: secret, project_name: p, domain_name: D")},
	{what: "domain_id", env: "OS_AUTH_URL=@/v3 OS_USERNAME=u OS_PASSWORD=secret OS_PROJECT_NAME=p OS_DOMAIN_ID=d"},
	{what: "default_domain_name", files: entry("auth_url: @/v3, username: u, password: secret, project_name: p, default_domain_name: D")},
	{what: "default_domain_id", files: entry("auth_url: @/v3, username: u, password: secret, project_name: p", "default_domain_id: d")},
	{what: "OS_DEFAULT_DOMAIN_ID", env: "OS_AUTH_URL=@/v3 OS_USERNAME=u OS_PASSWORD=secret OS_PROJECT_NAME=p OS_DEFAULT_DOMAIN_ID=d"},
	{what: "a default and one of its own", files: entry("auth_url: @/v3, username: u, password: secret, project_name: p, project_domain_name: D, default_domain_name: E")},
	{what: "a domain by id and name", files: entry(user + ", user_domain_id: d, project_domain_id: e")},

	{what: "insecure: true", files: entry(user, "insecure: true")},
	{what: "insecure: false", files: entry(user, "insecure: false")},
	{what: "insecure: yes", files: entry(user, "insecure: yes")},
	{what: "verify: false", files: entry(user, "verify: false")},
	{what: "verify: no", files: entry(user, "verify: no")},
	{what: "verify: true and insecure", files: entry(user, "verify: true", "insecure: true")},
	{what: "another entry's verify", files: map[string]string{"clouds.yaml": "clouds:\n  c: {auth: {" + user + "}}\n  d: {verify: 'False', regions: 7}\n"}},
	{what: "OS_INSECURE=true", env: openrc + " OS_INSECURE=True"},
	{what: "OS_INSECURE=no", env: openrc + " OS_INSECURE=no"},
	{what: "OS_INSECURE=0", env: openrc + " OS_INSECURE=0"},
	{what: "OS_INSECURE=1", env: openrc + " OS_INSECURE=1", warns: "OS_INSECURE=1"},

	{what: "secure.yaml", files: with(entry("auth_url: @/v3, username: u, project_name: p, domain_name: D", "region_name: One"), "secure.yaml", "clouds: {c: {auth: {password: secret}, region_name: Two}}")},
	{what: "secure.yml elsewhere", files: with(entry("auth_url: @/v3, username: u, project_name: p, domain_name: D"), "home/.config/openstack/secure.yml", "clouds: {c: {auth: {password: secret}}}")},
	{what: "OS_CLIENT_SECURE_FILE", files: with(entry("auth_url: @/v3, username: u, project_name: p, domain_name: D"), "s", "clouds: {c: {auth: {password: secret}}}"), env: "OS_CLIENT_SECURE_FILE=s"},
	{what: "OS_CLIENT_CONFIG_FILE", files: with(entry("auth_url: @/no"), "other.json", `{"clouds": {"c": {"auth": {"auth_url": "@\/v3", "username": "u", "password": "secret", "project_id": "p", "user_domain_id": "d"}}}}`), env: "OS_CLIENT_CONFIG_FILE=other.json"},
	{what: "clouds.yml", files: map[string]string{"clouds.yml": "clouds: {c: {auth: {" + user + "}}}"}},
	{what: "clouds.json", files: map[string]string{"clouds.json": "{\n\t\"clouds\": {\"c\": {\"auth\": {\"auth_url\": \"@/v3\", \"user_id\": \"u\", \"password\": \"secret\", \"project_id\": \"p\"}, \"verify\": false}}}"}},
	{what: "clouds.yaml before clouds.json", files: with(entry(user), "clouds.json", "{}")},
	{what: "the user's directory", files: map[string]string{"home/.config/openstack/clouds.yaml": "clouds: {c: {auth: {" + user + "}}}"}},
	{what: "here before the user's directory", files: with(entry(user), "home/.config/openstack/clouds.yaml", "clouds: {c: {auth: {auth_url: @/no}}}")},
	{what: "XDG_CONFIG_HOME", files: map[string]string{"x/openstack/clouds.yaml": "clouds: {c: {auth: {" + user + "}}}"}, env: "XDG_CONFIG_HOME=x"},
	{what: "aliases", files: map[string]string{"clouds.yaml": "x: &x {" + user + "}\nclouds: {c: {auth: {<<: *x, username: v}}}"}},
	{what: "no such entry", files: entry(user), env: "OS_CLOUD=d"},
	{what: "no file"},

	{what: "variables", env: openrc},
	{what: "OS_CLOUD=envvars", files: entry("auth_url: @/no"), env: openrc + " OS_CLOUD=envvars"},
	{what: "OS_CLOUD_NAME", files: entry("auth_url: @/no"), env: openrc + " OS_CLOUD=mine OS_CLOUD_NAME=mine"},
	{what: "variables beside an entry", files: entry(user), env: "OS_CLOUD=c OS_USERNAME=other OS_PASSWORD=other OS_PROJECT_NAME=q OS_INTERFACE=internal"},
	{what: "variables with a region", env: openrc + " OS_REGION_NAME=Two"},
	{what: "variables with an interface", env: openrc + " OS_INTERFACE=internal OS_REGION_NAME=One"},
	{what: "variables with an endpoint type", env: openrc + " OS_ENDPOINT_TYPE=internalURL OS_REGION_NAME=One"},

	{what: "interface", files: entry(user, "interface: internal", "region_name: One")},
	{what: "interface with URL", files: entry(user, "interface: adminURL", "region_name: One")},
	{what: "endpoint_type", files: entry(user, "endpoint_type: internal", "region_name: One")},
	{what: "a list of interfaces", files: entry(user, "interface: [admin, internal]", "region_name: Two")},
	{what: "interface of one service", files: entry(user, "volume_interface: internal", "region_name: One")},
	{what: "interface that there is not", files: entry(user, "interface: secret", "region_name: One"), but: `"secret"`},
	{what: "service_name", files: entry(user, "volume_service_name: cinder-two", "region_name: One")},
	{what: "block_storage_endpoint_override", files: entry(user, "block_storage_endpoint_override: http://x.example/volume/v3/p", "region_name: One")},
	{what: "volume_endpoint_override", files: entry(user, "volume_endpoint_override: http://x.example/v3/p", "region_name: One")},
	{what: "image_endpoint_override", files: entry(user, "image_endpoint_override: http://x.example/image", "region_name: One")},
	{what: "OS_IMAGE_ENDPOINT_OVERRIDE", env: openrc + " OS_REGION_NAME=One OS_IMAGE_ENDPOINT_OVERRIDE=http://x.example/image"},

	{what: "profile that there is not", files: entry(user, "profile: nobody"), warns: `"nobody"`},
	{what: "profile of clouds-public.yaml", files: with(entry("username: u, password: secret, project_name: p, domain_name: D", "profile: ours"), "clouds-public.yaml", "public-clouds: {ours: {auth: {auth_url: @/v3, username: x}, region_name: Two}}")},
}

// with adds a file.
func with(files map[string]string, name, text string) map[string]string {
	files[name] = text
	return files
}

// keystone answers every request for a token, and keeps what came: by the first part of
// the path, who asked, and for what.
type keystone struct {
	*httptest.Server
	mu   sync.Mutex
	sent map[string][]any
	all  map[string]int
}

func newKeystone(t *testing.T) *keystone {
	k := &keystone{sent: map[string][]any{}, all: map[string]int{}}
	k.Server = httptest.NewServer(k)
	t.Cleanup(k.Close)
	return k
}

func (k *keystone) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	who, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	base := k.URL + "/" + who
	body, _ := io.ReadAll(r.Body)
	k.mu.Lock()
	k.all[who]++
	k.mu.Unlock()
	self := func(id, path string) map[string]any {
		return map[string]any{"id": id, "status": "stable", "links": []any{map[string]any{"rel": "self", "href": base + path}}}
	}
	switch {
	case strings.HasSuffix(rest, "auth/tokens"):
		var v any
		json.Unmarshal(body, &v)
		k.mu.Lock()
		k.sent[who] = append(k.sent[who], map[string]any{"path": rest, "body": v})
		k.mu.Unlock()
		var catalog []any
		for _, s := range []struct{ kind, name, path string }{{"volumev2", "cinderv2", "/volume/v2/P"}, {"volumev3", "cinder", "/volume/v3/P"}, {"volumev3", "cinder-two", "/other/v3/P"}, {"image", "glance", "/image"}} {
			var endpoints []any
			for _, region := range []string{"One", "Two"} {
				for _, i := range []string{"internal", "public", "admin"} {
					if i != "admin" || region == "One" {
						endpoints = append(endpoints, map[string]any{"id": region + i, "interface": i, "region": region, "region_id": region, "url": "http://" + i + "." + strings.ToLower(region) + ".example" + s.path})
					}
				}
			}
			catalog = append(catalog, map[string]any{"type": s.kind, "name": s.name, "id": s.name, "endpoints": endpoints})
		}
		w.Header().Set("X-Subject-Token", "token")
		answer(w, 201, map[string]any{"token": map[string]any{
			"methods": []string{"password"}, "issued_at": "2026-01-01T00:00:00.000000Z", "expires_at": "2099-01-01T00:00:00.000000Z", "catalog": catalog,
			"user": map[string]any{"id": "U", "name": "u", "domain": map[string]any{"id": "D", "name": "D"}}, "project": map[string]any{"id": "P", "name": "p", "domain": map[string]any{"id": "D", "name": "D"}},
		}})
	case rest == "":
		answer(w, 300, map[string]any{"versions": map[string]any{"values": []any{self("v3.14", "/v3/")}}})
	default:
		answer(w, 200, map[string]any{"version": self("v3.14", "/"+strings.TrimSuffix(rest, "/")+"/")})
	}
}

// TestAsTheSDK signs in with each way, and with openstacksdk in the same way, and
// compares what Keystone was sent, which endpoints were chosen, and whom TLS trusts.
func TestAsTheSDK(t *testing.T) {
	k := newKeystone(t)
	type row struct {
		Dir string            `json:"dir"`
		Env map[string]string `json:"env"`
	}
	lay := func(w way, who string) row {
		r := row{t.TempDir(), map[string]string{}}
		place := func(s string) string { return strings.ReplaceAll(s, "@", k.URL+"/"+who) }
		for name, text := range w.files {
			path := filepath.Join(r.Dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(place(text)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if !strings.Contains(w.env, "OS_AUTH_URL") && !strings.Contains(w.env, "OS_CLOUD=") {
			w.env += " OS_CLOUD=c"
		}
		for _, one := range strings.Fields(w.env) {
			name, value, _ := strings.Cut(one, "=")
			r.Env[name] = place(value)
			if strings.HasSuffix(name, "_FILE") || name == "XDG_CONFIG_HOME" {
				r.Env[name] = filepath.Join(r.Dir, value)
			}
		}
		return r
	}
	var rows []row
	for i, w := range ways {
		rows = append(rows, lay(w, fmt.Sprintf("sdk%d", i)))
	}
	in, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	python := exec.CommandContext(t.Context(), "/usr/bin/python3", "testdata/sdk.py")
	python.Stdin = bytes.NewReader(in)
	var words bytes.Buffer
	python.Stderr = &words
	out, err := python.Output()
	var theirs []struct {
		Error, Cinder, Glance string
		Verify, Cert          any
	}
	if err == nil {
		err = json.Unmarshal(out, &theirs)
	}
	if err != nil || len(theirs) != len(ways) {
		t.Fatalf("openstacksdk: %v, %d answers: %s", err, len(theirs), words.Bytes())
	}
	for i, w := range ways {
		t.Run(w.what, func(t *testing.T) {
			who := fmt.Sprintf("ours%d", i)
			r, sdk := lay(w, who), theirs[i]
			for _, line := range os.Environ() {
				if name, _, _ := strings.Cut(line, "="); strings.HasPrefix(name, "OS_") {
					t.Setenv(name, "")
					os.Unsetenv(name)
				}
			}
			t.Setenv("XDG_CONFIG_HOME", "")
			t.Setenv("HOME", filepath.Join(r.Dir, "home"))
			for name, value := range r.Env {
				t.Setenv(name, value)
			}
			t.Chdir(r.Dir)
			var warned []string
			o := Options{Patience: -1, Warn: func(text string) { warned = append(warned, text) }}
			s, err := Open(t.Context(), o)
			if w.warns != "" && !strings.Contains(strings.Join(warned, "\n"), w.warns) {
				t.Errorf("warned of %q, want %q", warned, w.warns)
			}
			switch {
			case w.trips != "" && strings.Contains(sdk.Error, w.trips):
				if err != nil {
					t.Error(err)
				}
				return
			case w.but != "" || sdk.Error != "":
				if err == nil || !strings.Contains(err.Error(), w.but) || strings.Contains(err.Error(), "secret") && !strings.Contains(w.but, "secret") || k.all[who] != 0 {
					t.Errorf("%v, after %d requests; openstacksdk: %+v", err, k.all[who], sdk)
				}
				t.Log(err)
				return
			}
			if err != nil {
				t.Fatalf("%v; openstacksdk: %+v", err, sdk)
			}
			if diff := cmp.Diff(k.sent[fmt.Sprintf("sdk%d", i)], k.sent[who]); diff != "" {
				t.Errorf("sent to Keystone, openstacksdk -, we +:\n%s", diff)
			}
			c, _ := findCredentials("", func(string) {})
			got := []any{strings.TrimSuffix(s.cinder.Endpoint, "/"), strings.TrimSuffix(s.glance.Endpoint, "/"), !c.tls.InsecureSkipVerify}
			if diff := cmp.Diff([]any{sdk.Cinder, sdk.Glance, sdk.Verify}, got); diff != "" {
				t.Errorf("endpoints and verify, openstacksdk -, we +:\n%s", diff)
			}
		})
	}
}
