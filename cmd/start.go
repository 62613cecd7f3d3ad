package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newStartCmd() *cobra.Command {
	return a.eachInstance("start", "Start stopped instances", a.storeManager, func(ctx context.Context, m *instance.Manager, ref string) error {
		_, err := m.Start(ctx, ref)
		return err
	})
}
