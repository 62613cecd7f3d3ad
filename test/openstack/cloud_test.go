//go:build openstack

package openstack_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/quotasets"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	tokens3 "github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/openstack"
)

// TestErrorStates has Cinder fail for real, and looks for its own words.
func TestErrorStates(t *testing.T) {
	s := open(t, func(o *openstack.Options) { o.Inspect = nil })
	ctx := t.Context()
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte(strings.Repeat("no qcow2 ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := s.ImportImage(ctx, volume.ImportImage{Name: name(), Path: junk, DiskFormat: "qcow2"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.DeleteImage(context.Background(), img.ID) })
	for what, test := range map[string]struct {
		req  volume.CreateVolume
		says string
	}{
		"an image that is none": {volume.CreateVolume{Name: name(), Size: 1, ImageID: img.ID, Type: "nfs"}, "left no message"},
		"more than there is":    {volume.CreateVolume{Name: name(), Size: 1 << 30, Type: "rbd"}, "Could not find any available weighted backend"},
	} {
		t.Run(what, func(t *testing.T) {
			req := test.req
			v, err := s.CreateVolume(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := s.DeleteVolume(context.Background(), v.ID); err != nil {
					t.Error(err)
				}
			}()
			_, err = s.WaitVolume(ctx, v.ID)
			var state *volume.StateError
			if !errors.As(err, &state) || state.Status != "error" || !strings.Contains(state.Detail, test.says) {
				t.Fatalf("%v", err)
			}
			t.Log(err)
			if _, err := s.Reserve(ctx, v.ID, volume.Instance{ID: uuid.NewString()}, false); !errors.Is(err, volume.ErrConflict) {
				t.Errorf("reserving it: %v", err)
			}
		})
	}
}

// TestQuota takes the project's quota away, before and after looking.
func TestQuota(t *testing.T) {
	s, cinder, ctx := open(t, nil), admin(t), t.Context()
	user, err := client(ctx, "go")
	if err != nil {
		t.Fatal(err)
	}
	project, err := user.GetAuthResult().(tokens3.CreateResult).ExtractProject()
	if err != nil {
		t.Fatal(err)
	}
	set := func(gigabytes int) {
		t.Helper()
		err := quotasets.Update(context.Background(), cinder, project.ID, quotasets.UpdateOpts{Extra: map[string]any{"gigabytes_nfs": gigabytes}}).Err
		if err != nil {
			t.Fatal(err)
		}
	}
	set(2)
	t.Cleanup(func() { set(-1) })
	req := volume.CreateVolume{Name: name(), Size: 3, Type: "nfs"}
	if err := s.CheckCreate(ctx, []volume.CreateVolume{req}); !errors.Is(err, volume.ErrQuota) {
		t.Errorf("checking: %v", err)
	}
	_, err = s.CreateVolume(ctx, req)
	if !errors.Is(err, volume.ErrQuota) || !strings.Contains(err.Error(), "exceed") {
		t.Errorf("creating: %v", err)
	}
	t.Log(err)
	if _, err := s.Volume(ctx, req.Name); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("a refused volume is there: %v", err)
	}
}

// TestWhoHoldsIt looks with an administrator's eyes at what an attachment says,
// with a service user and without.
func TestWhoHoldsIt(t *testing.T) {
	cinder, ctx := admin(t), t.Context()
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range []bool{false, true} {
		t.Run(map[bool]string{false: "user", true: "service user"}[service], func(t *testing.T) {
			s := open(t, func(o *openstack.Options) {
				if service {
					o.ServiceCloud = serviceCloud(t)
				}
			})
			v, err := s.CreateVolume(ctx, volume.CreateVolume{Name: name(), Size: 1, Type: "nfs"})
			if err != nil {
				t.Fatal(err)
			}
			defer s.DeleteVolume(context.Background(), v.ID)
			if _, err := s.WaitVolume(ctx, v.ID); err != nil {
				t.Fatal(err)
			}
			instance := uuid.NewString()
			id, err := s.Reserve(ctx, v.ID, volume.Instance{ID: instance}, false)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Connect(ctx, id); err != nil {
				t.Fatal(err)
			}
			if err := s.Complete(ctx, id); err != nil {
				t.Fatal(err)
			}
			seen, err := volumes.Get(ctx, cinder, v.ID).Extract()
			if err != nil || len(seen.Attachments) != 1 || seen.Status != "in-use" {
				t.Fatalf("%+v, %v", seen, err)
			}
			a := seen.Attachments[0]
			if a.HostName != hostname || seen.Metadata["lxcboot_attached_"+instance] != id+" on "+hostname || service && a.ServerID != instance || !service && a.ServerID != "" {
				t.Errorf("the administrator sees %+v, %v", a, seen.Metadata)
			}
			_, err = s.Reserve(ctx, v.ID, volume.Instance{ID: uuid.NewString()}, false)
			if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), instance+" on "+hostname) {
				t.Errorf("the second is told: %v", err)
			}
			if err := s.Detach(ctx, id); err != nil {
				t.Fatal(err)
			}
			got, err := s.Volume(ctx, v.ID)
			if err != nil || got.Status != "available" || len(got.Attachments) != 0 {
				t.Errorf("%+v, %v", got, err)
			}
			for k := range got.Metadata {
				if strings.HasPrefix(k, "lxcboot_attached_") {
					t.Errorf("metadata is left: %s", k)
				}
			}
		})
	}
}

