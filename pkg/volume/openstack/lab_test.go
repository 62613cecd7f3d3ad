//go:build openstack

package openstack

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

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
