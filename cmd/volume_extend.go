package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

func (a *App) newVolumeExtendCmd() *cobra.Command {
	var size int
	c := &cobra.Command{
		Use: "extend VOLUME --size GIB", Short: "Make a volume larger", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(volumes.names(a), false),
		Long: "Make a volume larger. The filesystem on it stays as it is: resize that in the container, or with resize2fs.",
		RunE: a.withStore(func(ctx context.Context, s Store, args []string) error {
			id, err := volumes.id(ctx, s, args[0])
			if err != nil {
				return err
			}
			return volumes.make(a, "is extended", func() (volume.Volume, error) { return s.ExtendVolume(ctx, id, size) })
		}),
	}
	c.Flags().IntVar(&size, "size", 0, "new size in GiB")
	_ = c.MarkFlagRequired("size")
	return c
}
