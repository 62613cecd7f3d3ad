package openstack

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

type spoiler = func(http.ResponseWriter, *http.Request, func() *httptest.ResponseRecorder)

func TestTransientFailuresAreRepeated(t *testing.T) {
	for name, spoil := range map[string]spoiler{
		"500": status(500, "", `{"computeFault": {"code": 500, "message": "database is locked"}}`),
		"502": status(502, "", "<html>Bad Gateway</html>"), "503": status(503, "", ""), "504": status(504, "", ""),
		"429": status(429, "Retry-After: 1", ""), "cut before": cutBefore, "cut after": cutAfter, "cut within": cutWithin,
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			s := c.open(t, nil)
			id := c.add("available", nil)
			c.fail("GET", "/volumes/"+id, 2, spoil)
			start := time.Now()
			v, err := s.Volume(t.Context(), id)
			if err != nil || v.ID != id {
				t.Fatalf("%+v, %v", v, err)
			}
			if n := c.count("GET /volume/v3/" + fakeProject + "/volumes/"); n < 3 {
				t.Errorf("%d requests, want 3", n)
			}
			if took := time.Since(start); name == "429" && took < 2*time.Second {
				t.Errorf("Retry-After was not heeded: two answers in %v", took)
			}
		})
	}
}

func TestOtherFailuresAreNot(t *testing.T) {
	for _, test := range []struct {
		code int
		body string
		want error
		text string
	}{
		{400, `{"badRequest": {"code": 400, "message": "Invalid input received: size"}}`, failure.ErrInvalid, "Invalid input received: size"},
		{403, `{"forbidden": {"code": 403, "message": "Policy doesn't allow volume:create"}}`, volume.ErrAuth, "Policy doesn't allow"},
		{404, `{"itemNotFound": {"code": 404, "message": "Image X could not be found."}}`, volume.ErrNotFound, "Image X could not be found"},
		{409, `{"conflictingRequest": {"code": 409, "message": "busy elsewhere"}}`, volume.ErrConflict, "busy elsewhere"},
		{413, `{"overLimit": {"code": 413, "message": "VolumeLimitExceeded: Maximum number of volumes allowed (2) exceeded for quota 'volumes'."}}`, volume.ErrQuota, "Maximum number of volumes"},
		{501, `{"notImplemented": {"message": "not here"}}`, volume.ErrUnsupported, "not here"},
	} {
		c := newCloud(t)
		s := c.open(t, nil)
		c.fail("POST", "/volumes", 9, status(test.code, "X-Openstack-Request-Id: req-7", test.body))
		_, err := s.CreateVolume(t.Context(), volume.CreateVolume{Name: "web1", Size: 1})
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) || !strings.Contains(err.Error(), "req-7") || !strings.Contains(err.Error(), "cinder: creating volume \"web1\"") {
			t.Errorf("%d: %v", test.code, err)
		}
		if n := c.count("POST"); n != 1 {
			t.Errorf("%d: %d requests, want one", test.code, n)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	c := newCloud(t)
	c.setenv(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	t.Setenv("OS_AUTH_URL", "http://"+addr+"/v3")
	start := time.Now()
	_, err = Open(t.Context(), Options{Patience: time.Second})
	if !errors.Is(err, volume.ErrUnreachable) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}

	// One that comes up meanwhile is reached.
	go func() {
		time.Sleep(700 * time.Millisecond)
		if l, err := net.Listen("tcp", addr); err == nil {
			go http.Serve(l, c.Config.Handler)
			t.Cleanup(func() { l.Close() })
		}
	}()
	t.Setenv("OS_AUTH_URL", "http://"+addr+"/identity/v3")
	if _, err := Open(t.Context(), Options{Patience: 5 * time.Second}); err != nil {
		t.Errorf("a service that starts late: %v", err)
	}
}

// TestWaitingIsTold has a cloud that does not answer, and one that cannot be reached: what
// is waited for is told, once, and --timeout ends it.
func TestWaitingIsTold(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for url, want := range map[string]string{
		"http://" + silent.Addr().String() + "/v3": silent.Addr().String() + " has not answered yet",
		"http://127.0.0.1:1/v3":                    "connection refused; trying for 30s",
	} {
		newCloud(t).setenv(t)
		t.Setenv("OS_AUTH_URL", url)
		var mu sync.Mutex
		var told []string
		_, err := Open(t.Context(), Options{Timeout: 4 * time.Second, Waiting: func(text string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, text)
		}})
		mu.Lock()
		defer mu.Unlock()
		if !errors.Is(err, context.DeadlineExceeded) || len(told) != 1 || !strings.Contains(told[0], want) {
			t.Errorf("%s: %v; told %q, want %q", url, err, told, want)
		}
	}
}

