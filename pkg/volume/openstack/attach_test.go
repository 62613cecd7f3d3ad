package openstack

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

func TestClaims(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	for _, c := range []claim{
		{instance: "i", since: now},
		{instance: "i", since: now, host: host.Host{ID: "id", BootID: "boot"}},
		{instance: "i", attachment: "a"},
		{instance: "i", attachment: "a", host: host.Host{Name: "host with spaces on it"}},
		{instance: "i", attachment: "a", host: host.Host{ID: "id", Name: "host with spaces on it", BootID: "boot"}},
		{instance: "i", name: "web1", since: now, host: host.Host{ID: "id", Name: "host with spaces on it", BootID: "boot"}},
		{instance: "i", name: "web1", since: now, attachment: "a", host: host.Host{ID: "id", Name: "host with spaces on it", BootID: "boot"}},
	} {
		meta := c.entries()
		if got := claims(meta); len(got) != 1 || got[0] != c {
			t.Errorf("%v becomes %+v, want %+v", meta, got, c)
		}
		// An older lxcboot reads the first entry alone, and what follows ' on ' as the
		// name; and it changes that entry alone.
		if _, name, _ := strings.Cut(meta[claimPrefix+"i"], " on "); c.attachment != "" && name != c.host.Name {
			t.Errorf("an older lxcboot reads the host %q of %v", name, meta)
		}
		meta[claimPrefix+"i"] = "b on elsewhere"
		if got := claims(meta); got[0] != (claim{instance: "i", attachment: "b", host: host.Host{Name: "elsewhere"}}) {
			t.Errorf("%v becomes %+v", meta, got)
		}
	}
	longest := claim{instance: uuid.NewString(), name: strings.Repeat("n", 63), since: now, attachment: uuid.NewString(), host: host.Host{ID: strings.Repeat("x", 64), Name: strings.Repeat("y", 64), BootID: uuid.NewString()}}
	if err := checkTexts("metadata", longest.entries()); err != nil {
		t.Error(err)
	}
	me, you := reserving(volume.Instance{ID: "me"}, host.Host{ID: "id"}), reserving(volume.Instance{ID: "you"}, host.Host{ID: "id"})
	old := claim{instance: "dead", since: now.Add(-time.Hour)}
	// Two that have just begun are waited for; one that did not say a minute later which
	// attachment it made was left by a host that died.
	if _, unclear := beginner("reserved", "", []claim{me, you}); !unclear {
		t.Error("nobody waits for who has just begun")
	}
	if _, unclear := beginner("reserved", "", []claim{{instance: "me", since: now.Add(-time.Minute)}, {instance: "you", since: now.Add(-time.Minute)}}); unclear {
		t.Error("who looks waits for hosts that are gone")
	}
	for _, test := range []struct {
		what   string
		status string
		all    []claim
		want   bool
	}{
		{"nobody began", "reserved", nil, false},
		{"only we began", "reserved", []claim{me}, true},
		{"another began as well", "reserved", []claim{me, you}, false},
		{"another died long ago", "reserved", []claim{me, old}, true},
		{"another has its own", "reserved", []claim{me, {instance: "you", attachment: "b"}}, true},
		{"ours is known", "reserved", []claim{{instance: "me", attachment: "b"}}, false},
		{"connected already", "attaching", []claim{me}, false},
	} {
		if got, _ := beginner(test.status, "me", test.all); (got.instance == "me") != test.want {
			t.Errorf("%s: %+v", test.what, got)
		}
	}
}

