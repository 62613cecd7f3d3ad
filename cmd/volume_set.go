package cmd

import (
	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

func (a *App) newVolumeSetCmd() *cobra.Command {
	var name string
	var properties []string
	var bootable, notBootable bool
	c := &cobra.Command{
		Use: "set VOLUME", Short: "Change the name or properties of a volume, or whether it can be booted from", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(volumes.names(a), false),
		Long: `Change the name or properties of a volume, or whether it can be booted from. A volume
is bootable when it was made from an image, or from a volume or snapshot that is; a
blank one is not, until somebody who put a root filesystem on it says so.`,
		RunE: func(c *cobra.Command, args []string) error {
			var req volume.UpdateVolume
			if c.Flags().Changed("name") {
				req.Name = &name
			}
			switch {
			case bootable && notBootable:
				return failure.Invalid("--bootable and --no-bootable exclude each other")
			case bootable || notBootable:
				req.Bootable = &bootable
			}
			var err error
			if req.Metadata, err = keyValues("--property", properties); err != nil {
				return err
			}
			if req.Name == nil && req.Bootable == nil && len(req.Metadata) == 0 {
				return failure.Invalid("volume set needs --name, --property, --bootable or --no-bootable")
			}
			store, err := a.openStore(c.Context())
			if err != nil {
				return err
			}
			id, err := volumes.id(c.Context(), store, args[0])
			if err != nil {
				return err
			}
			return volumes.make(a, "is changed", func() (volume.Volume, error) { return store.UpdateVolume(c.Context(), id, req) })
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "new name of the volume")
	f.StringArrayVar(&properties, "property", nil, "KEY=VALUE to keep with it (can be repeated)")
	f.BoolVar(&bootable, "bootable", false, "it can be booted from")
	f.BoolVar(&notBootable, "no-bootable", false, "it cannot be booted from")
	return c
}
