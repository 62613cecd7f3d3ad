package cmd

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newVolumeDetachCmd() *cobra.Command {
	return &cobra.Command{
		Use: "detach INSTANCE VOLUME", Short: "Take a volume from an instance", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeAttach,
		Long: "Take a volume from an instance, which must not use it any more. Its content stays.",
		RunE: withManager(a.storeManager, a.timed(func(ctx context.Context, m *instance.Manager, args []string) error {
			if _, err := m.DetachVolume(ctx, args[0], args[1]); err != nil {
				return fmt.Errorf("cannot detach volume %q: %w", args[1], err)
			}
			return nil
		})),
	}
}
