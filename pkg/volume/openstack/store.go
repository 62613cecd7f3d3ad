// Package openstack is the volume store of a cloud: volumes, snapshots and
// attachments are Cinder's, images are Glance's, and Keystone lets us in. Its
// values, status words and errors are those of package volume.
//
// What is done twice because an answer was lost has the effect of doing it once:
// reads, deletions and changes are repeated as they are; before a creation is
// repeated, the object is looked for by a mark that only this request has.
package openstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// microversion is the version of Cinder's API that the store speaks: 3.54, of the
// Stein release, where an attachment is created with its mode. What came before
// that we need: attachments that are completed (3.44), filtered messages (3.5).
const microversion = "3.54"

// Options says which cloud, and how patient to be. The zero value takes the cloud
// from the environment.
type Options struct {
	// Cloud is an entry of clouds.yaml; empty means $OS_CLOUD, and without that the
	// other OS_* variables.
	Cloud string
	// ServiceCloud is an entry of clouds.yaml with a user who has the role
	// "service"; may be empty. With it, attachments carry the instance's id in
	// Cinder's own field, and only this user can delete them.
	ServiceCloud string
	// Timeout bounds each wait for Cinder or Glance to finish something; zero is 10
	// minutes.
	Timeout time.Duration
	// Patience bounds the time in which a failed request is repeated; zero is 30
	// seconds, less than zero repeats nothing.
	Patience time.Duration
	// AnswerTimeout bounds the wait for the answer to one request; zero is 90
	// seconds.
	AnswerTimeout time.Duration
	// Host is named by the attachments that are made; the zero one is host.Here.
	Host host.Host
	// Connector describes this host to Cinder, but for its name, which is Host's.
	// Without it nothing can be connected.
	Connector func(ctx context.Context) (map[string]any, error)
	// Inspect says what an image file is: its format, held against the one that was
	// asked for (may be empty), and the bytes of the disk it describes. Without it
	// the format of an import must be given, and is believed.
	Inspect func(ctx context.Context, req volume.ImportImage) (diskFormat string, err error)
	// TokenDir is where tokens and catalogs are kept for the next command, until they
	// expire or are refused; empty: nowhere. Its parent has to be there.
	TokenDir string
	// Log gets what is repeated and why; may be nil.
	Log *slog.Logger
	// Warn gets what a person should know of the settings; may be nil.
	Warn func(string)
	// Waiting is told once what is waited for when the cloud makes us wait, in whatever
	// goroutine; may be nil.
	Waiting func(string)
}

// Store is the volume store of one project in one cloud. Its methods may be
// called from several goroutines.
type Store struct {
	o       Options
	cinder  *gophercloud.ServiceClient
	glance  *gophercloud.ServiceClient
	service *gophercloud.ProviderClient // nil without a service user
	secrets []string                    // what must never be in a text
	who     identity
	region  string // where volumes are
	// noGlance is why there is no Glance to ask; nil when there is one.
	noGlance error
	told     sync.Once // what is waited for
}

// Open signs in to the cloud. Its errors wrap failure.ErrInvalid when the settings
// are wrong, volume.ErrAuth when the credentials are not accepted, and
// volume.ErrUnreachable when nobody answers.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Minute
	}
	if o.Patience == 0 {
		o.Patience = 30 * time.Second
	}
	if o.AnswerTimeout == 0 {
		o.AnswerTimeout = 90 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if o.Waiting == nil {
		o.Waiting = func(string) {}
	}
	if o.Host.ID == "" {
		here, err := host.Here("", "")
		if err != nil {
			return nil, err
		}
		o.Host = here
	}
	if err := checkTexts("what is noted on a volume of host "+o.Host.Name, claim{attachment: uuid.Nil.String(), host: o.Host}.entries()); err != nil {
		return nil, err
	}
	s := &Store{o: o}
	creds, err := findCredentials(o.Cloud, o.Warn)
	if err != nil {
		return nil, err
	}
	s.secrets = creds.secrets()
	ctx, cancel := s.limit(ctx)
	defer cancel()
	provider, err := s.signIn(ctx, creds)
	if err != nil {
		return nil, err
	}
	if o.ServiceCloud != "" {
		if err := s.openService(ctx, provider); err != nil {
			return nil, err
		}
	}
	if err = s.look(provider, creds); err != nil && o.TokenDir != "" && provider.Reauthenticate(ctx, "") == nil {
		err = s.look(provider, creds) // what was kept may be old
	}
	return s, err
}

