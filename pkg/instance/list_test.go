package instance

import (
	"context"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/lxc"
)

// counted counts how often libvirt is asked for one container.
type counted struct {
	domainsFake
	states *int
}

func (c counted) State(ctx context.Context, id string) (lxc.Info, error) {
	*c.states++
	return c.domainsFake.State(ctx, id)
}

// A list asks libvirt once for all that run, and once for each that does not.
func TestListAsksOnce(t *testing.T) {
	w, m := booted(t)
	states := 0
	m.Domains = counted{domainsFake{w}, &states}
	views, err := m.List(t.Context())
	if err != nil || len(views) != 1 || views[0].Status != StatusActive || states != 0 {
		t.Errorf("%+v, %v; libvirt was asked %d times for one that runs", views, err, states)
	}
	if _, err := m.Stop(t.Context(), "web1", true); err != nil {
		t.Fatal(err)
	}
	states = 0
	if views, err = m.List(t.Context()); err != nil || len(views) != 1 || views[0].Status != StatusShutoff || states != 1 {
		t.Errorf("%+v, %v; libvirt was asked %d times for one that is off", views, err, states)
	}
}
