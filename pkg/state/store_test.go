package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lock"
)

// memDir is a directory in memory where there is one: thousands of records are
// saved, and no test here cuts the power.
func memDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "lxcboot-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func openStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(memDir(t), memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func named(name string) Record {
	return Record{Version: Version, ID: uuid.NewString(), Name: name}
}

func TestNameIsClaimedOnce(t *testing.T) {
	s := openStore(t)
	for round := range 50 {
		name := fmt.Sprint("web", round)
		var won, lost, slots sync.Map
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				h, err := s.Create(context.Background(), named(name), host.IDsFrom(1_000_000), nil)
				switch {
				case err == nil:
					won.Store(i, h)
					slots.Store(h.IDs, i)
				case errors.Is(err, ErrExists):
					lost.Store(i, err)
				default:
					t.Errorf("create: %v", err)
				}
			})
		}
		wg.Wait()
		if n := count(&won); n != 1 {
			t.Fatalf("round %d: %d processes have the name", round, n)
		}
		if n := count(&lost); n != 7 {
			t.Fatalf("round %d: %d processes were told that it is taken", round, n)
		}
	}
	recs, err := s.List()
	if err != nil || len(recs) != 50 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	slots := map[host.IDRange]bool{}
	for _, r := range recs {
		slots[r.IDs] = true
	}
	if len(slots) != 50 {
		t.Errorf("50 instances share %d ranges of ids", len(slots))
	}
}

func begin(h *Held, op string) error {
	h.Op = NewOperation(op)
	return h.Save()
}

func count(m *sync.Map) (n int) {
	m.Range(func(any, any) bool { n++; return true })
	return n
}

