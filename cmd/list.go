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
	var all, long, hosts bool
	var statuses []string
	var name string
	c := &cobra.Command{
		Use: "list", Short: "List instances", Args: cobra.NoArgs,
		Long: `List the instances of this host: their records, and what libvirt says of them.

With --all-hosts, list those of all hosts that use the volume store, a cloud's project or a
shared directory, by what is noted on the volumes that they hold: instance, host, and since
when. It is a hint: an instance without a volume there is missing, the name is that of when
it took the volume, and whether it runs its own host alone knows.`,
		RunE: func(c *cobra.Command, args []string) error {
			for _, s := range statuses {
				if !slices.Contains(instance.Statuses, strings.ToUpper(s)) {
					return failure.Invalid("--status %q is not one of %s", s, strings.Join(instance.Statuses, ", "))
				}
			}
			if hosts {
				if len(statuses) > 0 {
					return failure.Invalid("--status and --all-hosts exclude each other: of what state an instance of another host is, that host alone knows")
				}
				return a.printClaimed(c.Context(), name, long)
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
	c.Flags().BoolVar(&hosts, "all-hosts", false, "those of all hosts, as their volumes show them: a hint")
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
