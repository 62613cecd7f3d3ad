package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newAutostartCmd() *cobra.Command {
	var stop bool
	c := &cobra.Command{
		Use: "autostart", Short: "Start the instances that were running when the host went down", Args: cobra.NoArgs,
		Long: `Start the instances that were running when the host went down. With --stop, stop those
that run, all at once, so that the next autostart starts them again: for a host that is
about to go down.`,
		RunE: func(c *cobra.Command, args []string) error {
			open, what, do := a.storeManager, "started", (*instance.Manager).Autostart
			if stop {
				open, what, do = a.manager, "stopped", (*instance.Manager).Autostop
			}
			return withManager(open, func(ctx context.Context, m *instance.Manager, _ []string) error {
				names, err := do(m, ctx)
				for _, name := range names {
					a.say("%s %s", what, name)
				}
				return err
			})(c, args)
		},
	}
	c.Flags().BoolVar(&stop, "stop", false, "stop those that run, and leave them to the next autostart")
	stopTimeoutFlag(c, time.Minute)
	return c
}
