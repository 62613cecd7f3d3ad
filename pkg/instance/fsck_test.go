package instance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// TestFsck checks what is mounted, and that before it is mounted for the first time
// only.
func TestFsck(t *testing.T) {
	ctx := context.Background()
	setup := func() (*world, *Manager) {
		w := newWorld(t)
		store, err := state.Open(memDir(t), memDir(t))
		if err != nil {
			t.Fatal(err)
		}
		w.volumes["more"] = &volume.Volume{ID: "more", Name: "more", Status: volume.StatusAvailable, Size: 1}
		return w, w.manager(store)
	}
	// The checks and mounts, in order.
	did := func(w *world) []string {
		defer func() { w.ops = nil }()
		return slices.DeleteFunc(w.ops, func(op string) bool { return op != "check" && op != "mount" })
	}
	expect := func(w *world, want ...string) {
		t.Helper()
		if got := did(w); !slices.Equal(got, want) {
			t.Errorf("it did %q, not %q", got, want)
		}
	}
	restart := func(m *Manager) error {
		if _, err := m.Stop(ctx, "web1", true); err != nil && !errors.Is(err, state.ErrState) {
			t.Fatal(err)
		}
		_, err := m.Start(ctx, "web1")
		return err
	}
	fail := func(w *world) {
		w.fault = func(_ int, op string, after bool) error {
			if op == "check" && after {
				return fmt.Errorf("%w: mend it", rootfs.ErrCheck)
			}
			return nil
		}
	}

	w, m := setup()
	if _, err := m.Boot(ctx, testPlan()); err != nil {
		t.Fatal(err)
	}
	expect(w, "check", "mount", "mount") // the second is a block device, and the third was made by mkfs just now
	if err := restart(m); err != nil {
		t.Fatal(err)
	}
	expect(w, "mount", "mount")

	// A volume that comes later is checked at its first mount, until it passes.
	if _, err := m.Stop(ctx, "web1", true); err != nil {
		t.Fatal(err)
	}
	if _, err := m.AttachVolume(ctx, "web1", bdm.Mapping{Source: bdm.SourceVolume, Dest: bdm.DestVolume, ID: "more", MountPath: "/more"}); err != nil {
		t.Fatal(err)
	}
	before := w.String()
	for range 2 {
		fail(w)
		if err := restart(m); !errors.Is(err, rootfs.ErrCheck) || !strings.Contains(err.Error(), "volume more: ") || !strings.Contains(err.Error(), "mend it") {
			t.Errorf("start with a volume that does not pass: %v", err)
		}
		expect(w, "mount", "mount", "check")
		if got := w.String(); got != before {
			t.Errorf("left behind:\n%s\nwant\n%s", got, before)
		}
	}
	w.fault = nil
	if err := restart(m); err != nil {
		t.Fatal(err)
	}
	expect(w, "mount", "mount", "check", "mount")

	// A boot that fails for it leaves nothing.
	w, m = setup()
	before = w.String()
	fail(w)
	if _, err := m.Boot(ctx, testPlan()); !errors.Is(err, rootfs.ErrCheck) || !strings.Contains(err.Error(), "cannot prepare the root: volume vol-2: ") {
		t.Errorf("boot with a root that does not pass: %v", err)
	}
	expect(w, "check")
	if got := w.String(); got != before {
		t.Errorf("left behind:\n%s\nwant\n%s", got, before)
	}

	// Nothing is checked unless asked for.
	w, m = setup()
	plan := testPlan()
	plan.Spec.Fsck = false
	if _, err := m.Boot(ctx, plan); err != nil {
		t.Fatal(err)
	}
	expect(w, "mount", "mount")
}

// TestMountpoints has each directory that is mounted at looked up in the filesystem that
// holds it, and a boot that is refused for one leaves nothing.
func TestMountpoints(t *testing.T) {
	ctx := context.Background()
	plan := testPlan()
	plan.Mappings = append(plan.Mappings, bdm.Mapping{Source: bdm.SourceBlank, Dest: bdm.DestLocal, GuestFormat: "ext4", Size: 1, MountPath: "/srv/a/b", DeviceName: "/dev/vdd"})
	for _, c := range []struct{ path, in, name string }{
		{"/srv", "/root", "srv"}, {"/dev", "/root", "dev"}, {"/proc", "/root", "proc"}, {"/sys", "/root", "sys"}, {"/.oldroot", "/root", ".oldroot"},
		{"/srv/a/b", "/mount-vdc", "/a/b"},
	} {
		t.Run(c.path, func(t *testing.T) {
			w := newWorld(t)
			store, err := state.Open(memDir(t), memDir(t))
			if err != nil {
				t.Fatal(err)
			}
			m := w.manager(store)
			before := w.String()
			w.fault = func(_ int, op string, _ bool) error {
				if op == "write file" {
					t.Error("written into a root that is refused")
				}
				for target, device := range w.mounts {
					if strings.HasSuffix(target, c.in) {
						w.badMountpoint = device + " " + c.name
					}
				}
				return nil
			}
			_, err = m.Boot(ctx, plan)
			if !errors.Is(err, rootfs.ErrOutside) || !strings.Contains(err.Error(), "cannot mount at "+c.path+" in the container") {
				t.Error(err)
			}
			if got := w.String(); got != before {
				t.Errorf("left behind:\n%s\nwant\n%s", got, before)
			}
		})
	}
}
