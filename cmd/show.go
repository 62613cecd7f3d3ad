package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/report"
)

func (a *App) newShowCmd() *cobra.Command {
	var usage, definition bool
	c := &cobra.Command{
		Use: "show INSTANCE", Short: "Show an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case definition && usage:
				return failure.Invalid("--definition says nothing of what is used; leave --usage out")
			case definition:
				return a.showDefinition(args[0])
			case usage:
				return withManager(a.manager, a.showUsage)(c, args)
			}
			return withManager(a.manager, a.show)(c, args)
		},
	}
	c.Flags().BoolVar(&usage, "usage", false, "also what the container uses now")
	c.Flags().BoolVar(&definition, "definition", false, "what boot --from takes to boot it on another host, in JSON")
	return c
}

func (a *App) show(ctx context.Context, m *instance.Manager, args []string) error {
	v, err := m.Show(ctx, args[0])
	if err != nil {
		return err
	}
	return a.print.Record(instanceRecord(v))
}

func (a *App) showUsage(ctx context.Context, m *instance.Manager, args []string) error {
	v, err := running(ctx, m, args[0])
	if err != nil {
		return err
	}
	u, err := a.domains.Usage(ctx, v.ID)
	if err != nil {
		return err
	}
	return a.print.Record(append(instanceRecord(v), record{{"memory_bytes", report.Bytes(u.MemoryBytes)}, {"memory_limit_bytes", report.Bytes(u.MemoryLimit)}, {"cpu_seconds", u.CPUTime.Seconds()},
		{"cpu_limit", u.CPULimit}, {"block_read_bytes", report.Bytes(u.BlockReadBytes)}, {"block_write_bytes", report.Bytes(u.BlockWriteBytes)}, {"processes", u.Processes}}...))
}
