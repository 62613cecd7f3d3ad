package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/flavor"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/seed"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// The plan of the tests: a root made from an image, an existing volume as a
// block device, and a blank one that is mounted.
func testPlan() Plan {
	zero := 0
	return Plan{
		Name: "web1",
		Spec: state.Spec{Hostname: "web1", Flavor: flavor.Flavor{Name: "small", MemoryMiB: 64, VCPUs: 1}, Fsck: true, Seed: seed.Seed{Hostname: "web1"}},
		Mappings: []bdm.Mapping{
			{Source: bdm.SourceImage, Dest: bdm.DestVolume, ID: "img", Size: 1, BootIndex: &zero, DeviceName: "/dev/vda"},
			{Source: bdm.SourceVolume, Dest: bdm.DestVolume, ID: "mine", Size: 2, DeviceName: "/dev/vdb"},
			{Source: bdm.SourceBlank, Dest: bdm.DestLocal, GuestFormat: "ext4", Size: 1, MountPath: "/srv", DeviceName: "/dev/vdc", DeleteOnTermination: true},
		},
	}
}

// attempt runs f as a process of its own: a crash ends it, and what the kernel
// would clean up is cleaned up.
func attempt(w *world, f func() error) (err error, crashed bool) {
	defer func() {
		w.fault = nil
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
			crashed = true
		}
		w.die()
	}()
	return f(), false
}

// kinds are the faults that can strike at an operation.
var kinds = map[string]func(cancel context.CancelFunc, after bool) error{
	"error before": func(_ context.CancelFunc, after bool) error {
		if !after {
			return errInjected
		}
		return nil
	},
	"error after": func(_ context.CancelFunc, after bool) error {
		if after {
			return errInjected
		}
		return nil
	},
	"crash before": func(_ context.CancelFunc, after bool) error {
		if !after {
			panic(crash{})
		}
		return nil
	},
	"crash after": func(_ context.CancelFunc, after bool) error {
		if after {
			panic(crash{})
		}
		return nil
	},
	"cancel": func(cancel context.CancelFunc, after bool) error {
		if after {
			cancel()
		}
		return nil
	},
}

// strike runs operation over a world that was prepared, once for each operation
// on the world and each kind of fault, and hands the outcome to check.
func strike(t *testing.T, prepare func(*world, *Manager), operation func(context.Context, *Manager) error,
	check func(t *testing.T, w *world, m *Manager, before string, err error, crashed bool)) {
	setup := func(t *testing.T) (*world, *Manager) {
		w := newWorld(t)
		store, err := state.Open(memDir(t), memDir(t))
		if err != nil {
			t.Fatal(err)
		}
		m := w.manager(store)
		if prepare != nil {
			prepare(w, m)
		}
		w.ops = nil
		return w, m
	}
	w, m := setup(t)
	if err := operation(context.Background(), m); err != nil {
		t.Fatalf("without a fault: %v", err)
	}
	ops := w.ops
	if len(ops) < 3 {
		t.Fatalf("only %d operations were seen: %v", len(ops), ops)
	}
	struck := 0
	for n, op := range ops {
		for kind, act := range kinds {
			t.Run(fmt.Sprintf("%02d %s/%s", n, op, kind), func(t *testing.T) {
				w, m := setup(t)
				before := w.String()
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				w.fault = func(i int, _ string, after bool) error {
					if i != n {
						return nil
					}
					struck++
					return act(cancel, after)
				}
				err, crashed := attempt(w, func() error { return operation(ctx, m) })
				check(t, w, m, before, err, crashed)
			})
		}
	}
	t.Logf("%d operations, %d faults struck", len(ops), struck)
	if struck < len(ops)*len(kinds) {
		t.Errorf("only %d faults struck at %d operations", struck, len(ops))
	}
}

func records(t *testing.T, m *Manager) []state.Record {
	t.Helper()
	recs, err := m.Store.List()
	if err != nil {
		t.Fatal(err)
	}
	return recs
}

func TestBootFaults(t *testing.T) {
	boot := func(ctx context.Context, m *Manager) error {
		_, err := m.Boot(ctx, testPlan())
		return err
	}
	strike(t, nil, boot, func(t *testing.T, w *world, m *Manager, before string, err error, crashed bool) {
		switch {
		case crashed:
			ran := len(w.domains) == 1 && strings.Contains(w.String(), lxc.Running)
			if _, err := m.Delete(context.Background(), "web1"); err != nil {
				t.Fatalf("delete after the crash: %v", err)
			}
			w.die() // a console's process ends with its container
			if ran {
				// Once it ran, delete-on-termination decides, and the root
				// does not go.
				before = "volume mine available 0\nvolume web1-image available 0"
				if got := w.String(); got != before {
					t.Errorf("after the crash and delete:\n%s\nwant\n%s", got, before)
				}
				return
			}
		case err == nil:
			// A cancel that came after the last operation is no failure.
			if len(records(t, m)) != 1 {
				t.Error("booted without a record")
			}
			return
		case !errors.Is(err, errInjected) && !errors.Is(err, context.Canceled):
			t.Errorf("the error hides the fault: %v", err)
		}
		if got := w.String(); got != before {
			t.Errorf("left behind:\n%s\nwant\n%s", got, before)
		}
		if recs := records(t, m); len(recs) != 0 {
			t.Errorf("record left: %+v", recs)
		}
	})
}

func bootFirst(t *testing.T) func(*world, *Manager) {
	return func(w *world, m *Manager) {
		if _, err := m.Boot(context.Background(), testPlan()); err != nil {
			t.Fatal(err)
		}
	}
}

