package cmd

import (
	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/flavor"
)

func (a *App) newFlavorCmd() *cobra.Command {
	c := &cobra.Command{Use: "flavor", Short: "Show flavors"}
	c.AddCommand(
		&cobra.Command{Use: "list", Short: "List flavors", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			all, err := a.flavors()
			if err != nil {
				return err
			}
			l := listing{Columns: []string{"ID", "Name", "RAM", "Disk", "Ephemeral", "VCPUs", "Swap"}, Units: map[string]string{"RAM": "MiB", "Disk": "GiB", "Ephemeral": "GiB", "Swap": "MiB"}}
			for _, f := range all {
				l.Rows = append(l.Rows, []any{f.ID, f.Name, f.MemoryMiB, f.DiskGiB, f.EphemeralGiB, f.VCPUs, f.SwapMiB})
			}
			return a.print.List(l)
		}},
		&cobra.Command{Use: "show FLAVOR", Short: "Show a flavor", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.flavorNames, false), RunE: func(_ *cobra.Command, args []string) error {
			f, err := a.flavor(args[0])
			if err != nil {
				return err
			}
			return a.print.Record(record{{"id", f.ID}, {"name", f.Name}, {"ram", f.MemoryMiB}, {"disk", f.DiskGiB}, {"ephemeral", f.EphemeralGiB}, {"vcpus", f.VCPUs}, {"swap", f.SwapMiB}})
		}})
	return c
}

// flavor is the flavor of that name or id.
func (a *App) flavor(ref string) (flavor.Flavor, error) {
	all, err := a.flavors()
	if err != nil {
		return flavor.Flavor{}, err
	}
	return all.Find(ref)
}

// flavors are the flavors there are.
func (a *App) flavors() (flavor.Flavors, error) { return flavor.New(a.settings.Flavors) }
