package lxc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// Event is a change in a container's life, as libvirt tells of it.
type Event struct {
	At     time.Time
	ID     string
	Name   string // libvirt's, which is the instance's
	What   string // one of EventNames
	Detail string // how it came; may be empty
}

// EventNames are what can happen to a container.
var EventNames = []string{"defined", "started", "paused", "resumed", "ended", "undefined"}

var errUnwatched = failure.Of(ErrNoDaemon, "the connection to libvirtd has ended: what happens from now on is not seen")

// Watch tells of each event of all containers of libvirt's, until ctx ends (its cause is the
// error), tell fails, or libvirtd is lost, which is an ErrNoDaemon. It calls ready once no more
// events are missed. One process can watch once.
func Watch(ctx context.Context, uri string, ready func(), tell func(Event) error) error {
	// The loop has to be there before the connection that it serves.
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return fmt.Errorf("cannot watch libvirt: %w", err)
	}
	go func() {
		for ctx.Err() == nil {
			if err := libvirt.EventRunDefaultImpl(); err != nil {
				return
			}
		}
	}()
	h := Dial(ctx, uri)
	conn, err := ask(ctx, h, "events", func(c *libvirt.Connect) (*libvirt.Connect, error) { return c, c.Ref() })
	if err != nil {
		return err
	}
	defer conn.Close()
	events := make(chan Event, 1000)
	lost := make(chan struct{}, 1)
	_, err = ask(ctx, h, "events", func(*libvirt.Connect) (int, error) {
		closed := conn.RegisterCloseCallback(func(*libvirt.Connect, libvirt.ConnectCloseReason) { lost <- struct{}{} })
		_ = conn.SetKeepAlive(5, 3) // a libvirtd of this host without it is watched all the same
		id, err := conn.DomainEventLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventLifecycle) {
			event := Event{At: time.Now()}
			event.What, event.Detail = eventWords(e)
			event.ID, _ = d.GetUUIDString()
			event.Name, _ = d.GetName()
			if event.What != "" {
				events <- event
			}
		})
		return id, errors.Join(closed, err)
	})
	if err != nil {
		return err
	}
	ready()
	for {
		select {
		case e := <-events:
			if err := tell(e); err != nil {
				return err
			}
		case <-lost:
			return errUnwatched
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// eventWords names an event and how it came; empty: it is none that containers have.
func eventWords(e *libvirt.DomainEventLifecycle) (what, detail string) {
	pick := func(words ...string) string {
		if e.Detail < len(words) {
			return words[e.Detail]
		}
		return ""
	}
	switch e.Event {
	case libvirt.DOMAIN_EVENT_DEFINED:
		return "defined", pick("added", "updated", "renamed")
	case libvirt.DOMAIN_EVENT_UNDEFINED:
		return "undefined", pick("removed", "renamed")
	case libvirt.DOMAIN_EVENT_STARTED:
		return "started", pick("booted")
	case libvirt.DOMAIN_EVENT_SUSPENDED:
		return "paused", ""
	case libvirt.DOMAIN_EVENT_RESUMED:
		return "resumed", ""
	case libvirt.DOMAIN_EVENT_STOPPED:
		return "ended", pick("shutdown", "destroyed", "crashed", "migrated", "saved", "failed")
	case libvirt.DOMAIN_EVENT_CRASHED:
		return "ended", "crashed"
	}
	return "", ""
}
