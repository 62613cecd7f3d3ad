package cmd

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

func (a *App) newVolumeCreateCmd() *cobra.Command {
	var req volume.CreateVolume
	var image, snapshot, source string
	var properties []string
	c := &cobra.Command{
		Use: "create [NAME]", Short: "Make a volume, and wait until it is there", Args: cobra.MaximumNArgs(1),
		Example: `  lxcboot volume create --image busybox --size 1 web1-root
  lxcboot volume create --size 10 data`,
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			sources := 0
			for _, s := range []string{image, snapshot, source} {
				if s != "" {
					sources++
				}
			}
			switch {
			case sources > 1:
				return failure.Invalid("only one of --image, --snapshot and --source may be given: each of them is what the volume is made from")
			case c.Flags().Changed("size") && req.Size < 1:
				return failure.Invalid("--size %d: a volume has at least 1 GiB", req.Size)
			}
			store, err := a.openStore(ctx)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				if req.Name != "" {
					return failure.Invalid("the name is given twice, as %q and as --name %q", args[0], req.Name)
				}
				req.Name = args[0]
			}
			if req.Metadata, err = keyValues("--property", properties); err != nil {
				return err
			}
			if req.ImageID, err = images.id(ctx, store, image); err != nil {
				return err
			}
			if req.SnapshotID, err = snapshots.id(ctx, store, snapshot); err != nil {
				return err
			}
			if req.SourceID, err = volumes.id(ctx, store, source); err != nil {
				return err
			}
			if req.Size == 0 && sources == 0 {
				return failure.Invalid("volume create needs --size, in GiB, or what it is to be made from")
			}
			make := func() error {
				if err := store.CheckCreate(ctx, []volume.CreateVolume{req}); err != nil {
					return err
				}
				return volumes.make(a, "is made", func() (volume.Volume, error) {
					vol, err := store.CreateVolume(ctx, req)
					if err != nil {
						return vol, err
					}
					made, err := store.WaitVolume(ctx, vol.ID)
					if err != nil {
						// What could not be made is not left behind.
						undo, cancel := a.undoContext(ctx)
						defer cancel()
						if e := store.DeleteVolume(undo, vol.ID); e != nil && !errors.Is(e, volume.ErrNotFound) {
							err = errors.Join(err, e)
						}
					}
					return made, err
				})
			}
			if req.SourceID == "" {
				return make()
			}
			return a.copying(ctx, store, req.SourceID, func(how volume.Copying) error {
				req.Copying = how
				return make()
			})
		},
	}
	f := c.Flags()
	f.IntVar(&req.Size, "size", 0, "size in GiB")
	f.StringVar(&image, "image", "", "image to make it from")
	f.StringVar(&snapshot, "snapshot", "", "snapshot to make it from")
	f.StringVar(&source, "source", "", "volume to copy")
	f.StringVar(&req.Name, "name", "", "name of the volume")
	f.StringVar(&req.Description, "description", "", "description of the volume")
	f.StringVar(&req.Type, "type", "", "volume type, in a cloud")
	f.BoolVar(&req.ReadOnly, "read-only", false, "containers cannot write to it")
	f.BoolVar(&req.Multiattach, "multi-attach", false, "several instances may have it at once")
	f.StringArrayVar(&properties, "property", nil, "KEY=VALUE to keep with it (can be repeated)")
	_ = c.RegisterFlagCompletionFunc("image", a.completer(images.names(a), true))
	_ = c.RegisterFlagCompletionFunc("snapshot", a.completer(snapshots.names(a), true))
	_ = c.RegisterFlagCompletionFunc("source", a.completer(volumes.names(a), true))
	return c
}
