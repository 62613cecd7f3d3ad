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
	var description string
	c := &cobra.Command{
		Use: "set INSTANCE", Short: "Set metadata, tags or the description of an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		RunE: func(c *cobra.Command, args []string) error {
			meta, err := keyValues("--property", pairs)
			if err != nil {
				return err
			}
			tags, err := instanceTags("--tag", tagged)
			if err != nil {
				return err
			}
			if len(meta) == 0 && len(tags) == 0 && !c.Flags().Changed("description") {
				return failure.Invalid("set needs --property KEY=VALUE, --tag TAG or --description TEXT")
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
	return c
}
