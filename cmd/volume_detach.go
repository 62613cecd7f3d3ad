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
		Long: `Take a volume from an instance. Its content stays.

What is mounted with --mount is unmounted in the container. Where anything still uses the
volume (an open file or the device itself, a working directory, another mount, swap), that
is named, nothing is changed, and the exit code is 4.`,
		RunE: withManager(a.storeManager, a.timed(func(ctx context.Context, m *instance.Manager, args []string) error {
			if _, err := m.DetachVolume(ctx, args[0], args[1]); err != nil {
				return fmt.Errorf("cannot detach volume %q: %w", args[1], err)
			}
			return nil
		})),
	}
}
