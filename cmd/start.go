package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newStartCmd() *cobra.Command {
	return &cobra.Command{
		Use: "start INSTANCE...", Short: "Start stopped instances", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completer(a.instanceNames, true),
		RunE: a.withEach(func(ctx context.Context, m *instance.Manager, ref string) error {
			_, err := m.Start(ctx, ref)
			return err
		}),
	}
}