// signIn gets a token: the one that was kept, or else a new one.
func (s *Store) signIn(ctx context.Context, c credentials) (*gophercloud.ProviderClient, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = c.tls
	transport.ResponseHeaderTimeout = s.o.AnswerTimeout
	file := s.tokenFile(c)
	client := func() (*gophercloud.ProviderClient, error) {
		client, err := openstack.NewClient(c.auth.IdentityEndpoint)
		if err != nil {
			return nil, failure.Invalid("%q is no URL of an identity service", c.auth.IdentityEndpoint)
		}
		client.HTTPClient = http.Client{Transport: &observed{transport, s}}
		client.UserAgent.Prepend("lxcboot")
		return client, nil
	}
	fresh := func(ctx context.Context, client *gophercloud.ProviderClient) error {
		err := openstack.Authenticate(ctx, client, c.auth)
		if err == nil {
			s.keep(client, file)
		}
		return err
	}
	provider, err := client()
	if err != nil {
		return nil, err
	}
	if c.auth.TokenID == "" { // else a new one can not be had
		provider.ReauthFunc = func(ctx context.Context) error {
			other, err := client()
			if err == nil {
				err = fresh(ctx, other)
			}
			if err == nil {
				provider.CopyTokenFrom(other)
			}
			return err
		}
	}
	if s.useKept(provider, file) {
		return provider, nil
	}
	return provider, call(ctx, s, "keystone", "signing in at "+c.auth.IdentityEndpoint, func(error) error { return fresh(ctx, provider) })
}

// openService signs the service user in too, and has its token sent to Cinder
// with every request.
func (s *Store) openService(ctx context.Context, provider *gophercloud.ProviderClient) error {
	creds, err := findCredentials(s.o.ServiceCloud, s.o.Warn)
	if err != nil {
		return fmt.Errorf("service user: %w", err)
	}
	s.secrets = append(s.secrets, creds.secrets()...)
	if s.service, err = s.signIn(ctx, creds); err != nil {
		return fmt.Errorf("service user: %w", err)
	}
	provider.HTTPClient.Transport = &serviceToken{base: provider.HTTPClient.Transport, store: s}
	// An answer 401 does not say whose token has expired: renew both.
	if renew := provider.ReauthFunc; renew != nil {
		provider.ReauthFunc = func(ctx context.Context) error {
			return errors.Join(renew(ctx), s.service.Reauthenticate(ctx, s.service.Token()))
		}
	}
	return nil
}

// serviceToken adds the service user's token to what is sent to Cinder.
type serviceToken struct {
	base  http.RoundTripper
	store *Store
}

func (t *serviceToken) RoundTrip(r *http.Request) (*http.Response, error) {
	if c := t.store.cinder; c != nil && strings.HasPrefix(r.URL.String(), c.Endpoint) {
		r = r.Clone(r.Context())
		r.Header.Set("X-Service-Token", t.store.service.Token())
	}
	return t.base.RoundTrip(r)
}

// StoreID tells the project from others, in whatever cloud, whatever the cloud's name
// or address is now.
func (s *Store) StoreID() string { return "openstack project " + s.who.projectID }

// Remote says that volumes reach this host over a network: other hosts, which this one
// knows nothing of, may have them.
func (s *Store) Remote() bool { return true }

// Describe says which cloud this is and who we are in it, without secrets.
func (s *Store) Describe() string {
	var b strings.Builder
	if s.who.cloud != "" {
		fmt.Fprintf(&b, "cloud %s, ", s.who.cloud)
	}
	fmt.Fprintf(&b, "user %s, project %s", s.who.user, s.who.project)
	if s.region != "" {
		fmt.Fprintf(&b, ", region %s", s.region)
	}
	fmt.Fprintf(&b, ", keystone at %s, cinder at %s", s.who.authURL, s.cinder.Endpoint)
	if s.noGlance == nil {
		fmt.Fprintf(&b, ", glance at %s", s.glance.Endpoint)
	}
	return s.clean(b.String())
}

// Ping asks Cinder and Glance for something small, with our token.
func (s *Store) Ping(ctx context.Context) error {
	ask := func(service string, client *gophercloud.ServiceClient, path string) error {
		return call(ctx, s, service, "asking for a list", func(error) error {
			resp, err := client.Get(ctx, client.ServiceURL(path)+"?limit=1", nil, nil)
			_, _, err = gophercloud.ParseResponse(resp, err)
			return err
		})
	}
	return errors.Join(ask("cinder", s.cinder, "volumes"), ask("glance", s.glance, "images"))
}

// limit bounds a wait by the store's timeout.
func (s *Store) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.o.Timeout, errTimeout)
}

// errTimeout tells the store's own limit from one of the caller.
var errTimeout = errors.New("the time limit was reached")

// afterwards bounds what is done to tidy up when the caller's context has ended.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
}

// checkID refuses what can not be an id before it becomes part of an address.
func checkID(kind, id string) error {
	if uuid.Validate(id) != nil {
		return fmt.Errorf("%s %q: %w", kind, id, volume.ErrNotFound)
	}
	return nil
}