// TestTLSFaults meets an authority that nobody knows, and a server without TLS: both are
// told as what they are, and at once.
func TestTLSFaults(t *testing.T) {
	c := newCloud(t)
	c.setenv(t)
	secure := httptest.NewUnstartedServer(c.Config.Handler)
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	secure.StartTLS()
	defer secure.Close()
	for url, want := range map[string]string{secure.URL: "x509", strings.Replace(c.URL, "http:", "https:", 1): "HTTP response to HTTPS client"} {
		t.Setenv("OS_AUTH_URL", url+"/identity/v3")
		_, err := Open(t.Context(), Options{Patience: time.Hour})
		if !errors.Is(err, ErrTLS) || !errors.Is(err, volume.ErrUnreachable) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "does not answer") {
			t.Errorf("%s: %v", url, err)
		}
	}
	t.Setenv("OS_AUTH_URL", secure.URL+"/identity/v3")
	t.Setenv("OS_INSECURE", "true")
	if _, err := Open(t.Context(), Options{}); err != nil {
		t.Errorf("not verified: %v", err)
	}
}

// TestSignInRefused tells a token that is none from an address that is none.
func TestSignInRefused(t *testing.T) {
	c := newCloud(t)
	c.setenv(t)
	t.Setenv("OS_TOKEN", "token-that-is-none")
	t.Setenv("OS_AUTH_TYPE", "token")
	if _, err := Open(t.Context(), Options{}); !errors.Is(err, volume.ErrAuth) || !strings.Contains(err.Error(), "token is not valid") || strings.Contains(err.Error(), "token-that") {
		t.Errorf("a wrong token: %v", err)
	}
	c.fail("POST", "/auth/tokens", 1, status(404, "", `{"error": {"code": 404, "message": "Could not recognize Fernet token", "title": "Not Found"}}`))
	if _, err := Open(t.Context(), Options{}); !errors.Is(err, volume.ErrAuth) {
		t.Errorf("a token that is none: %v", err)
	}
	c.fail("POST", "/auth/tokens", 1, status(404, "", "<h1>Not Found</h1><p>The requested URL /v3/auth/tokens was not found on this server.</p>"))
	if _, err := Open(t.Context(), Options{}); !errors.Is(err, failure.ErrInvalid) {
		t.Errorf("no Keystone: %v", err)
	}
	t.Setenv("OS_AUTH_TYPE", "password")
	t.Setenv("OS_AUTH_URL", c.URL+"/identity/nowhere/v3")
	if _, err := Open(t.Context(), Options{}); !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), "auth_url") {
		t.Errorf("a wrong address: %v", err)
	}
}

