package openstack

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// credentials are how to sign in, and where.
type credentials struct {
	cloud  string // entry of clouds.yaml; empty when from OS_*
	auth   gophercloud.AuthOptions
	tls    *tls.Config
	cinder place
	glance place
}

// place says which endpoint of a service is meant.
type place struct {
	region     string // empty: any
	name       string // of the service in the catalog; empty: any
	interfaces []gophercloud.Availability
	override   string // its address, where that is set
}

// findCredentials reads what is set for a cloud. Nothing is asked of the cloud.
func findCredentials(cloud string, warn func(string)) (credentials, error) {
	cloud = cmp.Or(cloud, os.Getenv("OS_CLOUD"))
	set, source, err := findConfig(cloud, warn)
	if err != nil {
		return credentials{}, err
	}
	c := credentials{cloud: cloud}
	refuse := func(err error) (credentials, error) { return c, failure.Of(err, "%s: %v", source, err) }
	if c.auth, err = set.authOptions(); err != nil {
		return refuse(err)
	}
	if c.tls, err = set.tls(); err != nil {
		return refuse(err)
	}
	if c.cinder, err = set.place("block_storage", "volumev3", "volumev2", "volume", "block_store"); err != nil {
		return refuse(err)
	}
	if c.glance, err = set.place("image"); err != nil {
		return refuse(err)
	}
	return c, nil
}

// auth is what is set by one of the keys, in the section auth or, as openstacksdk has
// it, outside of it.
func (c config) auth(keys ...string) string {
	for _, key := range keys {
		if v := cmp.Or(text(section(c, "auth")[key]), text(c[key])); v != "" {
			return v
		}
	}
	return ""
}

// expanded fills the region into an address that holds {region_name}.
func (c config) expanded(address string) string {
	return strings.ReplaceAll(address, "{region_name}", text(c["region_name"]))
}

// authTypes are the ways to sign in, by their names in openstacksdk.
var authTypes = map[string]string{
	"": "", "password": "password", "v3password": "password", "token": "token", "v3token": "token", "v3applicationcredential": "applicationcredential",
}

// authOptions is how to sign in. What Keystone wants to be told once is told once, and
// as openstacksdk does: an id before a name, a default domain where none is given.
func (c config) authOptions() (gophercloud.AuthOptions, error) {
	a := gophercloud.AuthOptions{IdentityEndpoint: c.expanded(c.auth("auth_url"))}
	u, err := url.Parse(a.IdentityEndpoint)
	switch {
	case a.IdentityEndpoint == "":
		return a, failure.Invalid("it has no auth_url")
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return a, failure.Invalid("auth_url %q is no URL of an identity service, such as https://keystone.example.org/v3", a.IdentityEndpoint)
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v2.0"):
		return a, failure.Invalid("auth_url %q is of version 2 of Keystone's API; version 3 is needed, usually at /v3", a.IdentityEndpoint)
	}
	secret, password, token := c.auth("application_credential_secret"), c.auth("password"), c.auth("token", "auth_token")
	kind := text(c["auth_type"])
	how, known := authTypes[kind]
	if !known {
		return a, failure.Invalid("auth_type %q is none of those that lxcboot signs in with: password, token, v3applicationcredential", kind)
	}
	if kind == "" {
		switch {
		case secret != "":
			how = "applicationcredential"
		case password != "":
			how = "password"
		case token != "":
			how = "token"
		default:
			return a, failure.Invalid("there is neither a password, nor an application credential, nor a token")
		}
	}
	user := func() {
		if a.UserID = c.auth("user_id", "userid"); a.UserID == "" {
			if a.Username = c.auth("username", "user_name"); a.Username != "" {
				a.DomainID, a.DomainName = c.domain("user")
			}
		}
	}
	missing := ""
	switch how {
	case "password":
		user()
		a.Password = password
		if a.UserID+a.Username == "" {
			missing = "username"
		} else if password == "" {
			missing = "password"
		}
	case "token":
		a.TokenID = token
		if token == "" {
			missing = "token"
		}
	case "applicationcredential":
		a.ApplicationCredentialSecret = secret
		if a.ApplicationCredentialID = c.auth("application_credential_id"); a.ApplicationCredentialID == "" {
			a.ApplicationCredentialName = c.auth("application_credential_name")
			user()
		}
		if secret == "" {
			missing = "application_credential_secret"
		} else if a.ApplicationCredentialID+a.ApplicationCredentialName == "" {
			missing = "application_credential_id"
		}
		if missing == "" {
			return a, nil // it has its own project
		}
	}
	if missing != "" {
		return a, failure.Invalid("%s is missing, which auth_type %s needs", missing, cmp.Or(kind, how))
	}
	a.Scope, err = c.scope()
	return a, err
}

