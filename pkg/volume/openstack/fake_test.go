package openstack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/host"
)

const (
	fakePassword = "correct-horse-battery"
	fakeProject  = "0123456789abcdef0123456789abcdef"
)

// cloud is a fake of the three services, with just enough in it to inject faults
// into what the real ones do well.
type cloud struct {
	*httptest.Server
	t  *testing.T
	mu sync.Mutex

	volumes, attachments, images, snapshots map[string]map[string]any
	messages                                map[string]string // by resource
	quota                                   map[string]any
	minor                                   int               // of the newest version of Cinder's API
	tokens                                  map[string]string // that are valid, and whose
	issued                                  []string          // all that there ever were
	catalog                                 map[string]string // type and path of each service

	uploads string // what images of volumes become; empty: active
	noForce bool   // no image is made of a volume in use, as without enable_force_upload
	faults  []*mishap
	log     []string // "METHOD path" of each request but those for tokens
	service []string // the service tokens that came
	bodies  []string
}

// mishap spoils the requests that match, a number of times.
type mishap struct {
	method, path string
	times        int
	// spoil gets the request, and effect, which does what was asked and gives the
	// answer.
	spoil func(w http.ResponseWriter, r *http.Request, effect func() *httptest.ResponseRecorder)
}

// status answers with a status and does nothing.
func status(code int, header, body string) func(http.ResponseWriter, *http.Request, func() *httptest.ResponseRecorder) {
	return func(w http.ResponseWriter, _ *http.Request, _ func() *httptest.ResponseRecorder) {
		if k, v, ok := strings.Cut(header, ": "); ok {
			w.Header().Set(k, v)
		}
		w.WriteHeader(code)
		io.WriteString(w, body)
	}
}

// cutBefore closes the connection before anything is done.
func cutBefore(w http.ResponseWriter, _ *http.Request, _ func() *httptest.ResponseRecorder) {
	panic(http.ErrAbortHandler)
}

// cutAfter does what was asked and closes the connection without an answer.
func cutAfter(w http.ResponseWriter, _ *http.Request, effect func() *httptest.ResponseRecorder) {
	effect()
	panic(http.ErrAbortHandler)
}

// cutWithin does what was asked and closes the connection in mid-answer.
func cutWithin(w http.ResponseWriter, _ *http.Request, effect func() *httptest.ResponseRecorder) {
	rec := effect()
	body := rec.Body.Bytes()
	maps.Copy(w.Header(), rec.Header())
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(rec.Code)
	w.Write(body[:len(body)/2])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// gatewayTimeout does what was asked and answers as a proxy that lost patience.
func gatewayTimeout(w http.ResponseWriter, _ *http.Request, effect func() *httptest.ResponseRecorder) {
	effect()
	w.WriteHeader(http.StatusGatewayTimeout)
	io.WriteString(w, "<html><head><title>504</title></head><body><h1>Gateway Time-out</h1></body></html>")
}

// late does what was asked long after the client has gone away.
func late(delay time.Duration) func(http.ResponseWriter, *http.Request, func() *httptest.ResponseRecorder) {
	return func(_ http.ResponseWriter, _ *http.Request, effect func() *httptest.ResponseRecorder) {
		time.Sleep(delay)
		effect()
		panic(http.ErrAbortHandler)
	}
}

func newCloud(t *testing.T) *cloud {
	c := &cloud{
		t: t, volumes: map[string]map[string]any{}, attachments: map[string]map[string]any{}, images: map[string]map[string]any{},
		snapshots: map[string]map[string]any{}, messages: map[string]string{}, tokens: map[string]string{}, minor: 70,
		quota:   map[string]any{"id": fakeProject},
		catalog: map[string]string{"image": "/image", "volumev3": "/volume/v3/" + fakeProject},
	}
	mux := http.NewServeMux()
	c.routes(mux)
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.serve(mux, w, r) }))
	c.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	c.Start()
	t.Cleanup(c.Close)
	return c
}

