//go:build openstack

package openstack

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// TestRealSignInRefused gives the real Keystone what it refuses.
func TestRealSignInRefused(t *testing.T) {
	url := os.Getenv("OS_AUTH_URL")
	for _, test := range []struct {
		name, env string
		want      error
	}{
		{"token", "OS_AUTH_TYPE=token OS_TOKEN=gAAAAABexpired", volume.ErrAuth},
		{"token without a project", "OS_AUTH_TYPE=token OS_TOKEN=gAAAAABexpired OS_PROJECT_NAME=", volume.ErrAuth},
		{"password", "OS_PASSWORD=wrong", volume.ErrAuth},
		{"project", "OS_PROJECT_NAME=nowhere", volume.ErrAuth},
		{"version 2", "OS_AUTH_URL=" + strings.TrimSuffix(url, "/v3") + "/v2.0", failure.ErrInvalid},
		{"address", "OS_AUTH_URL=" + url + "/nowhere/v3", failure.ErrInvalid},
		{"region", "OS_REGION_NAME=Nowhere", volume.ErrUnsupported},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, one := range strings.Fields(test.env) {
				name, value, _ := strings.Cut(one, "=")
				t.Setenv(name, value)
			}
			_, err := Open(t.Context(), Options{Patience: -1})
			if !errors.Is(err, test.want) || strings.Contains(err.Error(), "gAAAAABexpired") {
				t.Errorf("%v, want %v", err, test.want)
			}
			t.Log(err)
		})
	}
}

// TestRealKeptToken uses a kept token, and one that the real services refuse.
func TestRealKeptToken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tokens")
	list := func() (signedIn int) {
		t.Helper()
		var log bytes.Buffer
		s, err := Open(t.Context(), Options{TokenDir: dir, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		if err == nil {
			err = s.Ping(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(log.String(), "/auth/tokens")
	}
	if first, second := list(), list(); first != 1 || second != 0 {
		t.Errorf("signed in %d times, then %d", first, second)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err == nil {
		err = os.WriteFile(files[0], regexp.MustCompile(`"token":"[^"]*"`).ReplaceAll(data, []byte(`"token":"gAAAAABexpired"`)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if third, fourth := list(), list(); third != 1 || fourth != 0 {
		t.Errorf("with one that is refused: signed in %d times, then %d", third, fourth)
	}
}

// TestRealTokenExpires gives the real services a token that is no longer one, to a
// read, a creation and an upload.
func TestRealTokenExpires(t *testing.T) {
	s, err := Open(t.Context(), Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	spoil := func() {
		for _, c := range []*gophercloud.ServiceClient{s.cinder, s.glance} {
			c.SetToken("gAAAAABexpired")
		}
	}
	spoil()
	if _, err := s.Volumes(t.Context()); err != nil {
		t.Errorf("listing: %v", err)
	}
	spoil()
	v, err := s.CreateVolume(t.Context(), volume.CreateVolume{Name: "lxcboot-test-token", Size: 1})
	if err != nil {
		t.Fatalf("creating: %v", err)
	}
	spoil()
	if err := s.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Errorf("deleting: %v", err)
	}
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, bytes.Repeat([]byte("0123456789abcdef"), 1<<18), 0o600); err != nil {
		t.Fatal(err)
	}
	spoil()
	once := false
	img, err := s.ImportImage(t.Context(), volume.ImportImage{Name: "lxcboot-test-token", Path: path, DiskFormat: "raw", Progress: func(int64, int64) {
		if !once { // between the creation and the end of the upload
			once = true
			spoil()
		}
	}})
	if err != nil || img.Size != 1<<22 {
		t.Errorf("uploading: %+v, %v", img, err)
	}
	if err == nil {
		if err := s.DeleteImage(t.Context(), img.ID); err != nil {
			t.Error(err)
		}
	}
}