// TestLostReservation makes in Cinder what a process leaves that died between the
// attachment and the note of it.
func TestLostReservation(t *testing.T) {
	s, ctx := open(t, nil), t.Context()
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Name: name(), Size: 1, Type: "rbd"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.DeleteVolume(context.Background(), v.ID)
	if _, err := s.WaitVolume(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	cinder, err := client(ctx, "go")
	if err != nil {
		t.Fatal(err)
	}
	instance := uuid.NewString()
	post(t, cinder, "volumes/"+v.ID+"/metadata", map[string]any{"metadata": map[string]string{
		"lxcboot_attached_" + instance: "reserving since " + time.Now().UTC().Format(time.RFC3339),
	}})
	post(t, cinder, "attachments", map[string]any{"attachment": map[string]any{"volume_uuid": v.ID}})
	all, err := s.AttachmentsOf(ctx, v.ID, instance)
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	if err := s.Detach(ctx, all[0].ID); err != nil {
		t.Fatal(err)
	}
	next := uuid.NewString()
	id, err := s.Reserve(ctx, v.ID, volume.Instance{ID: next}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Detach(ctx, id); err != nil {
		t.Error(err)
	}
}

// post sends a request to Cinder as it is.
func post(t *testing.T, cinder *gophercloud.ServiceClient, path string, body any) {
	t.Helper()
	resp, err := cinder.Post(t.Context(), cinder.ServiceURL(path), body, nil, &gophercloud.RequestOpts{OkCodes: []int{200, 202}})
	if _, _, err = gophercloud.ParseResponse(resp, err); err != nil {
		t.Fatal(err)
	}
}

var labSecret = regexp.MustCompile(`(?m)^PW_SERVICE=(.*)$`)

// serviceCloud writes a clouds.yaml with the lab's user for services. The other
// user comes from the OS_* variables.
func serviceCloud(t *testing.T) string {
	secrets, err := os.ReadFile(filepath.Join(labDir(), "etc/secrets"))
	if err != nil {
		t.Fatal(err)
	}
	m := labSecret.FindSubmatch(secrets)
	file := filepath.Join(t.TempDir(), "clouds.yaml")
	text := "clouds:\n  service:\n    region_name: RegionOne\n    auth:\n      auth_url: " + os.Getenv("OS_AUTH_URL") + "\n      username: cinder\n      password: " + string(m[1]) +
		"\n      project_name: service\n      user_domain_name: Default\n      project_domain_name: Default\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OS_CLIENT_CONFIG_FILE", file)
	return "service"
}

// TestReadOnlyVolume makes one, and has every attachment of it be read-only.
func TestReadOnlyVolume(t *testing.T) {
	s, ctx := open(t, nil), t.Context()
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Name: name(), Size: 1, Type: "rbd", ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.DeleteVolume(context.Background(), v.ID)
	if v, err = s.WaitVolume(ctx, v.ID); err != nil || !v.ReadOnly {
		t.Fatalf("%+v, %v", v, err)
	}
	id, err := s.Reserve(ctx, v.ID, volume.Instance{ID: uuid.NewString()}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Detach(context.Background(), id)
	if conn, err := s.Connect(ctx, id); err != nil || !conn.ReadOnly {
		t.Errorf("read-only %v, %v", conn.ReadOnly, err)
	}
}

// TestDeleteWhileCreating rolls back a boot that was cancelled early.
func TestDeleteWhileCreating(t *testing.T) {
	s, ctx := open(t, nil), t.Context()
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Name: name(), Size: 1, Type: "nfs"})
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if _, err := s.WaitVolume(short, v.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if err := s.DeleteVolume(ctx, v.ID); err != nil {
		t.Error(err)
	}
}

// TestPing looks at the cloud as doctor does.
func TestPing(t *testing.T) {
	s := open(t, nil)
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if d := s.Describe(); !strings.Contains(d, "user demo, project demo, region RegionOne") || strings.Contains(d, os.Getenv("OS_PASSWORD")) {
		t.Error(d)
	}
}
