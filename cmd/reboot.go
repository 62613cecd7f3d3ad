package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newRebootCmd() *cobra.Command {
	var hard bool
	c := a.eachInstance("reboot", "Stop instances and start them again", a.storeManager, func(ctx context.Context, m *instance.Manager, ref string) error {
		_, err := m.Reboot(ctx, ref, hard)
		return err
	})
	c.Flags().BoolVar(&hard, "hard", false, "end the container without asking its init")
	c.Flags().Bool("poll", false, "accepted: reboot always waits until the instance runs")
	return c
}
