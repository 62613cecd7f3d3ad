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
	var f filters
	c := &cobra.Command{
		Use: "list", Short: "List instances", Args: cobra.NoArgs,
		Long: `List the instances of this host: their records, and what libvirt says of them.
Of --tag and --meta all have to hold, of --status one.

With --all-hosts, list those of all hosts that use the volume store, a cloud's project or a
shared directory, by what is noted on the volumes that they hold: instance, host, and since
when. It is a hint: an instance without a volume there is missing, the name is that of when
it took the volume, and whether it runs its own host alone knows.`,
		Example: `  lxcboot list --all-hosts
  lxcboot list --status active --tag web --sort created:desc
  lxcboot list --name web -f value -c Name | xargs lxcboot stop`,
		RunE: func(c *cobra.Command, args []string) error {
			for _, s := range f.statuses {
				if !slices.Contains(instance.Statuses, strings.ToUpper(s)) {
					return failure.Invalid("--status %q is not one of %s", s, strings.Join(instance.Statuses, ", "))
				}
			}
			if err := f.parse("--meta"); err != nil {
				return err
			}
			if hosts {
				for flag, given := range map[string][]string{"status": f.statuses, "tag": f.tags, "meta": f.properties} {
					if len(given) > 0 {
						return failure.Invalid("--%s and --all-hosts exclude each other: that an instance of another host has, that host alone knows", flag)
					}
				}
				return a.printClaimed(c.Context(), f, long)
			}
			err := withManager(a.manager, func(ctx context.Context, m *instance.Manager, _ []string) error {
				views, damaged := m.List(ctx)
				if damaged != nil && !errors.Is(damaged, state.ErrDamaged) {
					return damaged
				}
				views = slices.DeleteFunc(views, func(v instance.View) bool {
					return !f.take(facts{v.Name, v.Status, v.Spec.Tags, v.Meta, []string{v.Host.Name, v.Host.ID}})
				})
				return errors.Join(a.printInstances(views, f, long), damaged)
			})(c, args)
			if errors.Is(err, errNoState) {
				a.noneYet()
				return a.printInstances(nil, f, long)
			}
			return err
		},
	}
	f.bind(c)
	c.Flags().BoolVar(&all, "all", false, "accepted: all instances are always listed")
	c.Flags().BoolVar(&hosts, "all-hosts", false, "those of all hosts, as their volumes show them: a hint")
	c.Flags().BoolVar(&long, "long", false, "more columns")
	c.Flags().StringVar(&f.host, "host", "", "only of this host, by its name or id")
	c.Flags().StringArrayVar(&f.tags, "tag", nil, "only with this tag (can be repeated)")
	c.Flags().StringArrayVar(&f.properties, "meta", nil, "only with this KEY=VALUE, or KEY, in their metadata (can be repeated)")
	_ = c.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(instance.Statuses, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// instanceColumns are what every list of instances has.
var instanceColumns = []string{"ID", "Name", "Status", "Flavor", "Created", "Networks"}

func (a *App) printInstances(views []instance.View, f filters, long bool) error {
	l := listing{Columns: append(slices.Clone(instanceColumns), "Image", "Host", "Volumes", "Note", "Tags")}
	for _, v := range views {
		l.Rows = append(l.Rows, []any{v.ID, v.Name, v.Status, v.Spec.Flavor.Name, v.CreatedAt, addresses(v.NICs), image(v), v.Host.Name, volumeIDs(v), v.Note, v.Spec.Tags})
	}
	columns := len(l.Columns)
	if !long {
		columns = len(instanceColumns)
	}
	return f.printSome(a, l, columns)
}
