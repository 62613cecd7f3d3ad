package openstack

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	tokens3 "github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// identity is who we are and in which cloud, without anything secret.
type identity struct {
	authURL, cloud, user, project, projectID string
}

// service is one that the catalog has, or that is said to be elsewhere.
type service struct {
	name, kind string   // cinder, block storage
	types      []string // that it has in catalogs, the best one first
	version    string   // of its API
}

var (
	cinderService = service{"cinder", "block storage", []string{"block-storage", "volumev3", "volume", "block-store"}, "3"}
	glanceService = service{"glance", "image", []string{"image"}, "2"}
)

// granted is what Keystone tells with a token.
type granted interface {
	ExtractUser() (*tokens3.User, error)
	ExtractProject() (*tokens3.Project, error)
	ExtractServiceCatalog() (*tokens3.ServiceCatalog, error)
}

// look finds in Keystone's answer who we are and where the services are. These are
// asked nothing, so that a broken one stops only what needs it.
func (s *Store) look(provider *gophercloud.ProviderClient, c credentials) error {
	s.who = identity{authURL: c.auth.IdentityEndpoint, cloud: c.cloud, user: c.auth.Username}
	answer, ok := provider.GetAuthResult().(granted)
	if !ok {
		return failure.Invalid("keystone at %s speaks version 2 of its API; version 3 is needed", s.who.authURL)
	}
	if user, err := answer.ExtractUser(); err == nil && user != nil {
		s.who.user = user.Name
	}
	project, err := answer.ExtractProject()
	if err != nil || project == nil {
		return failure.Invalid("user %s signs in to no project: set project_name (or OS_PROJECT_NAME)", s.who.user)
	}
	s.who.project, s.who.projectID = project.Name, project.ID
	catalog, err := answer.ExtractServiceCatalog()
	if err != nil {
		return failure.Of(volume.ErrUnsupported, "the catalog of keystone at %s can not be understood: %v", s.who.authURL, err)
	}
	cinder, err := c.cinder.find(catalog, cinderService, project.ID)
	if err != nil {
		return err
	}
	glance, err := c.glance.find(catalog, glanceService, project.ID)
	s.noGlance = err
	s.cinder = &gophercloud.ServiceClient{ProviderClient: provider, Type: "block-storage", Microversion: microversion, Endpoint: cinderURL(cinder.URL, project.ID)}
	s.glance = &gophercloud.ServiceClient{ProviderClient: provider, Type: "image", Endpoint: glanceURL(glance.URL)}
	s.glance.ResourceBase = s.glance.Endpoint + "v2/"
	s.region = cinder.Region
	if all := regions(catalog); len(all) > 1 && c.cinder.region+c.cinder.override == "" {
		s.o.Warn(fmt.Sprintf("no region is set, and the cloud has %s: volumes are in %s, images in %s; region_name or OS_REGION_NAME chooses", strings.Join(all, ", "), cinder.Region, glance.Region))
	}
	return nil
}

// find finds a service in the catalog. What is chosen among several is what
// openstacksdk chooses.
func (p place) find(catalog *tokens3.ServiceCatalog, s service, projectID string) (tokens3.Endpoint, error) {
	if p.override != "" {
		return tokens3.Endpoint{URL: strings.NewReplacer("%(project_id)s", projectID, "%(tenant_id)s", projectID).Replace(p.override), Region: p.region}, nil
	}
	for _, kind := range s.types {
		for _, wanted := range p.interfaces {
			for _, entry := range catalog.Entries {
				for _, e := range entry.Endpoints {
					version := versionOf(e.URL)
					if entry.Type == kind && gophercloud.Availability(e.Interface) == wanted && (p.name == "" || entry.Name == p.name) &&
						(p.region == "" || e.Region == p.region || e.RegionID == p.region) && (version == "" || version == s.version) {
						return e, nil
					}
				}
			}
		}
	}
	where := ""
	if p.region != "" {
		where = fmt.Sprintf(" in region %q", p.region)
	}
	return tokens3.Endpoint{}, failure.Of(volume.ErrUnsupported, "the cloud's catalog has no %s service (%s) at a %v address%s: check the region and the interface; the catalog's regions are: %s",
		s.kind, s.name, p.interfaces, where, strings.Join(regions(catalog), ", "))
}

// regions are the regions that have one of our services.
func regions(catalog *tokens3.ServiceCatalog) (all []string) {
	for _, entry := range catalog.Entries {
		if slices.Contains(cinderService.types, entry.Type) || slices.Contains(glanceService.types, entry.Type) {
			for _, e := range entry.Endpoints {
				if e.Region != "" {
					all = append(all, e.Region)
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// version is the part of an address that names the version of an API.
var version = regexp.MustCompile(`/v(\d+)(?:\.\d+)?(?:/|$)`)

func versionOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	m := version.FindStringSubmatch(u.Path)
	if m == nil {
		return ""
	}
	return m[1]
}

// cinderURL completes Cinder's address with what is not in every catalog, the version
// and the project.
func cinderURL(address, projectID string) string {
	address = gophercloud.NormalizeURL(address)
	if versionOf(address) == "" {
		address += "v3/"
	}
	if strings.HasSuffix(address, "/v3/") {
		address += projectID + "/"
	}
	return address
}

// glanceURL is Glance's address without the version, which is in some catalogs.
func glanceURL(address string) string {
	address = gophercloud.NormalizeURL(address)
	if at := version.FindStringIndex(address); at != nil && at[1] == len(address) {
		address = address[:at[0]+1]
	}
	return address
}

// missing says that a service is not in the catalog.
func (s *Store) missing(service string) error {
	if service == glanceService.name {
		return s.noGlance
	}
	return nil
}