const afterDelete = "volume mine available 0\nvolume web1-image available 0"

func TestDeleteFaults(t *testing.T) {
	del := func(ctx context.Context, m *Manager) error {
		_, err := m.Delete(ctx, "web1")
		return err
	}
	strike(t, bootFirst(t), del, func(t *testing.T, w *world, m *Manager, _ string, err error, crashed bool) {
		if err == nil && !crashed {
			if got := w.String(); got != afterDelete {
				t.Errorf("left behind:\n%s\nwant\n%s", got, afterDelete)
			}
			return
		}
		// A delete that fails keeps the record, and the next one ends it.
		if _, err := m.Delete(context.Background(), "web1"); err != nil {
			t.Fatalf("delete again: %v", err)
		}
		if got := w.String(); got != afterDelete {
			t.Errorf("left behind:\n%s\nwant\n%s", got, afterDelete)
		}
		if recs := records(t, m); len(recs) != 0 {
			t.Errorf("record left: %+v", recs)
		}
	})
}

func TestRollbackFaults(t *testing.T) {
	// The boot fails at its last operation but one, and a second fault strikes
	// while it is undone.
	boot := func(ctx context.Context, m *Manager) error {
		m.Consoles = brokenConsoles{m.Consoles}
		_, err := m.Boot(ctx, testPlan())
		if err == nil {
			return errors.New("booted without a console")
		}
		if errors.Is(err, errConsole) && !errors.Is(err, errInjected) && !errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
	strike(t, nil, boot, func(t *testing.T, w *world, m *Manager, before string, err error, crashed bool) {
		var incomplete *RollbackError
		if err == nil && !crashed {
			if got := w.String(); got != before {
				t.Errorf("left behind:\n%s\nwant\n%s", got, before)
			}
			return
		}
		if errors.As(err, &incomplete) {
			v, err := m.Show(context.Background(), "web1")
			if err != nil || v.Status != StatusError || v.Note == "" {
				t.Errorf("after an incomplete rollback: %s %q, %v", v.Status, v.Note, err)
			}
		}
		if recs := records(t, m); len(recs) == 1 {
			if _, err := m.Delete(context.Background(), "web1"); err != nil {
				t.Fatalf("delete: %v", err)
			}
		}
		got := w.String()
		got = strings.Replace(got, "\nvolume web1-image available 0", "", 1) // where it ran for a moment
		if got != before {
			t.Errorf("left behind:\n%s\nwant\n%s", got, before)
		}
	})
}

var errConsole = errors.New("no console")

type brokenConsoles struct{ Consoles }

func (brokenConsoles) Open(lxc.Live) (Console, error) { return brokenConsole{}, nil }

type brokenConsole struct{}

func (brokenConsole) Close() {}

func (brokenConsole) Start(string, []*os.File) (proc.Process, error) {
	return proc.Process{}, errConsole
}

func TestStopFaults(t *testing.T) {
	stop := func(ctx context.Context, m *Manager) error {
		_, err := m.Stop(ctx, "web1", false)
		return err
	}
	strike(t, bootFirst(t), stop, func(t *testing.T, w *world, m *Manager, _ string, err error, crashed bool) {
		if crashed || err != nil {
			if _, err := m.Stop(context.Background(), "web1", false); err != nil && !errors.Is(err, state.ErrState) {
				t.Fatalf("stop again: %v", err)
			}
		}
		for _, held := range []string{"mount ", "loop ", "console ", lxc.Running} {
			if strings.Contains(w.String(), held) {
				t.Errorf("stopped, and still there: %s", w)
			}
		}
		if m.Store.HasRunDir(find(t, m).ID) {
			t.Error("stopped, and links or mountpoints are left")
		}
		if _, err := m.Start(context.Background(), "web1"); err != nil {
			t.Fatalf("start: %v", err)
		}
		if _, err := m.Delete(context.Background(), "web1"); err != nil {
			t.Fatalf("delete: %v", err)
		}
		if got := w.String(); got != afterDelete {
			t.Errorf("left behind:\n%s\nwant\n%s", got, afterDelete)
		}
	})
}

func TestStartFaults(t *testing.T) {
	prepare := func(w *world, m *Manager) {
		bootFirst(t)(w, m)
		if _, err := m.Stop(context.Background(), "web1", false); err != nil {
			t.Fatal(err)
		}
	}
	start := func(ctx context.Context, m *Manager) error {
		_, err := m.Start(ctx, "web1")
		return err
	}
	strike(t, prepare, start, func(t *testing.T, w *world, m *Manager, before string, err error, crashed bool) {
		if err != nil && !crashed {
			if got := w.String(); got != before {
				t.Errorf("a failed start left:\n%s\nwant\n%s", got, before)
			}
		}
		if crashed || err != nil {
			_, err := m.Start(context.Background(), "web1")
			if crashed && errors.Is(err, state.ErrState) { // all but the host's mount was done
				_, err = m.Repair(context.Background())
			}
			if err != nil {
				t.Fatalf("start again: %v", err)
			}
		}
		if v, err := m.Show(context.Background(), "web1"); err != nil || v.Status != StatusActive {
			t.Errorf("status %q, %v", v.Status, err)
		}
		if len(w.mounts) > 0 {
			t.Errorf("mounts are left: %v", w.mounts)
		}
		if _, err := m.Delete(context.Background(), "web1"); err != nil {
			t.Fatalf("delete: %v", err)
		}
		if got := w.String(); got != afterDelete {
			t.Errorf("left behind:\n%s\nwant\n%s", got, afterDelete)
		}
	})
}
