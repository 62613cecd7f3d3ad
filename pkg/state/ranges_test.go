package state

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/host"
)

func ids() (host.IDPool, error) { return host.IDsFrom(1_000_000), nil }

// twoStores are two state directories of one host.
func twoStores(t *testing.T) (a, b *Store) {
	registry := filepath.Join(t.TempDir(), "ids")
	a, b = openStore(t), openStore(t)
	a.Registry, b.Registry = registry, registry
	return a, b
}

func create(t *testing.T, s *Store, name string) *Held {
	t.Helper()
	pool, _ := ids()
	h, err := s.Create(t.Context(), named(name), pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestRangesOfStores: state directories of one host have no host ids in common, also when
// they claim side by side, and the last instance takes the registry with it.
func TestRangesOfStores(t *testing.T) {
	a, b := twoStores(t)
	held := make([]*Held, 12)
	var all sync.WaitGroup
	for i := range held {
		all.Go(func() { held[i] = create(t, []*Store{a, b}[i%2], "web"+string(rune('a'+i))) })
	}
	all.Wait()
	for i, h := range held {
		for _, o := range held[:i] {
			if h.IDs.Overlaps(o.IDs) {
				t.Errorf("%s and %s have %+v and %+v", o.Name, h.Name, o.IDs, h.IDs)
			}
		}
	}
	for _, h := range held {
		if err := errors.Join(h.Remove(), h.Close()); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(a.Registry); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the registry is left: %v", err)
	}
}

// TestRangeAfterRestart: a host that has restarted knows of no range until its instances
// start again; one whose range another has by then gets another, or is refused.
func TestRangeAfterRestart(t *testing.T) {
	a, b := twoStores(t)
	old := create(t, a, "old")
	was := old.IDs
	if err := os.RemoveAll(a.Registry); err != nil {
		t.Fatal(err)
	}
	other := create(t, b, "other")
	if other.IDs != was {
		t.Fatalf("%+v, and not what nobody uses, %+v", other.IDs, was)
	}
	if err := a.HoldRange(t.Context(), old, nil); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "lxcboot start old") {
		t.Errorf("a start without a choice: %v", err)
	}
	if err := a.HoldRange(t.Context(), old, ids); err != nil {
		t.Fatal(err)
	}
	saved, err := a.Find("old")
	if err != nil || saved.IDs != old.IDs || old.IDs.Overlaps(other.IDs) || old.IDs.Count != was.Count {
		t.Errorf("%+v beside %+v, %+v is saved: %v", old.IDs, other.IDs, saved.IDs, err)
	}
	now := old.IDs
	if err := errors.Join(a.HoldRange(t.Context(), old, nil), b.HoldRange(t.Context(), other, nil)); err != nil || old.IDs != now {
		t.Errorf("again %+v, %v", old.IDs, err)
	}
	// What is given up is free, in either.
	if h := create(t, a, "next"); h.IDs.Overlaps(old.IDs) || h.IDs.Overlaps(other.IDs) {
		t.Errorf("%+v is another's", h.IDs)
	}
	if err := other.Remove(); err != nil {
		t.Fatal(err)
	}
	if h := create(t, a, "last"); h.IDs != was {
		t.Errorf("%+v, and %+v is free", h.IDs, was)
	}
}

// TestRangeIsNoted: what a start has after the host's is seen by the other state directory,
// also where its ranges begin elsewhere, and is then had by nobody else.
func TestRangeIsNoted(t *testing.T) {
	a, b := twoStores(t)
	old := create(t, a, "old")
	for _, noted := range []bool{true, false} {
		if err := os.RemoveAll(a.Registry); err != nil {
			t.Fatal(err)
		}
		if noted {
			if err := a.HoldRange(t.Context(), old, nil); err != nil {
				t.Fatal(err)
			}
		}
		other, err := b.Create(t.Context(), named("other"), host.IDsFrom(old.IDs.First+1), nil)
		if err != nil || other.IDs.Overlaps(old.IDs) == noted {
			t.Fatalf("%v: %+v beside %+v, %v", noted, other.IDs, old.IDs, err)
		}
		if err := a.HoldRange(t.Context(), old, nil); (err == nil) != noted {
			t.Errorf("%+v beside %+v: %v", old.IDs, other.IDs, err)
		}
		if err := errors.Join(other.Remove(), other.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRangeNotSaved: an instance whose record cannot be written keeps the range that it
// has there, and the one that it was to get is free.
func TestRangeNotSaved(t *testing.T) {
	a, b := twoStores(t)
	old := create(t, a, "old")
	was := old.IDs
	if err := os.RemoveAll(a.Registry); err != nil {
		t.Fatal(err)
	}
	create(t, b, "other")
	record := filepath.Join(a.Dir(old.ID), recordFile)
	if err := errors.Join(os.Remove(record), os.Mkdir(record, 0o700), os.WriteFile(filepath.Join(record, "x"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := a.HoldRange(t.Context(), old, ids); err == nil || old.IDs != was {
		t.Errorf("%+v, %v", old.IDs, err)
	}
	next := host.IDRange{First: was.First + was.Count, Count: was.Count}
	for _, s := range []*Store{b, a} {
		h := create(t, s, "next")
		if h.IDs != next {
			t.Errorf("%+v, and %+v is free", h.IDs, next)
		}
		if err := errors.Join(h.Remove(), h.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRangeIsClaimedAlone: no range changes while another process claims names and ranges.
func TestRangeIsClaimedAlone(t *testing.T) {
	a, _ := twoStores(t)
	h := create(t, a, "web1")
	all, err := a.lockAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	a.Wait = 0
	if err := a.HoldRange(t.Context(), h, ids); !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
}

// TestRangesOfRecords: a range is an instance's as long as its record may have it; two
// records that have the same are said.
func TestRangesOfRecords(t *testing.T) {
	s := openStore(t)
	h := create(t, s, "web1")
	if err := errors.Join(h.Close(), os.WriteFile(filepath.Join(s.Dir(h.ID), recordFile), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if did, err := s.Sweep(t.Context()); err != nil || len(did) > 0 {
		t.Errorf("%q, %v", did, err)
	}
	if next := create(t, s, "web2"); next.IDs.Overlaps(h.IDs) {
		t.Errorf("%+v may be another's", next.IDs)
	}
	if err := h.Save(); err != nil {
		t.Fatal(err)
	}
	twin := named("twin")
	twin.IDs = h.IDs
	if err := os.Mkdir(s.Dir(twin.ID), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (&Held{Record: twin, store: s}).Save(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sweep(t.Context()); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), h.ID) || !strings.Contains(err.Error(), twin.ID) {
		t.Errorf("two have %+v: %v", h.IDs, err)
	}
}

// TestRegistryComesAndGoes: its last user takes the registry away while the next ones wait
// for it.
func TestRegistryComesAndGoes(t *testing.T) {
	a, b := twoStores(t)
	var all sync.WaitGroup
	for _, s := range []*Store{a, b, a, b} {
		all.Go(func() {
			for range 50 {
				reg, err := s.openRegistry(t.Context())
				if err != nil {
					t.Error(err)
				}
				reg.close()
			}
		})
	}
	all.Wait()
}

// TestRangeOfOverlay: what was written over a read-only root belongs to the range of that
// time, so the instance is refused any other.
func TestRangeOfOverlay(t *testing.T) {
	a, b := twoStores(t)
	old := create(t, a, "old")
	old.Volumes = append(old.Volumes, Volume{Mapping: bdm.Mapping{Upper: true}})
	was := old.IDs
	if err := os.RemoveAll(a.Registry); err != nil {
		t.Fatal(err)
	}
	other := create(t, b, "other")
	if other.IDs != was {
		t.Fatalf("%+v, and not what nobody uses, %+v", other.IDs, was)
	}
	for _, pool := range []func() (host.IDPool, error){nil, ids} {
		err := a.HoldRange(t.Context(), old, pool)
		if !errors.Is(err, ErrState) || !strings.Contains(err.Error(), b.Dir(other.ID)) || strings.Contains(err.Error(), "lxcboot start") || old.IDs != was {
			t.Errorf("%+v: %v", old.IDs, err)
		}
	}
	if err := other.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := a.HoldRange(t.Context(), old, ids); err != nil || old.IDs != was {
		t.Errorf("once they are free: %+v, %v", old.IDs, err)
	}
}

// TestRegistryIsMended: what is left of a process that was killed, or of a state directory
// that is gone, is no range.
func TestRegistryIsMended(t *testing.T) {
	a, b := twoStores(t)
	if err := os.MkdirAll(a.Registry, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere/instances/x", filepath.Join(a.Registry, "1000000")); err != nil {
		t.Fatal(err)
	}
	if h := create(t, b, "web1"); h.IDs.First != 1_000_000 {
		t.Errorf("%+v", h.IDs)
	}
	if err := os.RemoveAll(b.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(a.Registry); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the registry is left: %v", err)
	}
}
