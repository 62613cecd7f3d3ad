package openstack

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"go.yaml.in/yaml/v3"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// credentials are how to sign in, and where.
type credentials struct {
	cloud    string // entry of clouds.yaml; empty when from OS_*
	auth     gophercloud.AuthOptions
	endpoint gophercloud.EndpointOpts
	tls      *tls.Config
}

// Configured says whether the environment names a cloud, and how: "OS_CLOUD" or
// "OS_AUTH_URL"; empty when it does not.
func Configured() string {
	for _, name := range []string{"OS_CLOUD", "OS_AUTH_URL"} {
		if os.Getenv(name) != "" {
			return name
		}
	}
	return ""
}

// findCredentials reads clouds.yaml, where a cloud is named, or the OS_*
// variables.
func findCredentials(cloud string) (credentials, error) {
	if cloud == "" {
		cloud = os.Getenv("OS_CLOUD")
	}
	c := credentials{cloud: cloud}
	options := []clouds.ParseOption{clouds.WithCloudName(cloud)}
	source := fmt.Sprintf("cloud %q of clouds.yaml", cloud)
	if cloud == "" {
		source = "the OS_* variables"
		if os.Getenv("OS_AUTH_URL") == "" {
			return c, failure.Invalid("no cloud is set: set OS_CLOUD to an entry of clouds.yaml, or OS_AUTH_URL and the other OS_* variables")
		}
		text, err := environment()
		if err != nil {
			return c, err
		}
		options = []clouds.ParseOption{
			clouds.WithCloudName("env"), clouds.WithCloudsYAML(bytes.NewReader(text)), clouds.WithSecureYAML(strings.NewReader("clouds: {}")),
		}
	}
	var err error
	c.auth, c.endpoint, c.tls, err = parseClouds(options...)
	if err != nil {
		return c, failure.Invalid("%s: %s", source, plainParseError(err))
	}
	a := &c.auth
	if a.IdentityEndpoint == "" {
		return c, failure.Invalid("%s has no auth_url", source)
	}
	settle(a)
	if a.TokenID == "" && a.Password == "" && a.ApplicationCredentialSecret == "" {
		return c, failure.Invalid("%s: there is neither a password, nor an application credential, nor a token", source)
	}
	// Without a password a new token can not be had.
	a.AllowReauth = a.TokenID == ""
	return c, nil
}

// settle leaves one way to sign in, and each thing said once: gophercloud or Keystone
// refuses what is given both by name and by id. A domain that is not given is Keystone's
// default one, as in the openstack command.
func settle(a *gophercloud.AuthOptions) {
	switch {
	case a.ApplicationCredentialSecret != "": // it has its own project
		a.Password, a.TokenID, a.Scope, a.TenantID, a.TenantName = "", "", nil, "", ""
	case a.Password != "":
		a.TokenID = ""
	case a.TokenID != "":
		a.Username, a.UserID, a.DomainID, a.DomainName = "", "", "", ""
	}
	if a.UserID != "" {
		a.Username, a.DomainID, a.DomainName = "", "", ""
	}
	domain := func(name string, domainID, domainName *string) {
		switch {
		case *domainID != "":
			*domainName = ""
		case *domainName == "" && name != "":
			*domainID = "default"
		}
	}
	domain(a.Username, &a.DomainID, &a.DomainName)
	if a.Scope != nil {
		domain(a.Scope.ProjectName, &a.Scope.DomainID, &a.Scope.DomainName)
	}
}

// parseClouds guards against an entry without an auth section, which the parser
// takes for granted.
func parseClouds(options ...clouds.ParseOption) (auth gophercloud.AuthOptions, eo gophercloud.EndpointOpts, conf *tls.Config, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("the auth section of the cloud was not found")
		}
	}()
	return clouds.Parse(options...)
}

// environment is the entry of clouds.yaml that says the same as the OS_*
// variables: so both are understood in the same way, with domains of their own
// for the user and the project, certificates and all.
func environment() ([]byte, error) {
	env := func(names ...string) string {
		for _, name := range names {
			if v := os.Getenv(name); v != "" {
				return v
			}
		}
		return ""
	}
	entry := clouds.Cloud{
		AuthInfo: &clouds.AuthInfo{
			AuthURL: env("OS_AUTH_URL"), Token: env("OS_TOKEN"),
			Username: env("OS_USERNAME"), UserID: env("OS_USER_ID", "OS_USERID"), Password: env("OS_PASSWORD"),
			ApplicationCredentialID:     env("OS_APPLICATION_CREDENTIAL_ID"),
			ApplicationCredentialName:   env("OS_APPLICATION_CREDENTIAL_NAME"),
			ApplicationCredentialSecret: env("OS_APPLICATION_CREDENTIAL_SECRET"),
			ProjectName:                 env("OS_PROJECT_NAME", "OS_TENANT_NAME"),
			ProjectID:                   env("OS_PROJECT_ID", "OS_TENANT_ID"),
			UserDomainName:              env("OS_USER_DOMAIN_NAME"), UserDomainID: env("OS_USER_DOMAIN_ID"),
			ProjectDomainName: env("OS_PROJECT_DOMAIN_NAME"), ProjectDomainID: env("OS_PROJECT_DOMAIN_ID"),
			DomainName: env("OS_DOMAIN_NAME"), DomainID: env("OS_DOMAIN_ID", "OS_DEFAULT_DOMAIN"),
		},
		CACertFile: env("OS_CACERT"), ClientCertFile: env("OS_CERT"), ClientKeyFile: env("OS_KEY"),
		Interface: env("OS_INTERFACE", "OS_ENDPOINT_TYPE"),
	}
	if v := env("OS_INSECURE"); v != "" && !strings.EqualFold(v, "false") && v != "0" {
		verify := false
		entry.Verify = &verify
	}
	text, err := yaml.Marshal(clouds.Clouds{Clouds: map[string]clouds.Cloud{"env": entry}})
	if err != nil {
		return nil, fmt.Errorf("the OS_* variables: %w", err)
	}
	return text, nil
}

var yamlLine = regexp.MustCompile(`line \d+`)

// plainParseError says what is wrong with clouds.yaml without quoting from it: a
// YAML error shows the text that it stumbled over, which may be a password.
func plainParseError(err error) string {
	text := err.Error()
	for _, harmless := range []string{"not found", "Search locations", "system scope", "TLS configuration", "home directory", "current"} {
		if strings.Contains(text, harmless) && !strings.Contains(text, "yaml:") {
			return text
		}
	}
	if line := yamlLine.FindString(text); line != "" {
		return "it can not be read, see " + line
	}
	return "it can not be read; check its syntax"
}

// secrets lists what must never be in a text.
func (c credentials) secrets() []string {
	var all []string
	for _, s := range []string{c.auth.Password, c.auth.ApplicationCredentialSecret, c.auth.TokenID, c.auth.Passcode} {
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