// TestCreatedOnce loses the answer to a request to create, in every way there is.
func TestCreatedOnce(t *testing.T) {
	raw := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(raw, bytes.Repeat([]byte("0123456789abcdef"), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]spoiler{
		"cut before": cutBefore, "cut after": cutAfter, "cut within": cutWithin, "504 though done": gatewayTimeout,
		"503": status(503, "", ""), "done late": late(3 * time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("volume", func(t *testing.T) {
				c := newCloud(t)
				s := c.open(t, nil)
				c.fail("POST", "/volumes", 1, spoil)
				v, err := s.CreateVolume(t.Context(), volume.CreateVolume{Name: "web1", Size: 1})
				if err != nil {
					t.Fatal(err)
				}
				c.locked(func() {
					if len(c.volumes) != 1 || c.volumes[v.ID] == nil {
						t.Errorf("%d volumes were made, want only %s", len(c.volumes), v.ID)
					}
				})
			})
			t.Run("snapshot", func(t *testing.T) {
				c := newCloud(t)
				s := c.open(t, nil)
				id := c.add("available", nil)
				c.fail("POST", "/snapshots", 1, spoil)
				n, err := s.CreateSnapshot(t.Context(), volume.CreateSnapshot{Name: "before", VolumeID: id})
				if err != nil {
					t.Fatal(err)
				}
				c.locked(func() {
					if len(c.snapshots) != 1 || c.snapshots[n.ID] == nil {
						t.Errorf("%d snapshots were made", len(c.snapshots))
					}
				})
			})
			t.Run("attachment", func(t *testing.T) {
				c := newCloud(t)
				s := c.open(t, nil)
				vol, instance := c.add("available", nil), uuid.NewString()
				c.fail("POST", "/attachments", 1, spoil)
				id, err := s.Reserve(t.Context(), vol, volume.Instance{ID: instance}, false)
				if err != nil {
					t.Fatal(err)
				}
				all, err := s.AttachmentsOf(t.Context(), vol, instance)
				if err != nil || len(all) != 1 || all[0].ID != id {
					t.Errorf("%+v, %v", all, err)
				}
				c.locked(func() {
					if len(c.attachments) != 1 {
						t.Errorf("%d attachments were made", len(c.attachments))
					}
				})
			})
			t.Run("image", func(t *testing.T) {
				c := newCloud(t)
				s := c.open(t, nil)
				c.fail("POST", "/images", 1, spoil)
				c.fail("PUT", "/file", 1, spoil)
				done := int64(0)
				img, err := s.ImportImage(t.Context(), volume.ImportImage{Name: "disk", Path: raw, DiskFormat: "raw", Progress: func(n, _ int64) { done = n }})
				if err != nil {
					t.Fatal(err)
				}
				c.locked(func() {
					if len(c.images) != 1 || img.Size != 65536 || done != 65536 || c.images[img.ID]["data"] != strings.Repeat("0123456789abcdef", 4096) {
						t.Errorf("%d images; %+v; %d bytes told", len(c.images), img, done)
					}
				})
			})
		})
	}
}

// TestDoneOnce loses the answer to everything else that changes something.
func TestDoneOnce(t *testing.T) {
	for name, spoil := range map[string]spoiler{"cut before": cutBefore, "cut after": cutAfter, "504 though done": gatewayTimeout} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			s := c.open(t, nil)
			vol, instance := c.add("available", nil), uuid.NewString()
			for _, path := range []string{"/metadata", "/attachments/", "/volumes/" + vol} {
				for _, method := range []string{"POST", "PUT", "DELETE"} {
					c.fail(method, path, 1, spoil)
				}
			}
			ctx := t.Context()
			id, err := s.Reserve(ctx, vol, volume.Instance{ID: instance}, true)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := s.Connect(ctx, id)
			if err != nil || conn.Driver != "iscsi" || !conn.ReadOnly || conn.Data["target_lun"] != 1 || conn.Data["auth_password"] != "chap" {
				t.Fatalf("%+v, %v", conn, err)
			}
			if err := s.Complete(ctx, id); err != nil {
				t.Fatal(err)
			}
			v, err := s.Volume(ctx, vol)
			if err != nil || v.Status != "in-use" || len(v.Attachments) != 1 || v.Attachments[0].InstanceID != instance || v.Attachments[0].Host != "here" {
				t.Errorf("%+v, %v", v, err)
			}
			if err := s.Detach(ctx, id); err != nil {
				t.Fatal(err)
			}
			if meta := c.meta(vol); len(meta) != 0 {
				t.Errorf("metadata is left: %v", meta)
			}
			if v, err := s.ExtendVolume(ctx, vol, 3, ""); err != nil || v.Size != 3 {
				t.Errorf("extending: %+v, %v", v, err)
			}
			name, no := "renamed", false
			if v, err := s.UpdateVolume(ctx, vol, volume.UpdateVolume{Name: &name, Bootable: &no, Metadata: map[string]string{"a": "b"}}); err != nil || v.Name != name || v.Bootable || v.Metadata["a"] != "b" {
				t.Errorf("changing: %+v, %v", v, err)
			}
			if err := s.DeleteVolume(ctx, vol); err != nil {
				t.Error(err)
			}
			if err := s.DeleteVolume(ctx, vol); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("deleting twice: %v", err)
			}
		})
	}
}

