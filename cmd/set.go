package cmd

import (
	"context"
	"maps"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/state"
)

func (a *App) newSetCmd() *cobra.Command {
	var pairs, tagged []string
	var description, restart string
	c := &cobra.Command{
		Use: "set INSTANCE", Short: "Set metadata, tags, the description or the restart policy of an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		RunE: func(c *cobra.Command, args []string) error {
			meta, err := keyValues("--property", pairs)
			if err != nil {
				return err
			}
			tags, err := instanceTags("--tag", tagged)
			if err != nil {
				return err
			}
			policy, err := state.ParseRestart(restart)
			if err != nil {
				return err
			}
			if len(meta) == 0 && len(tags) == 0 && !c.Flags().Changed("description") && !c.Flags().Changed("restart") {
				return failure.Invalid("set needs --property KEY=VALUE, --tag TAG, --description TEXT or --restart POLICY")
			}
			change := func(r *state.Record) error {
				if r.Meta == nil {
					r.Meta = map[string]string{}
				}
				maps.Copy(r.Meta, meta)
				if r.Spec.Tags, err = addTags(r.Spec.Tags, tags); err != nil {
					return err
				}
				if c.Flags().Changed("description") {
					r.Spec.Description = description
				}
				if c.Flags().Changed("restart") {
					if r.Caller.Name != "" && policy.When != "" {
						return failure.Of(state.ErrState, "instance %q was booted by %s, which sees to it", r.Name, r.Caller.Name)
					}
					r.Spec.Restart = policy
				}
				return nil
			}
			return withManager(a.manager, a.timed(func(ctx context.Context, m *instance.Manager, args []string) error {
				return m.Change(ctx, args[0], change)
			}))(c, args)
		},
	}
	c.Flags().StringArrayVar(&pairs, "property", nil, "KEY=VALUE (can be repeated)")
	c.Flags().StringArrayVar(&tagged, "tag", nil, "tag to add (can be repeated)")
	c.Flags().StringVar(&description, "description", "", "description of the instance")
	c.Flags().StringVar(&restart, "restart", "", "no, always, on-failure or on-failure:N: start it again when it has ended by itself")
	return c
}
