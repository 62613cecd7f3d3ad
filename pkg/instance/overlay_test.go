package instance

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/seed"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// overlayPlan boots from a volume that stays as it is.
func overlayPlan(how string) Plan {
	plan := growPlan()
	plan.Mappings[0].Grow, plan.Mappings[0].ReadOnly, plan.Mappings[0].Overlay = false, true, how
	if how == bdm.OverlayDisk {
		plan.Mappings = append(plan.Mappings, bdm.Mapping{Source: bdm.SourceBlank, Dest: bdm.DestLocal, GuestFormat: "ext4", Size: 1, DeviceName: "/dev/vdb", DeleteOnTermination: true, Upper: true})
	}
	return plan
}

func TestOverlayFaults(t *testing.T) {
	for _, how := range []string{"", bdm.OverlayMemory, bdm.OverlayDisk} {
		t.Run("overlay="+how, func(t *testing.T) {
			boot := func(ctx context.Context, m *Manager) error {
				_, err := m.Boot(ctx, overlayPlan(how))
				return err
			}
			strike(t, nil, boot, func(t *testing.T, w *world, m *Manager, before string, err error, crashed bool) {
				if !crashed && err == nil {
					return
				}
				if crashed {
					if _, err := m.Delete(context.Background(), "web1"); err != nil {
						t.Fatalf("delete after the crash: %v", err)
					}
					w.die()
				}
				if got := w.String(); got != before {
					t.Errorf("left behind:\n%s\nwant\n%s", got, before)
				}
			})
		})
	}
}

// TestOverlay sees what each start does, and that a running container's host has nothing of
// the overlay any more.
func TestOverlay(t *testing.T) {
	ctx := context.Background()
	for how, again := range map[string][]string{
		"":                {"mount", "mount memory of 32 MiB", "overlay", "write file"},
		bdm.OverlayMemory: {"mount", "mount memory of 32 MiB", "overlay", "write file"},
		bdm.OverlayDisk:   {"mount", "mount", "overlay"}, // what was written first is there
	} {
		w := newWorld(t)
		store, err := state.Open(memDir(t), memDir(t))
		if err != nil {
			t.Fatal(err)
		}
		m := w.manager(store)
		v, err := m.Boot(ctx, overlayPlan(how))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if len(w.mounts) > 0 {
				t.Errorf("overlay=%s leaves %v", how, w.mounts)
			}
			for _, dir := range []string{m.Store.LowerDir(v.ID), m.Store.UpperDir(v.ID)} {
				if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("overlay=%s leaves %s: %v", how, dir, err)
				}
			}
			if cfg := w.domains[v.ID].cfg; len(cfg.Disks) > 0 || len(cfg.Filesystems) > 0 || cfg.RootReadOnly {
				t.Errorf("overlay=%s: %+v", how, cfg)
			}
			if _, err := m.Stop(ctx, "web1", true); err != nil {
				t.Fatal(err)
			}
			w.ops = nil
			if _, err := m.Start(ctx, "web1"); err != nil {
				t.Fatal(err)
			}
			did := slices.DeleteFunc(w.ops, func(op string) bool {
				return !strings.HasPrefix(op, "mount memory") && !slices.Contains([]string{"mount", "overlay", "write file"}, op)
			})
			if !slices.Equal(did, again) {
				t.Errorf("overlay=%s: a start did %q, not %q", how, did, again)
			}
		}
	}
}

// TestOverlayPlan: the disk is made with the instance; what stays as it is is not written
// to.
func TestOverlayPlan(t *testing.T) {
	w := newWorld(t)
	store, err := state.Open(memDir(t), memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	m := w.manager(store)
	asked := BootRequest{Name: "web1", Spec: testPlan().Spec}
	asked.Blocks.BlockDevices = []string{"source=volume,id=mine,dest=volume,bootindex=0,readonly=yes,overlay=none"}
	if _, err := m.Plan(context.Background(), asked); !errors.Is(err, errReadOnlyRoot) {
		t.Errorf("a name for a root that is to stay as it is: %v", err)
	}
	asked.Spec.Seed = seed.Seed{Bare: true}
	if _, err := m.Plan(context.Background(), asked); err != nil {
		t.Errorf("nothing that has to be written: %v", err)
	}
	asked.Spec.NICs = []lxc.Interface{{Network: "default", Addresses: []string{"192.0.2.7/24"}, DNS: []string{"192.0.2.1"}}}
	if _, err := m.Plan(context.Background(), asked); !errors.Is(err, errReadOnlyRoot) {
		t.Errorf("name servers for a root that is to stay as it is: %v", err)
	}
	for how, devices := range map[string]int{"": 1, bdm.OverlayNone: 1, bdm.OverlayMemory: 1, bdm.OverlayDisk: 2} {
		req := BootRequest{Name: "web1", Spec: testPlan().Spec}
		req.Blocks.BlockDevices = []string{"source=volume,id=mine,dest=volume,bootindex=0,shutdown=preserve"}
		if how != "" {
			req.Blocks.BlockDevices[0] += ",overlay=" + how
		}
		plan, err := m.Plan(context.Background(), req)
		if err != nil || len(plan.Mappings) != devices {
			t.Fatalf("overlay=%s: %d devices, %v", how, len(plan.Mappings), err)
		}
		if ro := how == bdm.OverlayMemory || how == bdm.OverlayDisk; plan.Mappings[0].ReadOnly != ro {
			t.Errorf("overlay=%s: read-only is %v", how, !ro)
		}
		if devices == 2 {
			if up := plan.Mappings[1]; !up.Upper || !up.DeleteOnTermination || up.Size != 1 || up.DeviceName != "/dev/vdb" {
				t.Errorf("%+v", up)
			}
		}
	}
}