// TestNamesHeld: who wants to claim a name beside a process that stands still while it does
// so gives up when its time is over.
func TestNamesHeld(t *testing.T) {
	s := openStore(t)
	h, err := s.Create(t.Context(), named("web1"), host.IDsFrom(1_000_000), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	all, err := s.lockAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	s.Wait = 50 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for what, claim := range map[string]func() error{
		"create": func() error { _, err := s.Create(ctx, named("web2"), host.IDsFrom(1_000_000), nil); return err },
		"rename": func() error { return s.Rename(ctx, h, "web2") },
		"sweep":  func() error { _, err := s.Sweep(ctx); return err },
	} {
		if err := claim(); !errors.Is(err, ErrBusy) || ctx.Err() != nil {
			t.Errorf("%s: %v (%v)", what, err, ctx.Err())
		}
	}
}

// TestWatchBesideOperations: who looks at an instance while operations on it begin and end
// well sees none of them as one that was interrupted.
func TestWatchBesideOperations(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	rec := named("web1")
	rec.Phase = Built
	h, err := s.Create(ctx, rec, host.IDsFrom(1_000_000), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(begin(h, OpStop), h.Close()); err != nil {
		t.Fatal(err)
	}
	if now, busy, err := s.Watch(h.Record); err != nil || busy || now.Pending() != OpStop {
		t.Errorf("one that was interrupted: %q, busy %v, %v", now.Pending(), busy, err)
	}
	before := h.Record // read while the operation was under way
	if h, err = s.Hold(ctx, s.Wait, "web1"); err != nil {
		t.Fatal(err)
	}
	h.Op = nil
	if err := errors.Join(h.Save(), h.Close()); err != nil {
		t.Fatal(err)
	}
	if now, busy, err := s.Watch(before); err != nil || busy || now.Op != nil {
		t.Errorf("one that ended between the two looks: %q, busy %v, %v", now.Pending(), busy, err)
	}
	// The next one begins between the look at the lock and the next at the record, which
	// waits here until that is written to it.
	path := filepath.Join(s.Dir(rec.ID), recordFile)
	if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	type seen struct {
		now  Record
		busy bool
		err  error
	}
	looked := make(chan seen, 1)
	go func() {
		now, busy, err := s.Watch(before)
		looked <- seen{now, busy, err}
	}()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	held, err := lock.File(ctx, filepath.Join(s.Dir(rec.ID), lockFile), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	next := before
	next.Op, next.UpdatedAt = NewOperation(OpStart), time.Now().UTC()
	if err := errors.Join(json.NewEncoder(file).Encode(next), file.Close()); err != nil {
		t.Fatal(err)
	}
	select {
	case l := <-looked:
		if l.err != nil || !l.busy || l.now.Pending() != OpStart {
			t.Errorf("one that began between the two looks: %q, busy %v, %v", l.now.Pending(), l.busy, l.err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it looks for ever")
	}
}

// TestRename: an instance is found by the name that it has now, and its old name is free,
// also where both are one.
func TestRename(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	h, err := s.Create(ctx, named("one"), host.IDsFrom(1_000_000), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, name := range []string{"one", "two", "two"} {
		if err := s.Rename(ctx, h, name); err != nil {
			t.Fatal(err)
		}
		if r, err := s.Find(name); err != nil || r.ID != h.ID {
			t.Errorf("renamed to %q: %v %v", name, r.ID, err)
		}
	}
	other, err := s.Create(ctx, named("one"), host.IDsFrom(1_000_000), nil)
	if err != nil {
		t.Fatalf("its old name is not free: %v", err)
	}
	defer other.Close()
	if err := s.Rename(ctx, h, "one"); !errors.Is(err, ErrExists) {
		t.Errorf("renamed to a name that is taken: %v", err)
	}
}

// TestFindShort holds that the beginning of an id stands for it, unless another has it too,
// and never for a name.
func TestFindShort(t *testing.T) {
	s := openStore(t)
	var ids []string
	for _, name := range []string{"one", "two"} {
		h, err := s.Create(context.Background(), named(name), host.IDsFrom(1_000_000), nil)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, h.ID)
		h.Close()
	}
	short := ids[0][:shortID]
	if r, err := s.Find(strings.ToUpper(short)); err != nil || r.ID != ids[0] {
		t.Errorf("%v %v", r.ID, err)
	}
	for _, ref := range []string{ids[0][:shortID-1], short + "x", "00000000"} {
		if _, err := s.Find(ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if _, err := s.Named(short); !errors.Is(err, ErrNotFound) {
		t.Errorf("a name: %v", err)
	}
	twin := short + ids[1][shortID:]
	if err := os.Rename(s.Dir(ids[1]), s.Dir(twin)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(short); !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), twin) {
		t.Errorf("of two: %v", err)
	}
}

func TestRemoveWhileOthersWait(t *testing.T) {
	s := openStore(t)
	for range 100 {
		h, err := s.Create(context.Background(), named("web1"), host.IDsFrom(1_000_000), nil)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				other, err := s.Hold(context.Background(), time.Minute, "web1")
				if !errors.Is(err, ErrNotFound) {
					t.Errorf("held a removed instance: %v", err)
					if err == nil {
						other.Close()
					}
				}
			})
		}
		time.Sleep(time.Millisecond)
		if err := h.Remove(); err != nil {
			t.Fatal(err)
		}
		h.Close()
		wg.Wait()
		if entries, _ := os.ReadDir(s.dir); len(entries) != 1 { // the store's own lock
			t.Fatalf("left: %v", entries)
		}
	}
}

func TestHoldSaysWhatIsUnderWay(t *testing.T) {
	s := openStore(t)
	h, err := s.Create(context.Background(), named("web1"), host.IDsFrom(1_000_000), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := begin(h, OpStop); err != nil {
		t.Fatal(err)
	}
	// Whichever limit ends the wait.
	for _, wait := range []time.Duration{20 * time.Millisecond, time.Hour} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err = s.Hold(ctx, wait, "web1")
		cancel()
		if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "stop") || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
			t.Errorf("hold for %v: %v", wait, err)
		}
	}
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(interrupted)
	if _, err = s.Hold(ctx, time.Hour, "web1"); err != interrupted {
		t.Errorf("an interrupted hold: %v", err)
	}
	if !s.Held(h.ID) {
		t.Error("a held instance is not seen as held")
	}
}

func TestDamagedRecord(t *testing.T) {
	for name, data := range map[string]string{
		"truncated": `{"version": 1, "id":`, "empty": "", "garbled": "\x00\x01",
		"another's": `{"version":1,"id":"6f1c1a1e-0000-4000-8000-000000000000","name":"x"}`,
		"newer":     `{"version":99,"id":"ID","name":"x"}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			good, err := s.Create(context.Background(), named("good"), host.IDsFrom(1_000_000), nil)
			if err != nil {
				t.Fatal(err)
			}
			good.Close()
			bad, err := s.Create(context.Background(), named("bad"), host.IDsFrom(1_000_000), nil)
			if err != nil {
				t.Fatal(err)
			}
			bad.Close()
			path := filepath.Join(s.Dir(bad.ID), recordFile)
			if err := os.WriteFile(path, []byte(strings.ReplaceAll(data, "ID", bad.ID)), 0o600); err != nil {
				t.Fatal(err)
			}
			recs, err := s.List()
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Errorf("list: %v", err)
			}
			if len(recs) != 1 || recs[0].Name != "good" {
				t.Errorf("the others are lost: %v", recs)
			}
			if _, err := s.Hold(context.Background(), time.Minute, "good"); err != nil {
				t.Errorf("the other cannot be used: %v", err)
			}
			if _, err := s.Find("bad"); !errors.Is(err, ErrDamaged) {
				t.Errorf("find by name: %v", err)
			}
			if _, err := s.Find(bad.ID); !errors.Is(err, ErrDamaged) {
				t.Errorf("find by id: %v", err)
			}
			if _, err := s.Create(context.Background(), named("bad"), host.IDsFrom(1_000_000), nil); !errors.Is(err, ErrExists) {
				t.Errorf("a name that a damaged record may hold was given away: %v", err)
			}
		})
	}
}

func TestSweep(t *testing.T) {
	s := openStore(t)
	id := uuid.NewString()
	if err := os.Mkdir(s.Dir(id), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(id), logFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := s.Create(context.Background(), named("web1"), host.IDsFrom(1_000_000), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for x, key := range map[index]string{s.names: "lost", s.ranges: "7000000"} {
		if _, err := x.claim(key, id, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range [][]string{{id, `"lost"`, "7000000"}, nil} {
		did, err := s.Sweep(context.Background())
		if err != nil || len(did) != len(want) {
			t.Fatalf("swept %q, %v", did, err)
		}
		for i := range want {
			if !strings.Contains(did[i], want[i]) {
				t.Errorf("it says %q, and not of %s", did[i], want[i])
			}
		}
	}
	if _, err := os.Stat(s.Dir(id)); !os.IsNotExist(err) {
		t.Errorf("a directory without a record is left: %v", err)
	}
	// The record of a backup has its name and its range again.
	first := fmt.Sprint(h.IDs.First)
	if err := errors.Join(s.names.drop("web1", h.ID), s.ranges.drop(first, h.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sweep(context.Background()); err != nil || s.names.get("web1") != h.ID || s.ranges.get(first) != h.ID {
		t.Errorf("not claimed: name %q, range %q, %v", s.names.get("web1"), s.ranges.get(first), err)
	}
}

func TestReaderSeesBeforeOrAfter(t *testing.T) {
	s := openStore(t)
	h, err := s.Create(context.Background(), named("web1"), host.IDsFrom(1_000_000), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 300 {
			h.Spec.Description = strings.Repeat(fmt.Sprint(i%10), 1+i*37%4000)
			if err := h.Save(); err != nil {
				t.Error(err)
			}
		}
	}()
	for {
		select {
		case <-done:
			return
		default:
		}
		rec, err := s.Find("web1")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Trim(rec.Spec.Description, rec.Spec.Description[:min(1, len(rec.Spec.Description))]) != "" {
			t.Fatal("half a record was read")
		}
	}
}

// TestRunDir: the modes of the run directory and of an instance's in it are set, whatever the
// umask, and whatever an earlier process made.
func TestRunDir(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	for name, made := range map[string]func(run, own string) error{
		"new":    func(string, string) error { return nil },
		"closed": func(_, own string) error { return os.MkdirAll(own, 0o700) },
	} {
		s := openStore(t)
		s.runDir = filepath.Join(s.runDir, "run")
		id := uuid.NewString()
		own := filepath.Join(s.runDir, id)
		if err := errors.Join(made(s.runDir, own), s.MakeRunDir(id, 1_000_000)); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]os.FileMode{s.runDir: 0o711, own: 0o710} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %s is %v instead of %v, %v", name, path, info.Mode().Perm(), want, err)
			}
		}
	}
}

// TestSeedIsForgotten: what the seed holds is beside the record, and no longer than it is
// needed.
func TestSeedIsForgotten(t *testing.T) {
	s := openStore(t)
	h, err := s.Create(t.Context(), named("web1"), host.IDsFrom(1_000_000), []byte("words of the seed"))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if data, err := h.Seed(); err != nil || string(data) != "words of the seed" {
		t.Errorf("%q, %v", data, err)
	}
	for range 2 {
		if _, err := h.ForgetSeed(); err != nil {
			t.Error(err)
		}
		if data, err := h.Seed(); err != nil || data != nil {
			t.Errorf("forgotten: %q, %v", data, err)
		}
	}
}
