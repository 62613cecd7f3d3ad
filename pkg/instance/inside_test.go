package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/inuse"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

func moreAt(mount string) bdm.Mapping {
	return bdm.Mapping{Source: bdm.SourceVolume, Dest: bdm.DestVolume, ID: "more", MountPath: mount}
}

// TestAttachMounted: a running container has it at once, and what libvirt keeps has it for
// the next start; the host has nothing of it.
func TestAttachMounted(t *testing.T) {
	ctx := context.Background()
	w, m := booted(t)
	id := find(t, m).ID
	if _, err := m.AttachVolume(ctx, id, moreAt("/data")); err != nil {
		t.Fatal(err)
	}
	kept := func() bool {
		return slices.ContainsFunc(w.domains[id].cfg.Filesystems, func(f lxc.Filesystem) bool { return f.Target == "/data" })
	}
	if w.inside["/data"] == "" || !kept() || len(w.mounts) > 0 || len(w.domains[id].cfg.Disks) != 1 {
		t.Errorf("inside %v, on the host %v, kept %+v", w.inside, w.mounts, w.domains[id].cfg)
	}
	if _, err := m.Reboot(ctx, id, true); err != nil || w.inside["/data"] == "" {
		t.Errorf("after a reboot: %v, %v", w.inside, err)
	}
	// One over it would hide it until the next start.
	w.volumes["third"] = &volume.Volume{ID: "third", Name: "third", Status: volume.StatusAvailable, Size: 1}
	below := moreAt("/data/below")
	below.ID = "third"
	if _, err := m.AttachVolume(ctx, id, below); err != nil {
		t.Error(err)
	}
	if _, err := m.DetachVolume(ctx, id, "more"); err != nil || w.inside["/data"] != "" || kept() {
		t.Errorf("detached: inside %v, %v", w.inside, err)
	}
	before := w.String()
	if _, err := m.AttachVolume(ctx, id, moreAt("/data")); !errors.Is(err, state.ErrState) || w.String() != before {
		t.Errorf("over another: %v\n%s", err, w)
	}
}

// TestDetachUsed: what uses a volume is named, nothing is changed, and no operation is left,
// whether it is seen at first, only when the volume is being taken, or by who ends a detach
// that was cut short.
func TestDetachUsed(t *testing.T) {
	ctx := context.Background()
	for _, mount := range []string{"", "/data"} {
		prepare := func(t *testing.T) (*world, *Manager, string) {
			w, m := booted(t)
			if _, err := m.AttachVolume(ctx, "web1", moreAt(mount)); err != nil {
				t.Fatal(err)
			}
			return w, m, w.String()
		}
		stays := func(t *testing.T, w *world, m *Manager, before string) {
			t.Helper()
			rec := find(t, m)
			if w.String() != before || rec.Op != nil || rec.Volume("more") < 0 {
				t.Errorf("it is not as before: pending %q, %s\n%s\nwant\n%s", rec.Pending(), rec.VolumesText(), w, before)
			}
			cfg := w.domains[rec.ID].cfg
			for _, d := range cfg.Disks {
				if linked(d.Source) == "" {
					t.Errorf("%s leads nowhere", d.Source)
				}
			}
			if n := len(cfg.Disks) + len(cfg.Filesystems); n != 3 {
				t.Errorf("libvirt has %d of three volumes: %+v", n, cfg)
			}
		}
		// The moment at which the volume turns out to be used, each in its own way.
		taken, kind := "detach loop", loop.ErrInUse
		if mount != "" {
			taken, kind = "unmount inside", inuse.ErrUsed
		}
		used := func(_ int, op string, after bool) error {
			if op == taken && !after {
				return failure.Of(kind, "somebody uses it")
			}
			return nil
		}
		t.Run("at first"+mount, func(t *testing.T) {
			w, m, before := prepare(t)
			w.usedBy, w.ops = "somebody", nil
			_, err := m.DetachVolume(ctx, "web1", "more")
			if !errors.Is(err, inuse.ErrUsed) || !strings.Contains(err.Error(), "somebody") || len(w.ops) > 0 {
				t.Errorf("%v; it did %q", err, w.ops)
			}
			stays(t, w, m, before)
			w.usedBy = ""
			if _, err := m.DetachVolume(ctx, "web1", "more"); err != nil {
				t.Error(err)
			}
		})
		t.Run("when it is taken"+mount, func(t *testing.T) {
			w, m, before := prepare(t)
			w.fault = used
			if _, err := m.DetachVolume(ctx, "web1", "more"); !errors.Is(err, kind) {
				t.Error(err)
			}
			stays(t, w, m, before)
		})
		t.Run("after a cut"+mount, func(t *testing.T) {
			w, m, before := prepare(t)
			w.fault = func(_ int, op string, after bool) error {
				if op == taken && !after {
					panic(crash{})
				}
				return nil
			}
			if _, crashed := attempt(w, func() error { _, err := m.DetachVolume(ctx, "web1", "more"); return err }); !crashed {
				t.Fatal("the detach was not killed")
			}
			w.fault = used
			did, err := m.Repair(ctx)
			if err != nil || len(did) != 1 || !strings.Contains(did[0], "undid its volume detach") {
				t.Errorf("repair did %q, %v", did, err)
			}
			stays(t, w, m, before)
		})
	}
}

