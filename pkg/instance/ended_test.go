package instance

import (
	"context"
	"os"
	"reflect"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// TestExit has the process that kept a console hand in how the init ended, when that
// ended by itself, and when a stop that had the lock has settled all else before: it is
// in the record, but not in that of a life that another process keeps. A stop that kills
// it knows better.
func TestExit(t *testing.T) {
	ctx := context.Background()
	self, err := proc.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	status := uint32(3 << 8)
	stop := func(force bool) func(*testing.T, *world, *Manager, string) {
		return func(t *testing.T, _ *world, m *Manager, id string) {
			if _, err := m.Stop(ctx, id, force); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		end          func(*testing.T, *world, *Manager, string)
		told, untold int // exit codes; -1: none
	}{
		"by itself": {func(_ *testing.T, w *world, _ *Manager, id string) { w.domains[id].state = lxc.Shutoff }, 3, -1},
		"by a stop": {stop(false), 3, -1},
		"by force":  {stop(true), 137, 137},
	} {
		t.Run(name, func(t *testing.T) {
			w, m := booted(t)
			id := find(t, m).ID
			keeps := func(p proc.Process) {
				t.Helper()
				h, err := m.Store.Hold(ctx, 0, id)
				if err != nil {
					t.Fatal(err)
				}
				defer h.Close()
				h.Console = p
				if err := h.Save(); err != nil {
					t.Fatal(err)
				}
			}
			ended := func(want int) {
				t.Helper()
				if _, err := m.Ended(ctx, id, &status); err != nil {
					t.Fatal(err)
				}
				r, err := m.Store.Find(id)
				got := -1
				if r.Exit != nil {
					got = r.Exit.Code()
				}
				if err != nil || got != want {
					t.Errorf("exit code %d instead of %d, %v", got, want, err)
				}
			}
			keeps(self)
			c.end(t, w, m, id)
			ended(c.told)
			// The next life is another's.
			if _, err := m.Start(ctx, id); err != nil {
				t.Fatal(err)
			}
			ended(-1)
			c.end(t, w, m, id)
			ended(c.untold)
		})
	}
}

// gated is a kernel and consoles that see whether the init is held while its console is
// opened, and with it the look at how it ends.
type gated struct {
	kernelFake
	Consoles
	let, early bool
	finished   bool // and whether it is held while that is done which libvirt leaves
}

type gate func()

func (g gate) Release() { g() }

func (g *gated) Ready() error { return nil }

func (g *gated) Hold(string) (Gate, error) { return gate(func() { g.let = true }), nil }

func (g *gated) Open(container lxc.Live) (Console, error) {
	g.early = g.let
	return g.Consoles.Open(container)
}

func (g *gated) Finish(string, int, []lxc.Interface) error {
	g.finished = !g.let
	return nil
}

// TestInitIsHeld: an init that ends at once is seen to end, and so it is let go once
// somebody looks, and what libvirt leaves undone is done before.
func TestInitIsHeld(t *testing.T) {
	store, err := state.Open(memDir(t), memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	m := w.manager(store)
	g := &gated{kernelFake: kernelFake{w}, Consoles: m.Consoles}
	m.Kernel, m.Consoles = g, g
	if _, err := m.Boot(context.Background(), testPlan()); err != nil {
		t.Fatal(err)
	}
	if g.early || !g.let || !g.finished {
		t.Errorf("let go: %v, before somebody looked: %v; finished before: %v", g.let, g.early, g.finished)
	}
}

// launchSeen is a kernel that notes what the container's first process is told.
type launchSeen struct {
	kernelFake
	last *lxc.Launch
}

func (k launchSeen) Launch(dir string, l lxc.Launch) error {
	*k.last = l
	return k.kernelFake.Launch(dir, l)
}

// TestLaunchOrders: what was asked of the container comes to its first process, as it was.
func TestLaunchOrders(t *testing.T) {
	store, err := state.Open(memDir(t), memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	m := w.manager(store)
	var got lxc.Launch
	m.Kernel = launchSeen{kernelFake{w}, &got}
	plan := testPlan()
	plan.Spec.InitArgs, plan.Spec.Env = []string{"", "a b"}, map[string]string{"EMPTY": ""}
	for range 2 {
		plan.Spec.Unfiltered = !plan.Spec.Unfiltered
		plan.Spec.Privileged = !plan.Spec.Privileged
		if _, err := m.Boot(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		want := lxc.Launch{Init: "/sbin/init", Args: plan.Spec.InitArgs, Env: plan.Spec.Env, Hostname: "web1", Privileged: plan.Spec.Privileged, Unfiltered: plan.Spec.Unfiltered}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("it is told %+v instead of %+v", got, want)
		}
		if _, err := m.Delete(t.Context(), "web1"); err != nil {
			t.Fatal(err)
		}
	}
}
