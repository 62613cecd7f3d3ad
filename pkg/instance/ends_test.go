package instance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/seed"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume/connector"
)

// TestEnded: the status of an init is noted by the process that kept that container's
// console, and by no process of an earlier life.
func TestEnded(t *testing.T) {
	w, m := booted(t)
	id := find(t, m).ID
	self, err := proc.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	status := uint32(3 << 8)
	w.domains[id].state = lxc.Shutoff
	earlier := find(t, m).Console
	if _, err := m.Ended(t.Context(), id, &status); err != nil || find(t, m).Exit != nil {
		t.Errorf("an earlier life's status was noted: %+v, %v", find(t, m).Exit, err)
	}
	if _, err := m.Start(t.Context(), id); err != nil || earlier == self {
		t.Fatal(err)
	}
	if err := m.Change(t.Context(), id, func(r *state.Record) error { r.Console = self; w.console[self.PID] = id; return nil }); err != nil {
		t.Fatal(err)
	}
	w.domains[id].state = lxc.Shutoff
	if _, err := m.Ended(t.Context(), id, &status); err != nil {
		t.Fatal(err)
	}
	if e := find(t, m).Exit; e == nil || e.Code() != 3 || find(t, m).Want != state.Down {
		t.Errorf("exit %+v, wanted %s", e, find(t, m).Want)
	}
	// What ends because the host goes down is wanted up.
	if _, err := m.Start(t.Context(), id); err != nil || find(t, m).Exit != nil {
		t.Fatalf("%v; exit %+v of a running container", err, find(t, m).Exit)
	}
	m.Stopping = func(context.Context) bool { return true }
	w.domains[id].state = lxc.Shutoff
	if _, err := m.Ended(t.Context(), id, nil); err != nil || find(t, m).Want != state.Up {
		t.Errorf("wanted %s, %v", find(t, m).Want, err)
	}
}

// TestConsoleGone: show says that a running container's console is kept by nobody, and
// repair and autostart mend it.
func TestConsoleGone(t *testing.T) {
	for name, mend := range map[string]func(context.Context, *Manager) ([]string, error){
		"repair": func(ctx context.Context, m *Manager) ([]string, error) { return m.Repair(ctx) },
		"autostart": func(ctx context.Context, m *Manager) ([]string, error) {
			_, err := m.Autostart(ctx)
			return []string{"console"}, err
		},
	} {
		w, m := booted(t)
		clear(w.console)
		if v, err := m.Show(t.Context(), "web1"); err != nil || v.Status != StatusActive || !strings.Contains(v.Note, "console") {
			t.Errorf("show: %s %q, %v", v.Status, v.Note, err)
		}
		if did, err := mend(t.Context(), m); err != nil || !strings.Contains(strings.Join(did, ""), "console") || len(w.console) != 1 {
			t.Errorf("%s did %q, %v: %v", name, did, err, w.console)
		}
		if v, err := m.Show(t.Context(), "web1"); err != nil || v.Note != "" {
			t.Errorf("show: %q, %v", v.Note, err)
		}
	}
}

