package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newStopCmd() *cobra.Command {
	var force bool
	c := a.eachInstance("stop", "Stop instances", a.manager, func(ctx context.Context, m *instance.Manager, ref string) error {
		_, err := m.Stop(ctx, ref, force)
		return err
	})
	c.Long = "Ask the container's init to end, and end it when it has not after --stop-timeout (60 s). The volumes stay attached."
	c.Flags().BoolVar(&force, "force", false, "end it at once")
	stopTimeoutFlag(c, time.Minute)
	return c
}

func stopTimeoutFlag(c *cobra.Command, usual time.Duration) {
	c.Flags().Duration("stop-timeout", usual, "how long the container has to end by itself")
}
