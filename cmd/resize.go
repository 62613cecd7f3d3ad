package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/flavor"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/report"
	"github.com/lxcboot/lxcboot/pkg/state"
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
	v, err := m.Show(ctx, ref)
	if err != nil {
		return err
	}
	if v.Domain.Active() {
		u, err := a.domains.Usage(ctx, v.ID)
		if err != nil {
			return err
		}
		if limit := int64(to.MemoryMiB) << 20; u.MemoryBytes > limit {
			return &hintError{failure.Of(state.ErrState, "instance %q uses %s of memory, with its page cache, and the flavor %q has %s", v.Name, report.Bytes(u.MemoryBytes).Human(), to.Name, report.Bytes(limit).Human()),
				"lxcboot stop it, resize it, and start it; or, where that is page cache, try again later"}
		}
	}
	from, err := m.Resize(ctx, v.ID, to)
	if err == nil && (to.DiskGiB != from.DiskGiB || to.EphemeralGiB != from.EphemeralGiB) {
		a.warn("the disks of instance %q stay as they are, and flavor %q has others: %d GiB, and %d GiB ephemeral; lxcboot volume extend makes a volume larger", v.Name, to.Name, to.DiskGiB, to.EphemeralGiB)
	}
	return err
}