func (c *cloud) serve(mux http.Handler, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var hit *mishap
	c.mu.Lock()
	if !strings.Contains(r.URL.Path, "/auth/tokens") {
		c.log = append(c.log, r.Method+" "+r.URL.Path)
		c.bodies = append(c.bodies, string(body))
		c.service = append(c.service, r.Header.Get("X-Service-Token"))
	}
	for _, f := range c.faults {
		if f.times > 0 && f.method == r.Method && strings.Contains(r.URL.Path, f.path) {
			f.times--
			hit = f
			break
		}
	}
	c.mu.Unlock()
	effect := func() *httptest.ResponseRecorder {
		c.mu.Lock()
		defer c.mu.Unlock()
		rec := httptest.NewRecorder()
		if c.tokens[r.Header.Get("X-Auth-Token")] == "" && !strings.HasPrefix(r.URL.Path, "/identity") {
			rec.WriteHeader(http.StatusUnauthorized)
			io.WriteString(rec, `{"error": {"code": 401, "message": "The request you have made requires authentication.", "title": "Unauthorized"}}`)
			return rec
		}
		if minor, _ := strconv.Atoi(strings.TrimPrefix(r.Header.Get("OpenStack-API-Version"), "volume 3.")); minor > c.minor {
			refuse(rec, http.StatusNotAcceptable, "computeFault", fmt.Sprintf("Version 3.%d is not supported by the API. Minimum is 3.0 and maximum is 3.%d.", minor, c.minor))
			return rec
		}
		mux.ServeHTTP(rec, r)
		return rec
	}
	if hit != nil {
		hit.spoil(w, r, effect)
		return
	}
	rec := effect()
	maps.Copy(w.Header(), rec.Header())
	w.WriteHeader(rec.Code)
	w.Write(rec.Body.Bytes())
}

// fail adds a fault.
func (c *cloud) fail(method, path string, times int, spoil func(http.ResponseWriter, *http.Request, func() *httptest.ResponseRecorder)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &mishap{method, path, times, spoil})
}

// count says how many requests there were, of those that match.
func (c *cloud) count(prefix string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, line := range c.log {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// bodyOf is the body of the last request to a path that ends so.
func (c *cloud) bodyOf(method, path string) (body string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, line := range c.log {
		if strings.HasPrefix(line, method+" ") && strings.HasSuffix(line, path) {
			body = c.bodies[i]
		}
	}
	return body
}

// expire makes every token invalid.
func (c *cloud) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.tokens)
}

// locked runs something while no request does.
func (c *cloud) locked(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// add puts a volume into the cloud.
func (c *cloud) add(status string, meta map[string]any) string {
	id := uuid.NewString()
	if meta == nil {
		meta = map[string]any{}
	}
	c.locked(func() {
		c.volumes[id] = map[string]any{"id": id, "name": "v-" + id[:8], "status": status, "size": 1, "bootable": "true", "metadata": meta, "attachments": []any{}, "created_at": "2026-01-01T00:00:00.000000"}
	})
	return id
}

// meta is a copy of a volume's metadata.
func (c *cloud) meta(id string) map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.volumes[id]["metadata"].(map[string]any))
}

// setenv makes the OS_* variables those of the fake, and no others.
func (c *cloud) setenv(t *testing.T) {
	for _, name := range []string{"OS_CLOUD", "OS_PROJECT_ID", "OS_DOMAIN_NAME", "OS_DOMAIN_ID", "OS_TOKEN", "OS_USER_ID", "OS_USER_DOMAIN_ID", "OS_PROJECT_DOMAIN_ID", "OS_REGION_NAME", "OS_INTERFACE", "OS_USER_DOMAIN_NAME", "OS_PROJECT_DOMAIN_NAME", "OS_CLIENT_CONFIG_FILE", "OS_CLIENT_SECURE_FILE", "OS_AUTH_TYPE", "OS_INSECURE"} {
		t.Setenv(name, "")
	}
	t.Setenv("OS_AUTH_URL", c.URL+"/identity/v3")
	t.Setenv("OS_USERNAME", "demo")
	t.Setenv("OS_PASSWORD", fakePassword)
	t.Setenv("OS_PROJECT_NAME", "demo")
	t.Setenv("OS_USER_DOMAIN_NAME", "Default")
	t.Setenv("OS_PROJECT_DOMAIN_NAME", "Default")
}

// open opens a store on the fake, with little patience.
func (c *cloud) open(t *testing.T, change func(*Options)) *Store {
	t.Helper()
	c.setenv(t)
	o := Options{
		Timeout: 10 * time.Second, Patience: 5 * time.Second, AnswerTimeout: 2 * time.Second,
		Host:      host.Host{ID: "id-of-here", Name: "here", BootID: "boot-of-here"},
		Connector: func(context.Context) (map[string]any, error) { return map[string]any{"host": "whoever"}, nil },
	}
	if change != nil {
		change(&o)
	}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
