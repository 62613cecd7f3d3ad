package cmd

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/state"
)

func (a *App) newListCmd() *cobra.Command {
	var all, long bool
	var statuses []string
	var name string
	c := &cobra.Command{
		Use: "list", Short: "List instances", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, args []string) error {
			for _, s := range statuses {
				if !slices.Contains(instance.Statuses, strings.ToUpper(s)) {
					return failure.Invalid("--status %q is not one of %s", s, strings.Join(instance.Statuses, ", "))
				}
			}
			return withManager(a.manager, func(ctx context.Context, m *instance.Manager, _ []string) error {
				views, damaged := m.List(ctx)
				if damaged != nil && !errors.Is(damaged, state.ErrDamaged) {
					return damaged
				}
				views = slices.DeleteFunc(views, func(v instance.View) bool {
					return len(statuses) > 0 && !slices.ContainsFunc(statuses, func(s string) bool { return strings.EqualFold(s, v.Status) }) ||
						!strings.Contains(v.Name, name)
				})
				return errors.Join(a.printInstances(views, long), damaged)
			})(c, args)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "accepted: all instances are always listed")
	c.Flags().BoolVar(&long, "long", false, "more columns")
	c.Flags().StringArrayVar(&statuses, "status", nil, "only of this status (can be repeated)")
	c.Flags().StringVar(&name, "name", "", "only with this in their name")
	_ = c.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(instance.Statuses, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// instanceColumns are what every list of instances has.
var instanceColumns = []string{"ID", "Name", "Status", "Flavor", "Created", "Networks"}

func (a *App) printInstances(views []instance.View, long bool) error {
	l := listing{Columns: slices.Clone(instanceColumns)}
	if long {
		l.Columns = append(l.Columns, "Image", "Host", "Volumes", "Note")
	}
	for _, v := range views {
		row := []any{v.ID, v.Name, v.Status, v.Spec.Flavor.Name, v.CreatedAt, addresses(v.NICs)}
		if long {
			row = append(row, image(v), v.Host.Name, volumeIDs(v), v.Note)
		}
		l.Rows = append(l.Rows, row)
	}
	return a.print.List(l)
}
