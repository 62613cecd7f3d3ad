package instance

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// Which ends are followed by a start, and after which pauses.
func TestRestarts(t *testing.T) {
	const soon, late = time.Second, 10 * time.Second
	failed, well := &state.Exit{Status: 3 << 8}, &state.Exit{}
	type end struct {
		exit *state.Exit
		ran  time.Duration
	}
	again := func(e end, n int) []end { return slices.Repeat([]end{e}, n) }
	s := time.Second
	for policy, tt := range map[string]struct {
		ends []end
		want []time.Duration
	}{
		"no":           {[]end{{failed, soon}, {nil, soon}}, []time.Duration{0, 0}},
		"on-failure":   {[]end{{failed, soon}, {nil, soon}, {well, soon}}, []time.Duration{s, 2 * s, 0}},
		"always":       {again(end{well, soon}, 9), []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s, 60 * s}},
		"on-failure:2": {[]end{{failed, soon}, {failed, soon}, {failed, soon}, {failed, late}, {failed, late}, {failed, soon}, {failed, soon}}, []time.Duration{s, 2 * s, 0, s, s, 2 * s, 0}},
	} {
		p, err := state.ParseRestart(policy)
		if err != nil {
			t.Fatal(err)
		}
		h := &Handle{Held: &state.Held{Record: state.Record{Spec: state.Spec{Restart: p}}}}
		var got []time.Duration
		for _, e := range tt.ends {
			h.Exit = e.exit
			got = append(got, h.restarts(e.ran))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, and not %v", policy, got, tt.want)
		}
	}
}

// thisKeeps is a process that keeps each console: this one, which lives.
type thisKeeps struct{ consolesFake }

func (thisKeeps) Alive(p proc.Process) bool { return p.PID == os.Getpid() }

// TestAgain: what ended by itself is started again by who kept its console, also when another
// command came by before, and not when a stop or a delete did.
func TestAgain(t *testing.T) {
	self, err := proc.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		meanwhile func(t *testing.T, m *Manager) // before the end is handed in
		pausing   func(t *testing.T, m *Manager) // and after
		runs      bool
	}{
		"":          {runs: true},
		"repair":    {meanwhile: func(t *testing.T, m *Manager) { m.Repair(t.Context()) }, runs: true},
		"repairs":   {pausing: func(t *testing.T, m *Manager) { m.Repair(t.Context()) }, runs: true},
		"stop":      {meanwhile: func(t *testing.T, m *Manager) { m.Stop(t.Context(), "web1", false) }},
		"stopped":   {pausing: func(t *testing.T, m *Manager) { m.Stop(t.Context(), "web1", false) }},
		"goes down": {pausing: func(_ *testing.T, m *Manager) { m.Stopping = func(context.Context) bool { return true } }},
		"delete":    {pausing: func(t *testing.T, m *Manager) { m.Delete(t.Context(), "web1") }},
	} {
		t.Run(name, func(t *testing.T) {
			w, m := booted(t)
			m.Consoles = thisKeeps{consolesFake{w}}
			id := find(t, m).ID
			err := m.Change(t.Context(), id, func(r *state.Record) error {
				r.Spec.Restart, r.Console = state.Restart{When: state.RestartAlways}, self
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			w.domains[id].state = lxc.Shutoff
			if tt.meanwhile != nil {
				tt.meanwhile(t, m)
			}
			status := uint32(0)
			pause, err := m.Ended(t.Context(), id, &status)
			if err != nil || (pause > 0) != (tt.meanwhile == nil || tt.runs) {
				t.Fatalf("a pause of %v: %v", pause, err)
			}
			if pause > 0 {
				if v, err := m.Show(t.Context(), id); err != nil || v.Status != StatusShutoff || v.Note != "it ended, and is started again (always)" {
					t.Errorf("%s %q, %v", v.Status, v.Note, err)
				}
			}
			if tt.pausing != nil {
				tt.pausing(t, m)
			}
			if err := m.Again(t.Context(), id); err != nil {
				t.Error(err)
			}
			if rec, err := m.Store.Find(id); name == "goes down" && (err != nil || rec.Want != state.Up) {
				t.Errorf("it is wanted %s: %v", rec.Want, err)
			}
			if d := w.domains[id]; (d != nil && d.state == lxc.Running) != tt.runs {
				t.Errorf("it runs: %v", !tt.runs)
			}
		})
	}
}
