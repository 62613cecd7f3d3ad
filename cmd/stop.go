package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newStopCmd() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "stop INSTANCE...", Short: "Stop instances", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completer(a.instanceNames, true),
		Long: "Ask the container's init to end, and end it when it has not after --stop-timeout (60 s). The volumes stay attached.",
		RunE: a.withEach(func(ctx context.Context, m *instance.Manager, ref string) error {
			_, err := m.Stop(ctx, ref, force)
			return err
		}),
	}
	c.Flags().BoolVar(&force, "force", false, "end it at once")
	a.stopTimeoutFlag(c)
	return c
}

func (a *App) stopTimeoutFlag(c *cobra.Command) {
	c.Flags().Duration("stop-timeout", time.Minute, "how long the container has to end by itself")
}