// TestBlank: a blank volume is not mounted, and that is said before anything else is done to
// the container, its root or its definition.
func TestBlank(t *testing.T) {
	ctx := context.Background()
	refused := func(t *testing.T, w *world, before string, err error) {
		t.Helper()
		if !errors.Is(err, rootfs.ErrBlank) || !strings.Contains(err.Error(), "/data") || w.String() != before {
			t.Errorf("%v\n%s\nwant\n%s", err, w, before)
		}
		for _, op := range w.ops {
			if slices.Contains([]string{"mount", "grow", "write file", "keep file", "start", "mount inside", "attach loop"}, op) {
				t.Errorf("it did %q", w.ops)
			}
		}
	}
	for _, running := range []bool{true, false} {
		w, m := booted(t)
		w.blank["more"] = true
		if !running {
			if _, err := m.Stop(ctx, "web1", true); err != nil {
				t.Fatal(err)
			}
		}
		before := w.String()
		w.ops = nil
		_, err := m.AttachVolume(ctx, "web1", moreAt("/data"))
		refused(t, w, before, err)
		// As a block device it can be had.
		if _, err := m.AttachVolume(ctx, "web1", moreAt("")); err != nil {
			t.Error(err)
		}
	}
	w := newWorld(t)
	store, err := state.Open(memDir(t), memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	w.blank["mine"] = true
	before := w.String()
	plan := testPlan()
	plan.Mappings[1].MountPath = "/data"
	_, err = w.manager(store).Boot(ctx, plan)
	refused(t, w, before, err)
}

// TestHookFormer: libvirt may start a container by the definition of the life before. Volumes
// that came since are mounted, those that went are not, and one under the name of a device
// that was another's is where it belongs.
func TestHookFormer(t *testing.T) {
	ctx := context.Background()
	call := func(t *testing.T, w *world, m *Manager, moment string, cfg lxc.Config) error {
		t.Helper()
		h := w.manager(m.Store)
		h.Domains = nil
		dom := lxc.Domain{ID: cfg.UUID, Name: cfg.Name, Filesystems: cfg.Filesystems, Disks: cfg.Disks, IDMap: cfg.IDMap}
		return h.Hook(ctx, moment, dom, func() (Volumes, error) { return m.Volumes, nil })
	}
	mounted := func(w *world) (dirs []string) {
		for dir := range w.inside {
			dirs = append(dirs, dir)
		}
		slices.Sort(dirs)
		return dirs
	}
	begin := func(t *testing.T, change func(w *world, m *Manager) error) (*world, *Manager, lxc.Config) {
		t.Helper()
		w, m := booted(t)
		if _, err := m.AttachVolume(ctx, "web1", moreAt("/data")); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Reboot(ctx, "web1", true); err != nil {
			t.Fatal(err)
		}
		id := find(t, m).ID
		former := w.domains[id].cfg
		former.Filesystems = slices.Clone(former.Filesystems)
		if err := change(w, m); err != nil {
			t.Fatal(err)
		}
		w.domains[id].state = lxc.Shutoff
		w.die()
		if err := call(t, w, m, HookRelease, former); err != nil {
			t.Fatal(err)
		}
		return w, m, former
	}
	detach := func(w *world, m *Manager) error { _, err := m.DetachVolume(ctx, "web1", "more"); return err }
	for name, c := range map[string]struct {
		change func(w *world, m *Manager) error
		want   []string
	}{
		"the same": {func(*world, *Manager) error { return nil }, []string{"/data", "/srv"}},
		"one went": {detach, []string{"/srv"}},
		"one came": {func(w *world, m *Manager) error {
			w.volumes["third"] = &volume.Volume{ID: "third", Name: "third", Status: volume.StatusAvailable, Size: 1}
			third := moreAt("/third")
			third.ID = "third"
			_, err := m.AttachVolume(ctx, "web1", third)
			return err
		}, []string{"/data", "/srv", "/third"}},
		"one went, and is elsewhere": {func(w *world, m *Manager) error {
			err := detach(w, m)
			if err == nil {
				_, err = m.AttachVolume(ctx, "web1", moreAt("/other"))
			}
			return err
		}, []string{"/other", "/srv"}},
	} {
		t.Run(name, func(t *testing.T) {
			w, m, former := begin(t, c.change)
			kept := w.domains[former.UUID].cfg
			if err := call(t, w, m, HookPrepare, former); err != nil {
				t.Fatal(err)
			}
			w.domains[former.UUID].cfg = former
			if _, err := m.Domains.Start(ctx, former.UUID); err != nil {
				t.Fatal(err)
			}
			w.domains[former.UUID].cfg = kept
			if err := call(t, w, m, HookStarted, former); err != nil {
				t.Fatal(err)
			}
			if got := mounted(w); !slices.Equal(got, c.want) || len(w.mounts) > 0 || len(m.Store.MountDirs(former.UUID)) > 0 {
				t.Errorf("inside %q instead of %q, on the host %v, %q", got, c.want, w.mounts, m.Store.MountDirs(former.UUID))
			}
			for dir, device := range w.inside {
				if device == "" {
					t.Errorf("a directory of the host is at %s", dir)
				}
			}
			if _, err := m.Delete(ctx, "web1"); err != nil {
				t.Error(err)
			}
		})
	}
	// Where libvirt would still mount one that went, no link may lead to the host.
	w, m, former := begin(t, detach)
	rec := find(t, m)
	w.badMountpoint = rec.Root().Device.Path + " data"
	before := w.String()
	if err := call(t, w, m, HookPrepare, former); !errors.Is(err, rootfs.ErrOutside) {
		t.Errorf("a link: %v", err)
	}
	if got := w.String(); got != before || len(m.Store.MountDirs(rec.ID)) > 0 {
		t.Errorf("a refused start left\n%s\nwant\n%s", got, before)
	}
	w.badMountpoint = ""
	// Nor is anything taken that is not its own.
	former.Filesystems = append(former.Filesystems, lxc.Filesystem{Source: fmt.Sprintf("%s/../mount-vdb", m.Store.RootDir(rec.ID)), Target: "/x"}, lxc.Filesystem{Source: os.TempDir(), Target: "/y"})
	if err := call(t, w, m, HookPrepare, former); !errors.Is(err, state.ErrState) {
		t.Errorf("another's directory: %v", err)
	}
}
