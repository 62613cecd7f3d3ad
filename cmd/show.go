package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newShowCmd() *cobra.Command {
	var usage bool
	c := &cobra.Command{
		Use: "show INSTANCE", Short: "Show an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		RunE: withManager(a.manager, func(ctx context.Context, m *instance.Manager, args []string) error {
			if !usage {
				v, err := m.Show(ctx, args[0])
				if err != nil {
					return err
				}
				return a.print.Record(instanceRecord(v))
			}
			v, err := running(ctx, m, args[0])
			if err != nil {
				return err
			}
			u, err := a.domains.Usage(ctx, v.ID)
			if err != nil {
				return err
			}
			return a.print.Record(append(instanceRecord(v), record{{"memory_bytes", u.MemoryBytes}, {"memory_limit_bytes", u.MemoryLimit}, {"cpu_seconds", u.CPUTime.Seconds()},
				{"cpu_limit", u.CPULimit}, {"block_read_bytes", u.BlockReadBytes}, {"block_write_bytes", u.BlockWriteBytes}, {"processes", u.Processes}}...))
		}),
	}
	c.Flags().BoolVar(&usage, "usage", false, "also what the container uses now")
	return c
}
