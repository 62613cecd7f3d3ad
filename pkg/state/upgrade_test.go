package state

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/host"
)

// old is a record as version 1 had it; FIELDS is put among its fields.
const old = `{"version":1,"id":"ID","name":"web1","host":"n1","created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:06Z",
 "spec":{"flavor":{"name":"m1.tiny","ram":64,"vcpus":1},"hostname":"web1","tags":[]},"idmap_base":1000000,"idmap_slot":2,
 "volumes":[{"mapping":{"source_type":"image","uuid":"img","destination_type":"volume","boot_index":0,"device_name":"/dev/vda"},"create":true,"volume_id":"v1","attachment_id":"a1"},
  {"mapping":{"source_type":"volume","uuid":"v2","destination_type":"volume","device_name":"/dev/vdb"},"volume_id":"v2","moving":true},
  {"mapping":{"source_type":"blank","destination_type":"local","device_name":"/dev/vdc"},"create":true,"volume_id":"v3","formatted":true}],
 "volume_store":"local","console":{"pid":7,"start":8}FIELDS}`

// put writes a record of version 1 into a state directory that has no index.
func put(t *testing.T, dir, fields string) (id string) {
	t.Helper()
	id = uuid.NewString()
	if err := os.MkdirAll(filepath.Join(dir, "instances", id), 0o700); err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("ID", id, "FIELDS", fields).Replace(old)
	for name, data := range map[string]string{recordFile: text, lockFile: ""} {
		if err := os.WriteFile(filepath.Join(dir, "instances", id, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return id
}

// TestUpgrade reads what version 1 said in eleven fields.
func TestUpgrade(t *testing.T) {
	for name, c := range map[string]struct {
		fields string
		phase  Phase
		want   Want
		op     string
		volume string
		error  string
		ran    bool
	}{
		"running":              {`,"booted":true,"started":true,"up":true`, Built, Up, "", "", "", true},
		"stopped":              {`,"booted":true,"started":true`, Built, Down, "", "", "", true},
		"booting":              {`,"operation":{"name":"boot","pid":9}`, Building, Down, OpBoot, "", "", false},
		"killed after its run": {`,"started":true,"operation":{"name":"boot","pid":9}`, Building, Down, OpBoot, "", "", true},
		"rolled back":          {`,"started":true,"rolled_back":true,"fault":"it failed"`, Deleting, Down, OpDelete, "", "it failed", false},
		"deleting":             {`,"booted":true,"started":true,"up":true,"operation":{"name":"delete","pid":9}`, Deleting, Up, OpDelete, "", "", true},
		"attaching":            {`,"booted":true,"started":true,"up":true,"operation":{"name":"volume attach","pid":9}`, Built, Up, OpAttach, "v2", "", true},
		"renamed":              {`,"booted":true,"started":true,"undefined":true`, Built, Down, OpRename, "", "", true},
		"a start failed":       {`,"booted":true,"started":true,"fault":"no"`, Built, Down, OpStop, "", "no", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := memDir(t)
			put(t, dir, c.fields)
			s, err := Open(dir, dir)
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Find("web1") // before there is an index, too
			if err != nil {
				t.Fatal(err)
			}
			op := Operation{}
			if r.Op != nil {
				op = *r.Op
			}
			if r.Phase != c.phase || r.Want != c.want || op.Name != c.op || op.Volume != c.volume || op.Error != c.error || r.Ran != c.ran {
				t.Errorf("%s, wanted %s, %+v, ran %v", r.Phase, r.Want, op, r.Ran)
			}
			if r.Host.Name != "n1" || r.Host.ID != "" || (r.IDs != host.IDRange{First: 1131072, Count: 65536}) || r.Console.PID != 7 {
				t.Errorf("%+v %+v %+v", r.Host, r.IDs, r.Console)
			}
			if v := r.Volumes; len(v) != 3 || v[0].Store != "local" || !v[0].Made() || v[0].AttachmentID != "a1" || v[1].Made() || v[2].Filesystem == nil || v[2].Filesystem.Type != "ext4" {
				t.Errorf("%+v", v)
			}
			// What is saved is of this version, and is read again as it was.
			h, err := s.Hold(context.Background(), s.Wait, "web1")
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			if err := h.Save(); err != nil {
				t.Fatal(err)
			}
			again, err := s.Find(r.ID)
			r.UpdatedAt = again.UpdatedAt
			if diff := cmp.Diff(r, again); diff != "" || err != nil {
				t.Errorf("%v: -read +saved\n%s", err, diff)
			}
		})
	}
}

// TestNewer: the record of a later version is named, and nobody guesses at it.
func TestNewer(t *testing.T) {
	dir := memDir(t)
	id := put(t, dir, "")
	path := filepath.Join(dir, "instances", id, recordFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), `"version":1`, `"version":3`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Find(id)
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path+" is of a newer lxcboot (version 3") {
		t.Errorf("%v", err)
	}
	if h, err := s.Hold(t.Context(), s.Wait, id); !errors.Is(err, ErrDamaged) {
		t.Errorf("it is given to be changed: %v", err)
		h.Close()
	}
}

// TestIndexOfOld: what has no index yet gets it from its records, and not while one of
// them, which may hold the name, cannot be read.
func TestIndexOfOld(t *testing.T) {
	dir := memDir(t)
	id := put(t, dir, "")
	damaged := put(t, dir, "")
	bad := filepath.Join(dir, "instances", damaged, recordFile)
	if err := os.WriteFile(bad, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(context.Background(), named("web2"), host.IDsFrom(1_000_000), nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("a name was given away that a damaged record may hold: %v", err)
	}
	if err := os.RemoveAll(filepath.Dir(bad)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(context.Background(), named("web1"), host.IDsFrom(1_000_000), nil); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), id) {
		t.Errorf("the name of an old record was given away: %v", err)
	}
	var ranges []uint32
	for _, name := range []string{"a", "b", "c"} {
		h, err := s.Create(context.Background(), named(name), host.IDsFrom(1_000_000), nil)
		if err != nil {
			t.Fatal(err)
		}
		ranges = append(ranges, h.IDs.First)
		h.Close()
	}
	if want := []uint32{1000000, 1065536, 1196608}; !cmp.Equal(ranges, want) { // 1131072 is the old one's
		t.Errorf("ranges %v, not %v", ranges, want)
	}
}

// TestRangesOfBases: two bases that overlap give no id twice.
func TestRangesOfBases(t *testing.T) {
	s := openStore(t)
	taken := map[uint32]string{}
	for i, base := range []uint32{1_000_000, 1_030_000, 1_000_000, 1_030_000, 990_000, 1_000_000, 5_000_000} {
		h, err := s.Create(context.Background(), named("web"+string(rune('a'+i))), host.IDsFrom(base), nil)
		if err != nil {
			t.Fatal(err)
		}
		if (h.IDs.First-base)%IDsPerInstance != 0 || h.IDs.Count != IDsPerInstance {
			t.Errorf("%+v is no range from %d on", h.IDs, base)
		}
		for first, name := range taken {
			if h.IDs.First < first+IDsPerInstance && first < h.IDs.First+IDsPerInstance {
				t.Errorf("%s has %d, and %s has %d", h.Name, h.IDs.First, name, first)
			}
		}
		taken[h.IDs.First] = h.Name
		h.Close()
	}
}

// TestStaleNames: an entry that no record bears out holds no name, and sweep removes it;
// it makes anew what was lost.
func TestStaleNames(t *testing.T) {
	s := openStore(t)
	h, err := s.Create(context.Background(), named("web1"), host.IDsFrom(1_000_000), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := s.Rename(context.Background(), h, "web2"); err != nil {
		t.Fatal(err)
	}
	for _, link := range []struct{ name, id string }{{"web1", h.ID}, {"gone", uuid.NewString()}} { // a rename, and a boot, that were killed
		if err := os.Symlink(link.id, filepath.Join(string(s.names), link.name)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Find(link.name); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", link.name, err)
		}
	}
	if other, err := s.Create(context.Background(), named("web1"), host.IDsFrom(1_000_000), nil); err != nil {
		t.Errorf("the name of nobody is taken: %v", err)
	} else {
		other.Close()
	}
	if err := os.Remove(filepath.Join(string(s.names), "web2")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Find("web2"); err != nil || r.ID != h.ID {
		t.Errorf("a name that was lost is not back: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(string(s.names), "gone")); err == nil {
		t.Error("a stale name is left")
	}
}

func TestExitCode(t *testing.T) {
	for status, code := range map[unix.WaitStatus]int{0: 0, 3 << 8: 3, 9: 137, 2: 0, 15: 143} {
		if got := (Exit{Status: uint32(status)}).Code(); got != code {
			t.Errorf("status %d: exit code %d, not %d", status, got, code)
		}
	}
}

// TestRecordHasRoom: a record holds what is to come, without another form.
func TestRecordHasRoom(t *testing.T) {
	r := Record{Spec: Spec{Restart: Restart{When: RestartOnFailure, Most: 3}}, Volumes: []Volume{{Partition: 4, Subvolume: "@", KeyRef: "barbican:x"}}, Caller: Caller{Name: "pacemaker"}, Exit: &Exit{Status: 256}}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var again Record
	if err := json.Unmarshal(data, &again); err != nil || !cmp.Equal(r, again) {
		t.Errorf("%v: %s", err, cmp.Diff(r, again))
	}
}
