package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// A copy of a volume on a filesystem that shares no blocks is not whole while the
// volume is written to, so it is refused, and the volume can not be attached while
// it is copied.
func TestCopyOfVolumeInUse(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	v := blank(t, s)
	a, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
	if err != nil {
		t.Fatal(err)
	}
	for doing, call := range map[string]func() error{
		"snapshot": func() error {
			_, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "x", VolumeID: v.ID})
			return err
		},
		"clone": func() error { _, err := s.CreateVolume(ctx, volume.CreateVolume{SourceID: v.ID}); return err },
		"check": func() error { return s.CheckCreate(ctx, []volume.CreateVolume{{SourceID: v.ID}}) },
	} {
		if err := call(); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "web1") {
			t.Errorf("%s: %v", doing, err)
		}
	}
	if err := s.Detach(ctx, a); err != nil {
		t.Fatal(err)
	}
	f, err := s.openSource(ctx, source{kind: "volume", id: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	for doing, call := range map[string]func() error{
		"reserve": func() error { _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false); return err },
		"delete":  func() error { return s.DeleteVolume(ctx, v.ID) },
	} {
		if err := call(); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("in use by process %d (", os.Getpid())) || !strings.Contains(err.Error(), "copied") {
			t.Errorf("%s while it is copied: %v", doing, err)
		}
	}
	f.Close()
	if err := s.DeleteVolume(ctx, v.ID); err != nil {
		t.Errorf("delete after the copy: %v", err)
	}
}

func TestAttachmentRules(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	v := blank(t, s)
	a, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Complete(ctx, a); !errors.Is(err, volume.ErrConflict) {
		t.Errorf("completing what was not connected: %v", err)
	}
	if _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("reserving twice for the same instance: %v", err)
	}
	conn, err := s.Connect(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	if path := conn.Data["device_path"]; conn.Driver != Driver || path != s.dataOf(v.ID) || conn.Data["format"] != "raw" || !filepath.IsAbs(path.(string)) {
		t.Errorf("the connection: %+v", conn)
	}
	for range 2 {
		if err := s.Complete(ctx, a); err != nil {
			t.Errorf("completing: %v", err)
		}
		if _, err := s.Connect(ctx, a); err != nil {
			t.Errorf("connecting again: %v", err)
		}
		if got, err := s.Volume(ctx, v.ID); err != nil || got.Status != volume.StatusInUse || got.Attachments[0].Host != here.Name {
			t.Errorf("in use: %+v, %v", got, err)
		}
	}
	ro, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ReadOnly: true, Multiattach: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, instance := range []string{"web1", "web2"} {
		a, err := s.Reserve(ctx, ro.ID, volume.Instance{ID: instance}, false)
		if err != nil {
			t.Fatalf("%s: %v", instance, err)
		}
		if conn, err := s.Connect(ctx, a); err != nil || !conn.ReadOnly {
			t.Errorf("a read-only volume: %+v, %v", conn, err)
		}
	}
	if _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: ""}, false); !errors.Is(err, failure.ErrInvalid) {
		t.Errorf("reserving for nobody: %v", err)
	}
}

// TestOldAttachments opens what an older lxcboot recorded, which knew no host ids.
func TestOldAttachments(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	for _, test := range []struct {
		attachment string
		mine       bool
	}{
		{`"host": "", "status": "reserved"`, true},
		{`"host": "here", "status": "attached"`, true},
		{`"host": "there", "status": "attached"`, false},
	} {
		v, id := blank(t, s), uuid.NewString()
		old := fmt.Sprintf(`{"format": 1, "object": {"id": %q, "status": "in-use", "size": 1, "attachments":
			[{"id": %q, "volume_id": %[1]q, "instance_id": "web1", "readonly": false, %[3]s}]}}`, v.ID, id, test.attachment)
		if err := os.WriteFile(filepath.Join(s.volumes.path(v.ID), metaName), []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Connect(ctx, id)
		if !test.mine {
			if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "web1 on there") {
				t.Errorf("%s: %v", test.attachment, err)
			}
			continue
		}
		if all, err2 := s.AttachmentsOf(ctx, v.ID, "web1"); err != nil || err2 != nil || len(all) != 1 || all[0].HostID != here.ID || all[0].BootID != here.BootID {
			t.Errorf("%s: %v, %+v, %v", test.attachment, err, all, err2)
		}
	}
}

// TestFormer keeps few of the attachments that a volume had.
func TestFormer(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	v := blank(t, s)
	var last string
	for range maxFormer + 3 {
		a, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
		if err == nil {
			err = s.Detach(ctx, a)
		}
		if err != nil {
			t.Fatal(err)
		}
		last = a
	}
	if rec, err := s.volumes.get(ctx, v.ID); err != nil || len(rec.Former) != maxFormer || !slices.Contains(rec.Former[:1], last) {
		t.Errorf("kept are %q, %v; want %d, the first %q", rec.Former, err, maxFormer, last)
	}
	// That of a volume which is gone itself.
	if err := s.DeleteVolume(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	var gone *volume.GoneError
	if err := s.Complete(ctx, last); !errors.As(err, &gone) || gone.VolumeID != "" {
		t.Errorf("completing an attachment whose volume is gone: %v", err)
	}
}

// What an interrupted extension added is cut off before an instance gets the volume,
// and not by repair after it was used.
func TestReserveAfterInterruptedExtension(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	v := blank(t, s)
	if err := os.Truncate(s.dataOf(v.ID), 2<<30); err != nil {
		t.Fatal(err)
	}
	a, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(s.dataOf(v.ID)); err != nil || fi.Size() != 1<<30 {
		t.Errorf("reserved with %d bytes, %v", fi.Size(), err)
	}
	if err := s.Detach(ctx, a); err != nil {
		t.Fatal(err)
	}
	if did, err := s.Repair(ctx); err != nil || len(did) != 0 {
		t.Errorf("repair after its use: %q, %v", did, err)
	}
}

// TestExtendHeld has a volume extended by who holds it, and by nobody else. What a killed
// extension added is not the volume's.
func TestExtendHeld(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	v := blank(t, s)
	id, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "instance"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.dataOf(v.ID), 5<<30); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		t.Helper()
		if _, err := s.Connect(ctx, id); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(s.dataOf(v.ID))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	if n := size(); n != 1<<30 {
		t.Errorf("it has %d bytes", n)
	}
	for _, other := range []string{"", "another"} {
		if _, err := s.ExtendVolume(ctx, v.ID, 2, other); !errors.Is(err, volume.ErrInUse) {
			t.Errorf("extended by %q: %v", other, err)
		}
	}
	if v, err := s.ExtendVolume(ctx, v.ID, 2, id); err != nil || v.Size != 2 || size() != 2<<30 {
		t.Errorf("extended by its holder: %+v, %v", v, err)
	}
}
