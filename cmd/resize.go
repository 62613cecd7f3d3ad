package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/flavor"
	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newResizeCmd() *cobra.Command {
	var ref string
	c := &cobra.Command{
		Use: "resize INSTANCE --flavor FLAVOR", Short: "Give an instance the memory and CPUs of another flavor", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		Long: `Give an instance the memory and the CPUs of another flavor, at once also while it runs.
There is nothing to confirm. Disks, swap and ephemeral disks stay as they are: a volume is
made larger with lxcboot volume extend. A running one that uses more memory than the flavor
has, with its page cache, is refused: its programs would be ended.`,
		Example: "  lxcboot resize web1 --flavor m1.medium",
		RunE: func(c *cobra.Command, args []string) error {
			to, err := a.flavor(ref)
			if err != nil {
				return err
			}
			return withManager(a.manager, a.timed(func(ctx context.Context, m *instance.Manager, args []string) error {
				return a.resize(ctx, m, args[0], to)
			}))(c, args)
		},
	}
	c.Flags().StringVar(&ref, "flavor", "", "name or id of the flavor")
	_ = c.MarkFlagRequired("flavor")
	_ = c.RegisterFlagCompletionFunc("flavor", a.completer(a.flavorNames, true))
	return c
}

func (a *App) resize(ctx context.Context, m *instance.Manager, ref string, to flavor.Flavor) error {
	from, err := m.Resize(ctx, ref, to)
	if err == nil && (to.DiskGiB != from.DiskGiB || to.EphemeralGiB != from.EphemeralGiB) {
		a.warn("the disks of instance %q stay as they are, and flavor %q has others: %d GiB, and %d GiB ephemeral; lxcboot volume extend makes a volume larger", ref, to.Name, to.DiskGiB, to.EphemeralGiB)
	}
	return err
}