// TestCancelledCreateLeavesNothing ends the context while the request is under way.
func TestCancelledCreateLeavesNothing(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	c.fail("POST", "/volumes", 1, func(w http.ResponseWriter, _ *http.Request, effect func() *httptest.ResponseRecorder) {
		effect()
		cancel()
		time.Sleep(200 * time.Millisecond)
	})
	_, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	vol := c.add("available", nil)
	c.fail("POST", "/attachments", 1, func(w http.ResponseWriter, _ *http.Request, effect func() *httptest.ResponseRecorder) {
		effect()
		cancel()
		time.Sleep(200 * time.Millisecond)
	})
	if _, err := s.Reserve(ctx, vol, volume.Instance{ID: uuid.NewString()}, false); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	c.locked(func() {
		if len(c.volumes) != 1 || len(c.attachments) != 0 || c.volumes[vol]["status"] != "available" || len(c.volumes[vol]["metadata"].(map[string]any)) != 0 {
			t.Errorf("%d volumes, %d attachments, %v", len(c.volumes)-1, len(c.attachments), c.volumes[vol])
		}
	})
}

func TestExpiredToken(t *testing.T) {
	raw := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(raw, bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newCloud(t)
	s := c.open(t, nil)
	id := c.add("available", nil)
	for range 2 {
		c.expire()
		if _, err := s.Volume(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	c.fail("PUT", "/file", 1, func(w http.ResponseWriter, r *http.Request, effect func() *httptest.ResponseRecorder) {
		c.expire()
		rec := effect()
		w.WriteHeader(rec.Code)
	})
	img, err := s.ImportImage(t.Context(), volume.ImportImage{Name: "disk", Path: raw, DiskFormat: "raw"})
	if err != nil || img.Size != 1<<20 {
		t.Errorf("a token that expires during an upload: %+v, %v", img, err)
	}
}

func TestErrorState(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, nil)
	id := c.add("creating", nil)
	c.messages[id] = "schedule allocate volume:Could not find any available weighted backend."
	time.AfterFunc(300*time.Millisecond, func() { c.locked(func() { c.volumes[id]["status"] = "error" }) })
	start := time.Now()
	_, err := s.WaitVolume(t.Context(), id)
	var state *volume.StateError
	if !errors.As(err, &state) || state.Status != "error" || !strings.Contains(err.Error(), "Could not find any available weighted backend") {
		t.Errorf("%v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the wait went on for %v", took)
	}

	// Good states end it too: what is held does not become available by waiting.
	for _, status := range []string{"in-use", "reserved", "deleting", "error_extending"} {
		if _, err := s.WaitVolume(t.Context(), c.add(status, nil)); !errors.As(err, &state) || state.Status != status {
			t.Errorf("%s: %v", status, err)
		}
	}
	id = c.add("available", nil)
	c.fail("DELETE", "/volumes/"+id, 1, func(w http.ResponseWriter, _ *http.Request, _ func() *httptest.ResponseRecorder) {
		c.locked(func() { c.volumes[id]["status"] = "error_deleting"; c.messages[id] = "delete volume:driver failed." })
		w.WriteHeader(202)
	})
	if err := s.DeleteVolume(t.Context(), id); !errors.As(err, &state) || state.Detail != "delete volume:driver failed" {
		t.Errorf("deleting: %v", err)
	}

	// What an administrator has put aside ends by their hand alone.
	id = c.add("maintenance", nil)
	if _, err := s.WaitVolume(t.Context(), id); !errors.As(err, &state) || state.Status != "maintenance" {
		t.Errorf("waiting: %v", err)
	}
	c.fail("DELETE", "/volumes/"+id, 1, status(400, "", `{"badRequest": {"code": 400, "message": "Invalid volume: Volume status must be available or error"}}`))
	if err := s.DeleteVolume(t.Context(), id); !errors.Is(err, volume.ErrConflict) {
		t.Errorf("deleting in maintenance: %v", err)
	}
	c.fail("DELETE", "/volumes/"+id, 1, status(202, "", ""))
	if err := s.DeleteVolume(t.Context(), id); !errors.As(err, &state) || state.Status != "maintenance" {
		t.Errorf("put aside while it is deleted: %v", err)
	}
}

func TestTimeout(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, func(o *Options) { o.Timeout = 400 * time.Millisecond })
	id := c.add("downloading", nil)
	_, err := s.WaitVolume(t.Context(), id)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "downloading") || !strings.Contains(err.Error(), "--timeout") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.WaitVolume(ctx, id); !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "--timeout") {
		t.Errorf("the caller's own limit: %v", err)
	}
}

