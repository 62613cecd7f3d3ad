package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newRenameCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rename INSTANCE NAME", Short: "Give a stopped instance another name", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completer(a.instanceNames, false),
		RunE: withManager(a.storeManager, a.timed(func(ctx context.Context, m *instance.Manager, args []string) error {
			return m.Rename(ctx, args[0], args[1])
		})),
	}
}
