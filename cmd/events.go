package cmd

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

func (a *App) newEventsCmd() *cobra.Command {
	var kinds []string
	c := &cobra.Command{
		Use: "events [INSTANCE...]", Short: "Tell what happens to instances, as it happens", ValidArgsFunction: a.completer(a.instanceNames, true),
		Long: `Tell what happens to the instances of this host, or to those that are named, as libvirt
sees it: each event in a line, until it is interrupted. With -f json each line is an object.
The exit code is 5 when libvirtd ends: what happened until the next call was missed.

An event is defined, started, paused, resumed, ended or undefined. A container that is
rebooted has ended and was started. What is amiss with an instance, and the exit code of
its init, show has.`,
		Example: `  lxcboot events --event ended -f json | while read -r event; do …; done`,
		RunE: func(c *cobra.Command, args []string) error {
			for _, k := range kinds {
				if !slices.Contains(lxc.EventNames, k) {
					return failure.Invalid("--event %q is not one of %s", k, strings.Join(lxc.EventNames, ", "))
				}
			}
			if a.print.Format == "yaml" {
				return failure.Invalid("events: each is a line, which YAML has not: use -f json")
			}
			if err := a.print.Check(eventColumns); err != nil {
				return err
			}
			return a.events(c.Context(), args, kinds)
		},
	}
	c.Flags().StringArrayVar(&kinds, "event", nil, "only of this kind (can be repeated)")
	_ = c.RegisterFlagCompletionFunc("event", cobra.FixedCompletions(lxc.EventNames, cobra.ShellCompDirectiveNoFileComp))
	return c
}

var eventColumns = []string{"Time", "Event", "Name", "ID", "Detail"}

// events tells of events until ctx ends, which is how it ends.
func (a *App) events(ctx context.Context, refs, kinds []string) error {
	if err := needRoot(); err != nil {
		return err
	}
	store, err := a.records()
	if err != nil {
		return err
	}
	var ids []string
	for _, ref := range refs {
		rec, err := store.Find(ref)
		if err != nil {
			return err
		}
		ids = append(ids, rec.ID)
	}
	ours, err := ourInstances(store)
	if err != nil {
		return err
	}
	err = lxc.Watch(ctx, a.settings.Connect, func() { a.say("waiting for events; an interrupt ends it") }, func(e lxc.Event) error {
		if !ours(e.ID) || len(ids) > 0 && !slices.Contains(ids, e.ID) || len(kinds) > 0 && !slices.Contains(kinds, e.What) {
			return nil
		}
		return a.print.Line(record{{"Time", e.At}, {"Event", e.What}, {"Name", e.Name}, {"ID", e.ID}, {"Detail", e.Detail}})
	})
	if _, interrupted := errors.AsType[*interruptedError](err); interrupted {
		return nil
	}
	return err
}

// ourInstances tells instances of this state directory from other domains of libvirt's. Of one
// that is deleted the last event comes when its record may be gone.
func ourInstances(store *state.Store) (func(id string) bool, error) {
	all, err := store.List()
	if err != nil && !errors.Is(err, state.ErrDamaged) {
		return nil, err
	}
	known := map[string]bool{}
	for _, rec := range all {
		known[rec.ID] = true
	}
	return func(id string) bool {
		if !known[id] {
			_, err := store.Find(id)
			known[id] = !errors.Is(err, state.ErrNotFound)
		}
		return known[id]
	}, nil
}