// scope is what a token shall be for; nil leaves that to Keystone.
func (c config) scope() (*gophercloud.AuthScope, error) {
	trust, system := c.auth("trust_id"), c.auth("system_scope")
	id, name := c.auth("project_id", "tenant_id"), c.auth("project_name", "tenant_name")
	switch {
	case system != "":
		return nil, failure.Invalid("system_scope is set; volumes and images belong to a project: set project_name in its place")
	case trust != "" && id+name != "":
		return nil, failure.Invalid("both a trust_id and a project are set; a trust has its own project")
	case trust != "":
		return &gophercloud.AuthScope{TrustID: trust}, nil
	case id != "":
		return &gophercloud.AuthScope{ProjectID: id}, nil
	case name != "":
		scope := &gophercloud.AuthScope{ProjectName: name}
		scope.DomainID, scope.DomainName = c.domain("project")
		return scope, nil
	}
	return nil, nil
}

// domain is the domain of the user or the project.
func (c config) domain(of string) (id, name string) {
	if id = c.auth(of+"_domain_id", "domain_id", "default_domain_id"); id != "" {
		return id, ""
	}
	if name = c.auth(of+"_domain_name", "domain_name", "default_domain_name"); name != "" {
		return "", name
	}
	return cmp.Or(c.auth("default_domain"), "default"), ""
}

// place says where a service is, by settings that begin with one of its names, and by
// those for all services.
func (c config) place(names ...string) (place, error) {
	set := func(keys ...string) any {
		for _, key := range keys {
			for _, name := range names {
				if v := c[name+"_"+key]; v != nil {
					return v
				}
			}
		}
		return nil
	}
	p := place{
		region: cmp.Or(text(set("region_name")), text(c["region_name"])), name: text(set("service_name")),
		override: c.expanded(text(set("endpoint_override", "endpoint"))),
	}
	if u, err := url.Parse(p.override); p.override != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return p, failure.Invalid("%s_endpoint_override %q is no URL", names[0], p.override)
	}
	wanted := set("endpoint_type", "interface")
	for _, key := range []string{"endpoint_type", "interface"} {
		if wanted == nil {
			wanted = c[key]
		}
	}
	list, ok := wanted.([]any)
	if !ok {
		list = []any{cmp.Or(text(wanted), "public")}
	}
	for _, item := range list {
		i := gophercloud.Availability(strings.TrimSuffix(text(item), "URL"))
		switch i {
		case gophercloud.AvailabilityPublic, gophercloud.AvailabilityInternal, gophercloud.AvailabilityAdmin:
		default:
			return p, failure.Invalid("interface %q is none of public, internal and admin", text(item))
		}
		p.interfaces = append(p.interfaces, i)
	}
	return p, nil
}

// tls says whom to trust, and who we are.
func (c config) tls() (*tls.Config, error) {
	insecure, err := c.truth("insecure", false)
	if err != nil {
		return nil, err
	}
	verify, err := c.truth("verify", true)
	if err != nil {
		return nil, err
	}
	t := &tls.Config{InsecureSkipVerify: insecure || !verify}
	if path := home(text(c["cacert"])); path != "" && !t.InsecureSkipVerify {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, failure.Invalid("cacert: %v", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, failure.Invalid("cacert %s holds no certificate in PEM", path)
		}
	}
	cert, key := home(text(c["cert"])), home(text(c["key"]))
	switch {
	case cert == "" && key != "":
		return nil, failure.Invalid("key is set, and cert, which it is for, is not")
	case cert != "": // both may be in one file
		pair, err := tls.LoadX509KeyPair(cert, cmp.Or(key, cert))
		if err != nil {
			return nil, failure.Invalid("cert %s and its key: %v", cert, err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// truth reads a word for yes or no, as YAML and Python have them.
func (c config) truth(key string, usual bool) (bool, error) {
	switch word := text(c[key]); strings.ToLower(word) {
	case "":
		return usual, nil
	case "true", "yes", "on":
		return true, nil
	case "false", "no", "off":
		return false, nil
	default:
		return false, failure.Invalid("%s: %q is neither true nor false (a CA's file is named by cacert)", key, word)
	}
}

// home is a path with its ~ resolved.
func home(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if dir, err := os.UserHomeDir(); err == nil {
			return filepath.Join(dir, rest)
		}
	}
	return path
}

// secrets lists what must never be in a text.
func (c credentials) secrets() []string {
	var all []string
	for _, s := range []string{c.auth.Password, c.auth.ApplicationCredentialSecret, c.auth.TokenID} {
		// A text of a few characters would turn up in innocent words.
		if len(s) >= 4 {
			all = append(all, s)
		}
	}
	return all
}

// clean takes secrets out of a text that came from elsewhere.
func (s *Store) clean(text string) string {
	secrets := s.secrets
	if s.cinder != nil {
		secrets = append(secrets[:len(secrets):len(secrets)], s.cinder.Token())
	}
	if s.service != nil {
		secrets = append(secrets[:len(secrets):len(secrets)], s.service.Token())
	}
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	return text
}