// TestRunIsItsCallers: what `run` booted is never autostarted, and `run --rm` that was
// killed is cleaned up after by repair, which leaves a living one's alone.
func TestRunIsItsCallers(t *testing.T) {
	w, m := booted(t)
	m.Host.BootID, _ = host.BootID()
	caller, err := state.CallerRunning(true)
	if err != nil {
		t.Fatal(err)
	}
	set := func(c state.Caller) {
		t.Helper()
		if err := m.Change(t.Context(), "web1", func(r *state.Record) error {
			r.Caller, r.Want, r.BootID = c, state.Up, m.Host.BootID
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	set(caller)
	if did, err := m.Repair(t.Context()); err != nil || len(did) != 0 {
		t.Errorf("of a run that lives, repair did %q, %v", did, err)
	}
	w.domains[find(t, m).ID].state = lxc.Shutoff
	set(caller)
	if started, err := m.Autostart(t.Context()); err != nil || len(started) != 0 {
		t.Errorf("autostart started %q, %v", started, err)
	}
	caller.Proc.Start++ // another process of that number
	set(caller)
	if did, err := m.Repair(t.Context()); err != nil || len(did) != 1 || len(records(t, m)) != 0 {
		t.Errorf("of a run that was killed, repair did %q, %v", did, err)
	}
}

// TestFullDisk: the instance that fills the disk can be stopped and deleted.
func TestFullDisk(t *testing.T) {
	for name, end := range map[string]func(context.Context, *Manager) error{
		"stop":   func(ctx context.Context, m *Manager) error { _, err := m.Stop(ctx, "web1", false); return err },
		"delete": func(ctx context.Context, m *Manager) error { _, err := m.Delete(ctx, "web1"); return err },
		"end":    func(ctx context.Context, m *Manager) error { _, err := m.Ended(ctx, find(t, m).ID, nil); return err },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(dir, unix.MNT_DETACH)
			w := newWorld(t)
			store, err := state.Open(dir, memDir(t))
			if err != nil {
				t.Fatal(err)
			}
			m := w.manager(store)
			bootFirst(t)(w, m)
			var warned []string
			m.Warn = func(format string, args ...any) { warned = append(warned, format) }
			fill, err := os.Create(filepath.Join(dir, "fill"))
			if err != nil {
				t.Fatal(err)
			}
			defer fill.Close()
			for err == nil {
				_, err = fill.Write(make([]byte, 4096))
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			if name == "end" {
				w.domains[find(t, m).ID].state = lxc.Shutoff
			}
			if err := end(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			for _, held := range []string{"mount ", "loop ", lxc.Running} {
				if strings.Contains(w.String(), held) {
					t.Errorf("it holds on: %s", w)
				}
			}
			if (len(warned) == 0) != (name == "delete") {
				t.Errorf("warned: %q", warned)
			}
			os.Remove(fill.Name())
			if _, err := m.Delete(t.Context(), "web1"); err != nil && name != "delete" {
				t.Error(err)
			}
			if got := w.String(); got != afterDelete {
				t.Errorf("left behind:\n%s\nwant\n%s", got, afterDelete)
			}
		})
	}
}

// localDevices are files of this host's, of which nothing has to be acquired.
type localDevices struct{ devicesFake }

func (d localDevices) Prepare(ctx context.Context, req connector.Request) (connector.Device, error) {
	dev, err := d.devicesFake.Prepare(ctx, req)
	dev.Driver = "local"
	return dev, err
}

func (d localDevices) Connect(ctx context.Context, _ connector.Request, dev connector.Device) (connector.Device, error) {
	return dev, d.do(ctx, "connect device", func() error { return os.WriteFile(dev.Path, nil, 0o600) })
}

// TestSeedKept: what the seed's files replaced on a volume that the user brought comes
// back when the boot fails, however far it came, or was killed before the container ran.
func TestSeedKept(t *testing.T) {
	plan := testPlan()
	plan.Mappings = plan.Mappings[1:2]
	plan.Mappings[0].BootIndex, plan.Mappings[0].DeviceName = new(int), "/dev/vda"
	plan.Spec.Seed = seed.Seed{Hostname: "web1", Files: []seed.File{{Path: "/big", Data: make([]byte, 1<<20), Mode: 0o600}}}
	boot := func(ctx context.Context, m *Manager) error {
		_, err := m.Boot(ctx, plan)
		return err
	}
	// A device that is only a path of this host's is on disk with the record alone.
	local := func(w *world, m *Manager) { m.Devices = localDevices{devicesFake{w}} }
	strike(t, local, boot, func(t *testing.T, w *world, m *Manager, before string, err error, crashed bool) {
		ran := strings.Contains(w.String(), lxc.Running)
		kept := 0 // more than were written, at any time
		for n, op := range w.ops {
			switch op {
			case "keep file":
				kept++
			case "write file":
				if kept--; kept < 0 {
					t.Errorf("operation %d writes a file that was not kept", n)
				}
			}
		}
		if crashed && len(records(t, m)) == 1 {
			if _, err := m.Delete(context.Background(), "web1"); err != nil {
				t.Fatalf("delete after the crash: %v", err)
			}
		} else if err == nil {
			info, err := os.Stat(filepath.Join(m.Store.Dir(find(t, m).ID), "record.json"))
			if err != nil || info.Size() > 16<<10 {
				t.Errorf("the record has %d bytes, %v", info.Size(), err)
			}
			if _, err := m.Delete(context.Background(), "web1"); err != nil {
				t.Fatal(err)
			}
		}
		w.die()
		if len(w.kept) != 0 || w.forgot && (!ran && crashed || !crashed && err != nil) {
			t.Errorf("not put back, and forgotten: %v; kept: %v", w.forgot, w.kept)
		}
		if got := w.String(); got != before {
			t.Errorf("left behind:\n%s\nwant\n%s", got, before)
		}
	})
}

// TestAutostopThenEnded: of a container that was ended because the host goes down, the
// process that kept its console hands in the status when that is over already, and others
// look at it; all this may come when nothing says any more that the host goes down.
func TestAutostopThenEnded(t *testing.T) {
	for name, cut := range map[string]bool{"in full": false, "killed meanwhile": true} {
		t.Run(name, func(t *testing.T) {
			w, m := booted(t)
			id := find(t, m).ID
			self, err := proc.Of(os.Getpid())
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Change(t.Context(), id, func(r *state.Record) error { r.Console = self; w.console[self.PID] = id; return nil }); err != nil {
				t.Fatal(err)
			}
			if cut {
				h, err := m.Store.Hold(t.Context(), time.Minute, id)
				if err != nil {
					t.Fatal(err)
				}
				h.Op = state.NewOperation(state.OpAutostop)
				if err := errors.Join(h.Save(), h.Close()); err != nil {
					t.Fatal(err)
				}
				w.domains[id].state = lxc.Shutoff
			} else if stopped, err := m.Autostop(t.Context()); err != nil || len(stopped) != 1 {
				t.Fatalf("stopped %q, %v", stopped, err)
			}
			status := uint32(0)
			if _, err := m.Ended(t.Context(), id, &status); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Repair(t.Context()); err != nil {
				t.Fatal(err)
			}
			if rec := find(t, m); rec.Want != state.Up || rec.Pending() != "" || rec.Exit == nil {
				t.Errorf("wanted %s, pending %q, exit %+v", rec.Want, rec.Pending(), rec.Exit)
			}
			if started, err := m.Autostart(t.Context()); err != nil || len(started) != 1 {
				t.Errorf("started %q, %v", started, err)
			}
		})
	}
}

// TestAutostopGivenUp: the host stays, and so does the container.
func TestAutostopGivenUp(t *testing.T) {
	w, m := booted(t)
	h, err := m.Store.Hold(t.Context(), time.Minute, "web1")
	if err != nil {
		t.Fatal(err)
	}
	h.Op = state.NewOperation(state.OpAutostop)
	if err := errors.Join(h.Save(), h.Close()); err != nil {
		t.Fatal(err)
	}
	did, err := m.Repair(t.Context())
	if rec := find(t, m); err != nil || len(did) != 1 || rec.Want != state.Up || rec.Pending() != "" || !strings.Contains(w.String(), lxc.Running) {
		t.Errorf("did %q, %v; wanted %s, pending %q:\n%s", did, err, rec.Want, rec.Pending(), w)
	}
}

// TestAutostop: what is stopped because the host goes down is started when it comes up.
func TestAutostop(t *testing.T) {
	w, m := booted(t)
	for range 2 { // the second time there is nothing to stop
		if _, err := m.Autostop(t.Context()); err != nil {
			t.Fatal(err)
		}
		rec := find(t, m)
		if s := w.String(); strings.Contains(s, lxc.Running) || strings.Contains(s, "loop ") || rec.Want != state.Up || rec.Pending() != "" {
			t.Fatalf("wanted %s, %q:\n%s", rec.Want, rec.Pending(), s)
		}
		m.Host.BootID += " and again"
	}
	if started, err := m.Autostart(t.Context()); err != nil || len(started) != 1 {
		t.Errorf("started %q, %v", started, err)
	}
	if _, err := m.Stop(t.Context(), "web1", true); err != nil {
		t.Fatal(err)
	}
	if stopped, err := m.Autostop(t.Context()); err != nil || len(stopped) != 0 || find(t, m).Want != state.Down {
		t.Errorf("stopped %q, %v", stopped, err)
	}
}
