package cmd

import (
	"github.com/spf13/cobra"
)

func (a *App) newShowCmd() *cobra.Command {
	var usage bool
	c := &cobra.Command{
		Use: "show INSTANCE", Short: "Show an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := a.manager(c.Context())
			if err != nil {
				return err
			}
			v, err := m.Show(c.Context(), args[0])
			if err != nil {
				return err
			}
			if usage && !v.Domain.Active() {
				return notRunning(v)
			}
			r := instanceRecord(v)
			if usage {
				u, err := a.domains.Usage(c.Context(), v.ID)
				if err != nil {
					return err
				}
				r = append(r, record{{"memory_bytes", u.MemoryBytes}, {"memory_limit_bytes", u.MemoryLimit}, {"cpu_seconds", u.CPUTime.Seconds()}, {"cpu_limit", u.CPULimit},
					{"block_read_bytes", u.BlockReadBytes}, {"block_write_bytes", u.BlockWriteBytes}, {"processes", u.Processes}}...)
			}
			return a.printRecord(r)
		},
	}
	c.Flags().BoolVar(&usage, "usage", false, "also what the container uses now")
	return c
}
