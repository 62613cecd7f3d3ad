package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

func (a *App) newVolumeExtendCmd() *cobra.Command {
	var size int
	var noGrow bool
	c := &cobra.Command{
		Use: "extend VOLUME [--size GIB]", Short: "Make a volume larger", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(volumes.names(a), false),
		Long: `Make a volume larger, also one that an instance has in the embedded store. The
partition and the filesystem that an instance mounts from it follow: those of a
running container at once, where the kernel can do that, and else when they are mounted
next. A container that has the volume as a block device sees its new size.

A managed volume is made larger where its device was made, as with lvextend; then this,
without --size, takes note of it, and what is on the device follows.`,
		RunE: a.withStore(func(ctx context.Context, s Store, args []string) error {
			v, err := s.Volume(ctx, args[0])
			if err != nil {
				return err
			}
			if v.Managed == nil && size == 0 {
				return failure.Invalid("volume extend needs --size, the new size in GiB")
			}
			id := v.ID
			m, err := a.offlineManager()
			if err != nil {
				return err
			}
			m.Volumes = s
			return volumes.make(a, "is extended", func() (volume.Volume, error) { return m.ExtendVolume(ctx, id, size, !noGrow) })
		}),
	}
	c.Flags().IntVar(&size, "size", 0, "new size in GiB; not of a managed volume")
	c.Flags().BoolVar(&noGrow, "no-grow", false, "leave the filesystem on it as large as it is")
	return c
}