// TestLostAttachment has a process die at each point of a reservation.
func TestLostAttachment(t *testing.T) {
	instance := uuid.NewString()
	for _, test := range []struct {
		what  string
		made  bool   // the attachment
		claim string // the note; ID stands for the attachment
		found bool
	}{
		{"before the attachment", false, reserving(volume.Instance{ID: instance}, host.Host{}).value(), false},
		{"before the note", true, reserving(volume.Instance{ID: instance}, host.Host{}).value(), true},
		{"after the note", true, "ID", true},
		{"after connecting", true, "ID on here", true},
		{"without a note: somebody else's", true, "", false},
	} {
		t.Run(test.what, func(t *testing.T) {
			c := newCloud(t)
			s := c.open(t, nil)
			meta := map[string]any{"colour": "blue"}
			vol, id := c.add("available", meta), uuid.NewString()
			c.locked(func() {
				if test.claim != "" {
					meta[claimPrefix+instance] = strings.ReplaceAll(test.claim, "ID", id)
				}
				if test.made {
					c.volumes[vol]["status"] = "reserved"
					c.attachments[id] = map[string]any{"id": id, "volume_id": vol, "instance": nil, "status": "reserved", "attach_mode": "rw"}
				}
			})
			all, err := s.AttachmentsOf(t.Context(), vol, instance)
			if err != nil || (len(all) == 1) != test.found {
				t.Fatalf("%+v, %v", all, err)
			}
			for _, a := range all {
				if a.ID != id || a.InstanceID != instance {
					t.Errorf("%+v", a)
				}
				if whose, err := s.AttachmentsOf(t.Context(), vol, ""); err != nil || len(whose) != 1 || whose[0] != a {
					t.Errorf("to any instance: %+v, %v; want %+v", whose, err, a)
				}
				if err := s.Detach(t.Context(), a.ID); err != nil {
					t.Error(err)
				}
			}
			if test.made && !test.found {
				return
			}
			// The volume is free for another, and what is left of the first goes.
			next := uuid.NewString()
			next2, err := s.Reserve(t.Context(), vol, volume.Instance{ID: next}, false)
			if err != nil {
				t.Fatal(err)
			}
			v, err := s.Volume(t.Context(), vol)
			if err != nil || len(v.Attachments) != 1 || v.Attachments[0].InstanceID != next {
				t.Errorf("%+v, %v", v.Attachments, err)
			}
			if _, err := s.Reserve(t.Context(), vol, volume.Instance{ID: instance}, false); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), next) {
				t.Errorf("the second: %v", err)
			}
			if err := s.Detach(t.Context(), next2); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTwoHosts has another host connect what this one holds.
func TestTwoHosts(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, nil)
	vol, instance := c.add("available", nil), uuid.NewString()
	id, err := s.Reserve(t.Context(), vol, volume.Instance{ID: instance}, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Connect(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Connect(t.Context(), id); err != nil {
		t.Errorf("connecting again: %v", err)
	}
	c.locked(func() {
		// As an older lxcboot there does.
		c.volumes[vol]["metadata"].(map[string]any)[claimPrefix+instance] = id + " on there"
	})
	if _, err := s.Connect(t.Context(), id); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), instance+" on there") {
		t.Errorf("another host: %v", err)
	}
}

// TestHostIDs tells two hosts apart that have one name, and finds one again that has
// another name.
func TestHostIDs(t *testing.T) {
	c := newCloud(t)
	as := func(id, name string) *Store {
		return c.open(t, func(o *Options) { o.Host = host.Host{ID: id, Name: name, BootID: "boot"} })
	}
	vol, instance := c.add("available", nil), uuid.NewString()
	id, err := as("one", "web").Reserve(t.Context(), vol, volume.Instance{ID: instance}, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := as("two", "web").Connect(t.Context(), id); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("another host of the same name: %v", err)
	}
	s := as("one", "renamed")
	if _, err := s.Connect(t.Context(), id); err != nil {
		t.Errorf("the same host with another name: %v", err)
	}
	all, err := s.AttachmentsOf(t.Context(), vol, instance)
	if err != nil || len(all) != 1 || all[0].Host != "renamed" || all[0].HostID != "one" || all[0].BootID != "boot" {
		t.Errorf("%+v, %v", all, err)
	}
	if body := c.bodyOf("PUT", "/attachments/"+id); !strings.Contains(body, `"host":"renamed"`) {
		t.Errorf("Cinder was told of the host %s", body)
	}
	if err := s.Detach(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if meta := c.meta(vol); len(meta) != 0 {
		t.Errorf("left of the claim: %v", meta)
	}
	if _, err := Open(t.Context(), Options{Host: host.Host{ID: "one", Name: strings.Repeat("x", 250)}}); !errors.Is(err, failure.ErrInvalid) {
		t.Errorf("a name that has no room in a claim: %v", err)
	}
}

// TestStaleClaims has attachments go by another program's doing, and the next who
// reserves the volume clean up after them.
func TestStaleClaims(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, nil)
	vol := c.add("available", map[string]any{hostPrefix + "older": "x y z", "colour": "blue"})
	var ids []string
	for range maxFormer + 2 {
		id, err := s.Reserve(t.Context(), vol, volume.Instance{ID: uuid.NewString()}, false)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		c.locked(func() {
			delete(c.attachments, id)
			c.volumes[vol]["status"] = "available"
		})
	}
	last := len(ids) - 1
	var gone *volume.GoneError
	for _, i := range []int{last, last - 1} { // whose claim is still there, and is not
		if _, err := s.Connect(t.Context(), ids[i]); !errors.As(err, &gone) || gone.VolumeID != vol {
			t.Errorf("connecting what is gone: %v", err)
		}
	}
	if err := s.Complete(t.Context(), ids[0]); !errors.As(err, &gone) || gone.VolumeID != "" {
		t.Errorf("completing what went long ago: %v", err)
	}
	instance := uuid.NewString()
	id, err := s.Reserve(t.Context(), vol, volume.Instance{ID: instance}, false)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"colour": "blue", metaFormer: strings.Join([]string{ids[last], ids[last-1], ids[last-2], ids[last-3], ids[last-4], ids[last-5]}, " ")}
	for key, value := range (claim{instance: instance, attachment: id, host: s.o.Host}).entries() {
		want[key] = value
	}
	if meta := c.meta(vol); !reflect.DeepEqual(meta, want) {
		t.Errorf("the metadata: %v, want %v", meta, want)
	}
	_, err = s.Connect(t.Context(), ids[last])
	if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), instance+" on here") {
		t.Errorf("connecting what another has now: %v", err)
	}
}

