package instance

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// growPlan boots from a volume that the user brought, whose filesystem is to grow.
func growPlan() Plan {
	plan := testPlan()
	plan.Mappings = plan.Mappings[1:2]
	zero := 0
	plan.Mappings[0].BootIndex, plan.Mappings[0].DeviceName, plan.Mappings[0].Grow = &zero, "/dev/vda", true
	return plan
}

// TestGrowFaults breaks a boot that makes the filesystem of a volume larger: after a crash
// and delete the volume is whole.
func TestGrowFaults(t *testing.T) {
	boot := func(ctx context.Context, m *Manager) error {
		_, err := m.Boot(ctx, growPlan())
		return err
	}
	strike(t, nil, boot, func(t *testing.T, w *world, m *Manager, before string, err error, crashed bool) {
		if crashed {
			if _, err := m.Delete(context.Background(), "web1"); err != nil {
				t.Fatalf("delete after the crash: %v", err)
			}
			w.die()
		}
		if got := w.String(); (crashed || err != nil) && got != before {
			t.Errorf("left behind:\n%s\nwant\n%s", got, before)
		}
		if len(w.growing) > 0 {
			t.Errorf("half grown: %v", w.growing)
		}
	})
}

// TestGrow sees what grows, and when.
func TestGrow(t *testing.T) {
	ctx := context.Background()
	did := func(w *world) []string {
		defer func() { w.ops = nil }()
		return slices.DeleteFunc(w.ops, func(op string) bool { return !strings.HasPrefix(op, "grow") && op != "mend" && op != "mount" })
	}
	for _, test := range []struct {
		name   string
		source bdm.SourceType
		meta   string
		grow   state.Growth
		ro     bool
		want   bool
	}{
		{name: "from an image", source: bdm.SourceImage, want: true},
		{name: "brought", source: bdm.SourceVolume},
		{name: "extended", source: bdm.SourceVolume, meta: "yes", want: true},
		{name: "--grow", source: bdm.SourceVolume, grow: state.GrowAll, want: true},
		{name: "--no-grow", source: bdm.SourceImage, grow: state.GrowNone},
		{name: "extended, --no-grow", source: bdm.SourceVolume, meta: "yes", grow: state.GrowNone},
		{name: "--grow, read-only", source: bdm.SourceVolume, grow: state.GrowAll, ro: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			store, err := state.Open(memDir(t), memDir(t))
			if err != nil {
				t.Fatal(err)
			}
			m := w.manager(store)
			m.MaxLocal = 1
			w.volumes["mine"].Metadata = map[string]string{volume.MetaGrow: test.meta}
			req := BootRequest{Name: "web1", Spec: testPlan().Spec}
			req.Spec.Grow = test.grow
			req.Spec.Seed.Hostname = ""
			if req.Blocks.BootVolume = "mine"; test.source == bdm.SourceImage {
				req.Blocks.BootVolume, req.Blocks.Image = "", "img"
				req.Spec.Flavor.DiskGiB = 2
			}
			w.volumes["mine"].ReadOnly = test.ro
			plan, err := m.Plan(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Boot(ctx, plan); err != nil {
				t.Fatal(err)
			}
			want := []string{"mount"}
			if test.want {
				want = []string{"grow", "mount", "grow mounted"}
			}
			if got := did(w); !slices.Equal(got, want) {
				t.Errorf("it did %q, not %q", got, want)
			}
			if _, err := m.Stop(ctx, "web1", true); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Start(ctx, "web1"); err != nil {
				t.Fatal(err)
			}
			if test.grow != state.GrowAll {
				want = []string{"mount"}
			}
			if got := did(w); !slices.Equal(got, want) {
				t.Errorf("the second time it did %q, not %q", got, want)
			}
		})
	}
}

// TestGrowFails: what cannot grow is a warning, and tried again at the next start; asked for
// it is an error.
func TestGrowFails(t *testing.T) {
	ctx := context.Background()
	for _, how := range []state.Growth{"", state.GrowAll} {
		w := newWorld(t)
		store, err := state.Open(memDir(t), memDir(t))
		if err != nil {
			t.Fatal(err)
		}
		m := w.manager(store)
		warned := 0
		m.Warn = func(string, ...any) { warned++ }
		w.fault = func(_ int, op string, after bool) error {
			if op == "grow" && !after {
				return rootfs.ErrGrow
			}
			return nil
		}
		plan := growPlan()
		plan.Spec.Grow = how
		_, err = m.Boot(ctx, plan)
		if how == state.GrowAll {
			if !errors.Is(err, rootfs.ErrGrow) || len(records(t, m)) != 0 {
				t.Errorf("booted with --grow: %v", err)
			}
			continue
		}
		if err != nil || warned != 1 || !records(t, m)[0].Volumes[0].Grow {
			t.Errorf("%d warnings, %v", warned, err)
		}
		w.fault = nil
		if _, err := m.Reboot(ctx, "web1", true); err != nil || records(t, m)[0].Volumes[0].Grow {
			t.Errorf("the next start did not grow it: %v", err)
		}
	}
}

// TestExtend extends volumes that nobody has, that a stopped instance has, and that a
// running one has.
func TestExtend(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	store, err := state.Open(memDir(t), memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	m := w.manager(store)
	extend := func(size int, grow bool, want ...string) {
		t.Helper()
		w.ops = nil
		if v, err := m.ExtendVolume(ctx, "mine", size, grow); err != nil || v.Size != size {
			t.Errorf("%+v, %v", v, err)
		}
		if !slices.Equal(w.ops, want) {
			t.Errorf("it did %q, not %q", w.ops, want)
		}
	}
	extend(3, false, "extend volume")
	extend(4, true, "update volume", "extend volume")
	extend(5, true, "extend volume") // marked already
	plan := growPlan()
	plan.Mappings[0].Grow = false
	if _, err := m.Boot(ctx, plan); err != nil {
		t.Fatal(err)
	}
	extend(6, true, "extend volume", "grow running")
	if records(t, m)[0].Volumes[0].Grow {
		t.Error("it is to grow, and has")
	}
	extend(7, false, "extend volume")
	if _, err := m.Stop(ctx, "web1", true); err != nil {
		t.Fatal(err)
	}
	extend(8, true, "extend volume")
	w.ops = nil
	if _, err := m.Start(ctx, "web1"); err != nil || !slices.Contains(w.ops, "grow") {
		t.Errorf("%q, %v", w.ops, err)
	}
	w.fault = func(_ int, op string, after bool) error {
		if op == "grow running" && !after {
			return rootfs.ErrGrow
		}
		return nil
	}
	extend(9, true, "extend volume", "grow running")
	if !records(t, m)[0].Volumes[0].Grow {
		t.Error("it could not grow, and is not to the next time")
	}
}
