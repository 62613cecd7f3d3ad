package cmd

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/state"
)

func (a *App) newUnsetCmd() *cobra.Command {
	var keys, tags []string
	c := &cobra.Command{
		Use: "unset INSTANCE", Short: "Remove metadata and tags of an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		RunE: func(c *cobra.Command, args []string) error {
			if len(keys)+len(tags) == 0 {
				return failure.Invalid("unset needs --property KEY or --tag TAG")
			}
			return withManager(a.manager, a.timed(func(ctx context.Context, m *instance.Manager, args []string) error {
				return m.Change(ctx, args[0], func(r *state.Record) error {
					for _, k := range keys {
						if _, ok := r.Meta[k]; !ok {
							return failure.Invalid("instance %q has no property %q", r.Name, k)
						}
						delete(r.Meta, k)
					}
					for _, tag := range tags {
						if !slices.Contains(r.Spec.Tags, tag) {
							return failure.Invalid("instance %q has no tag %q", r.Name, tag)
						}
						r.Spec.Tags = slices.DeleteFunc(r.Spec.Tags, func(t string) bool { return t == tag })
					}
					return nil
				})
			}))(c, args)
		},
	}
	c.Flags().StringArrayVar(&keys, "property", nil, "KEY (can be repeated)")
	c.Flags().StringArrayVar(&tags, "tag", nil, "TAG (can be repeated)")
	return c
}