// TestTakenAway has somebody else delete the attachment of a volume: whoever starts the
// instance is told, and the claim goes with that as with a delete.
func TestTakenAway(t *testing.T) {
	for what, end := range map[string]func(*Store, context.Context, string) error{
		"start":  func(s *Store, ctx context.Context, id string) error { _, err := s.Connect(ctx, id); return err },
		"delete": (*Store).Detach,
	} {
		c := newCloud(t)
		s := c.open(t, nil)
		vol := c.add("available", map[string]any{"colour": "blue"})
		id, err := s.Reserve(t.Context(), vol, volume.Instance{ID: uuid.NewString()}, false)
		if err != nil {
			t.Fatal(err)
		}
		c.locked(func() {
			delete(c.attachments, id)
			c.volumes[vol]["status"] = "available"
		})
		err = end(s, t.Context(), id)
		if !errors.Is(err, volume.ErrNotFound) || (what == "start") != errors.Is(err, volume.ErrConflict) {
			t.Errorf("%s: %v", what, err)
		}
		if meta, want := c.meta(vol), map[string]any{"colour": "blue", metaFormer: id}; !reflect.DeepEqual(meta, want) {
			t.Errorf("%s leaves the metadata %v, want %v", what, meta, want)
		}
	}
}

// TestUnnamedHolder loses a race whose winner has not yet written its name on what it
// won.
func TestUnnamedHolder(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, nil)
	winner, other := reserving(volume.Instance{ID: uuid.NewString()}, host.Host{ID: "id-of-there"}), reserving(volume.Instance{ID: uuid.NewString()}, host.Host{ID: "id-of-there"})
	meta := map[string]any{claimPrefix + winner.instance: winner.value(), claimPrefix + other.instance: other.value()}
	vol, id := c.add("reserved", meta), uuid.NewString()
	c.locked(func() {
		c.attachments[id] = map[string]any{"id": id, "volume_id": vol, "status": "reserved", "attach_mode": "rw"}
	})
	c.fail("GET", "/attachments", 1, func(w http.ResponseWriter, r *http.Request, effect func() *httptest.ResponseRecorder) {
		rec := effect()
		w.Header().Set("Content-Type", "application/json")
		w.Write(rec.Body.Bytes())
		c.locked(func() { meta[claimPrefix+winner.instance] = id + " on there" })
	})
	if _, err := s.Reserve(t.Context(), vol, volume.Instance{ID: uuid.NewString()}, false); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), winner.instance+" on there") {
		t.Errorf("%v", err)
	}
}

// TestForeignHolder has Nova hold a volume on which an old claim is left: the refusal
// names Nova's server.
func TestForeignHolder(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, nil)
	old := claim{instance: uuid.NewString(), attachment: uuid.NewString(), host: s.o.Host}
	meta := map[string]any{}
	for key, value := range old.entries() {
		meta[key] = value
	}
	vol, id, server := c.add("reserved", meta), uuid.NewString(), uuid.NewString()
	c.locked(func() {
		c.attachments[id] = map[string]any{"id": id, "volume_id": vol, "instance": server, "status": "reserved"}
	})
	_, err := s.Connect(t.Context(), old.attachment)
	_, extend := s.ExtendVolume(t.Context(), vol, 2, "")
	_, reserve := s.Reserve(t.Context(), vol, volume.Instance{ID: uuid.NewString()}, false)
	for doing, err := range map[string]error{"connect": err, "delete": s.DeleteVolume(t.Context(), vol), "extend": extend, "reserve": reserve} {
		if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), server) || strings.Contains(err.Error(), old.instance) {
			t.Errorf("%s: %v", doing, err)
		}
	}
}

func TestReservable(t *testing.T) {
	for _, test := range []struct {
		v    volume.Volume
		want error
	}{
		{volume.Volume{Status: "available"}, nil},
		{volume.Volume{Status: "available", Encrypted: true}, volume.ErrUnsupported},
		{volume.Volume{Status: "in-use"}, volume.ErrInUse},
		{volume.Volume{Status: "in-use", Multiattach: true}, nil},
		{volume.Volume{Status: "in-use", Multiattach: true, Attachments: []volume.Attachment{{InstanceID: "me"}}}, volume.ErrInUse},
		{volume.Volume{Status: "reserved", Multiattach: true}, volume.ErrInUse},
		{volume.Volume{Status: "error"}, volume.ErrConflict},
		{volume.Volume{Status: "creating"}, volume.ErrConflict},
	} {
		if err := reservable(test.v, "me"); !errors.Is(err, test.want) {
			t.Errorf("%+v: %v", test.v, err)
		}
	}
}
