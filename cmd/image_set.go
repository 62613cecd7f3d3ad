package cmd

import (
	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

func (a *App) newImageSetCmd() *cobra.Command {
	var name string
	var properties []string
	c := &cobra.Command{
		Use: "set IMAGE", Short: "Change the name or properties of an image", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(images.names(a), false),
		Long: `Change the name or properties of an image. Of what is made of it from then on
lxcboot_partition=N|root and lxcboot_subvolume=PATH|auto say where its root is, as
partition= and subvolume= of --block-device do for one boot.`,
		Example: "  lxcboot image set fedora --property lxcboot_partition=root --property lxcboot_subvolume=auto",
		RunE: func(c *cobra.Command, args []string) error {
			var req volume.UpdateImage
			if c.Flags().Changed("name") {
				req.Name = &name
			}
			var err error
			if req.Properties, err = keyValues("--property", properties); err != nil {
				return err
			}
			if req.Name == nil && len(req.Properties) == 0 {
				return failure.Invalid("image set needs --name or --property")
			}
			store, err := a.openStore(c.Context())
			if err != nil {
				return err
			}
			id, err := images.id(c.Context(), store, args[0])
			if err != nil {
				return err
			}
			return images.make(a, "is changed", func() (volume.Image, error) { return store.UpdateImage(c.Context(), id, req) })
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "new name of the image")
	f.StringArrayVar(&properties, "property", nil, "KEY=VALUE to keep with it (can be repeated)")
	return c
}
