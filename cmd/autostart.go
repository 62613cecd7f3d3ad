package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newAutostartCmd() *cobra.Command {
	return &cobra.Command{
		Use: "autostart", Short: "Start the instances that were running when the host went down", Args: cobra.NoArgs,
		RunE: withManager(a.storeManager, func(ctx context.Context, m *instance.Manager, _ []string) error {
			started, err := m.Autostart(ctx)
			for _, name := range started {
				a.say("started %s", name)
			}
			return err
		}),
	}
}