// TestNoAnswer has a service that takes requests and never answers.
func TestNoAnswer(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, func(o *Options) { o.Patience, o.AnswerTimeout = time.Second, 300*time.Millisecond })
	c.fail("GET", "/volumes", 99, func(_ http.ResponseWriter, r *http.Request, _ func() *httptest.ResponseRecorder) {
		<-r.Context().Done()
	})
	_, err := s.Volumes(t.Context())
	if !errors.Is(err, volume.ErrUnreachable) || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("%v", err)
	}
}

// TestSecrets has services that say what they were told, and looks for it in
// everything that comes out.
func TestSecrets(t *testing.T) {
	c := newCloud(t)
	var log bytes.Buffer
	s := c.open(t, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		o.Patience = 500 * time.Millisecond
	})
	gossip := func(w http.ResponseWriter, r *http.Request, _ func() *httptest.ResponseRecorder) {
		w.WriteHeader(503)
		w.Write([]byte("your password is " + fakePassword + " and your token " + r.Header.Get("X-Auth-Token")))
	}
	c.fail("GET", "/volumes", 99, gossip)
	_, err := s.Volumes(t.Context())
	text := err.Error() + log.String() + s.Describe()
	c.setenv(t)
	t.Setenv("OS_PASSWORD", "wrong-but-secret")
	_, err = Open(t.Context(), Options{})
	if !errors.Is(err, volume.ErrAuth) {
		t.Errorf("a wrong password: %v", err)
	}
	text += err.Error()
	for _, told := range []string{"method=POST url=" + c.URL + "/identity/v3/auth/tokens", "status=201", "/volumes/detail", "status=503", "time="} {
		if !strings.Contains(log.String(), told) {
			t.Errorf("%q is not in the log: %s", told, &log)
		}
	}
	if !strings.Contains(text, "your password is ***") {
		t.Errorf("the service's words are missing: %s", text)
	}
	for _, secret := range []string{fakePassword, "wrong-but-secret", s.cinder.Token()} {
		if strings.Contains(text, secret) {
			t.Errorf("a secret is in: %s", text)
		}
	}
}
