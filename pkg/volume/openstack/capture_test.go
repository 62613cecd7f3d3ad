package openstack

import (
	"errors"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// An image of a volume is made by Cinder, once, also when its answer was lost; a volume that
// is in use is copied by force, and only when it is known that nobody writes to it.
func TestCreateImage(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, nil)
	free, held := c.add("available", nil), c.add("in-use", nil)
	still := volume.Copying{Still: true}
	img, err := s.CreateImage(t.Context(), volume.CreateImage{Name: "golden", VolumeID: free, Properties: map[string]string{"a": "b"}})
	if err != nil || img.Name != "golden" || img.Status != volume.ImageActive || img.Properties["a"] != "b" {
		t.Errorf("%+v, %v", img, err)
	}
	if _, kept := img.Properties["signature_verified"]; kept {
		t.Error("Cinder makes no volume of an image that says of itself what was said of another")
	}
	if body := c.bodyOf("POST", "/volumes/"+free+"/action"); strings.Contains(body, "force") {
		t.Errorf("asked with %s", body)
	}
	c.fail("POST", "/volumes/"+free+"/action", 1, cutAfter)
	if _, err := s.CreateImage(t.Context(), volume.CreateImage{Name: "lost", VolumeID: free}); err != nil {
		t.Error(err)
	}
	all, err := s.Images(t.Context())
	if err != nil || len(all) != 2 {
		t.Errorf("images: %+v, %v", all, err)
	}
	if _, err := s.CreateImage(t.Context(), volume.CreateImage{Name: "x", VolumeID: held}); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "stop the instance") {
		t.Errorf("in use: %v", err)
	}
	if _, err := s.CreateImage(t.Context(), volume.CreateImage{Name: "still", VolumeID: held, Copying: still}); err != nil {
		t.Error(err)
	}
	if body := c.bodyOf("POST", "/volumes/"+held+"/action"); !strings.Contains(body, `"force":true`) {
		t.Errorf("asked with %s", body)
	}
	// Where Cinder reads no volume in use, it reads a copy, which goes again.
	c.locked(func() { c.noForce = true })
	if img, err := s.CreateImage(t.Context(), volume.CreateImage{Name: "copied", VolumeID: held, Copying: still}); err != nil || img.Status != volume.ImageActive {
		t.Errorf("of a copy: %+v, %v", img, err)
	}
	if body := c.bodyOf("POST", "/volumes"); !strings.Contains(body, `"source_volid":"`+held+`"`) {
		t.Errorf("copied with %s", body)
	}
	c.fail("POST", "/volumes", 2, status(400, "badRequest", "no")) // the image, and the copy
	if _, err := s.CreateImage(t.Context(), volume.CreateImage{Name: "x", VolumeID: held, Copying: still}); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "delete the instance") {
		t.Errorf("in use, and no copy: %v", err)
	}
	if all, err := s.Volumes(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("volumes: %+v, %v", all, err)
	}
	c.locked(func() { c.noForce = false })
	// One that comes to nothing is not left behind.
	c.locked(func() { c.uploads = "killed" })
	if _, err := s.CreateImage(t.Context(), volume.CreateImage{Name: "failed", VolumeID: free}); err == nil {
		t.Error("an image that failed passes")
	}
	if _, err := s.Image(t.Context(), "failed"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("the failed image: %v", err)
	}
}

// A snapshot of what is in use is made by force, at one moment, when that is had.
func TestSnapshotInUse(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, nil)
	held := c.add("in-use", nil)
	if _, err := s.CreateSnapshot(t.Context(), volume.CreateSnapshot{Name: "x", VolumeID: held}); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("nothing is known: %v", err)
	}
	moments := 0
	for what, how := range map[string]volume.Copying{"still": {Still: true}, "a moment": {Moment: func(take func() error) error { moments++; return take() }}} {
		n, err := s.CreateSnapshot(t.Context(), volume.CreateSnapshot{Name: "x", VolumeID: held, Copying: how})
		if err != nil || n.Status != volume.StatusAvailable {
			t.Errorf("%s: %+v, %v", what, n, err)
		}
		if body := c.bodyOf("POST", "/snapshots"); !strings.Contains(body, `"force":true`) {
			t.Errorf("%s: asked with %s", what, body)
		}
	}
	if moments != 1 {
		t.Errorf("%d moments", moments)
	}
}
