package cmd

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

func (a *App) newVolumeCmd() *cobra.Command {
	c := &cobra.Command{Use: "volume", Short: "Manage volumes"}
	c.AddCommand(a.newVolumeCreateCmd(), a.newVolumeExtendCmd(), a.newVolumeSetCmd(), a.newVolumeAttachCmd(), a.newVolumeDetachCmd(),
		&cobra.Command{Use: "list", Short: "List volumes", Args: cobra.NoArgs, RunE: a.volumeList},
		&cobra.Command{Use: "show VOLUME", Short: "Show a volume", Args: cobra.ExactArgs(1), RunE: a.volumeShow, ValidArgsFunction: a.completer(a.volumeNames, false)},
		&cobra.Command{Use: "delete VOLUME...", Short: "Delete volumes", Args: cobra.MinimumNArgs(1), RunE: a.volumeDelete, ValidArgsFunction: a.completer(a.volumeNames, true)})
	return c
}

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
				return usagef("only one of --image, --snapshot and --source may be given: each of them is what the volume is made from")
			case c.Flags().Changed("size") && req.Size < 1:
				return usagef("--size %d: a volume has at least 1 GiB", req.Size)
			}
			store, err := a.openStore(ctx)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				if req.Name != "" {
					return usagef("the name is given twice, as %q and as --name %q", args[0], req.Name)
				}
				req.Name = args[0]
			}
			if req.Metadata, err = keyValues("--property", properties); err != nil {
				return err
			}
			if image != "" {
				img, err := store.Image(ctx, image)
				if err != nil {
					return err
				}
				req.ImageID = img.ID
			}
			if snapshot != "" {
				snap, err := store.Snapshot(ctx, snapshot)
				if err != nil {
					return err
				}
				req.SnapshotID = snap.ID
			}
			if source != "" {
				vol, err := store.Volume(ctx, source)
				if err != nil {
					return err
				}
				req.SourceID = vol.ID
			}
			if req.Size == 0 && sources == 0 {
				return usagef("volume create needs --size, in GiB, or what it is to be made from")
			}
			if err := store.CheckCreate(ctx, []volume.CreateVolume{req}); err != nil {
				return err
			}
			vol, err := store.CreateVolume(ctx, req)
			if err != nil {
				return err
			}
			made, err := store.WaitVolume(ctx, vol.ID)
			if err != nil {
				// What could not be made is not left behind.
				undo, cancel := a.undoContext(ctx)
				defer cancel()
				if e := store.DeleteVolume(undo, vol.ID); e != nil && !errors.Is(e, volume.ErrNotFound) {
					err = errors.Join(err, e)
				}
				return err
			}
			return a.printRecord(volumeRecord(made))
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
	repeated(f, &properties, "property", "KEY=VALUE to keep with it (can be repeated)")
	_ = c.RegisterFlagCompletionFunc("image", a.completer(a.imageNames, true))
	_ = c.RegisterFlagCompletionFunc("snapshot", a.completer(a.snapshotNames, true))
	_ = c.RegisterFlagCompletionFunc("source", a.completer(a.volumeNames, true))
	return c
}

func (a *App) newVolumeExtendCmd() *cobra.Command {
	var size int
	c := &cobra.Command{
		Use: "extend VOLUME --size GIB", Short: "Make a volume larger", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.volumeNames, false),
		Long: "Make a volume larger. The filesystem on it stays as it is: resize that in the container, or with resize2fs.",
		RunE: func(c *cobra.Command, args []string) error {
			store, err := a.openStore(c.Context())
			if err != nil {
				return err
			}
			vol, err := store.Volume(c.Context(), args[0])
			if err != nil {
				return err
			}
			if vol, err = store.ExtendVolume(c.Context(), vol.ID, size); err != nil {
				return err
			}
			return a.printRecord(volumeRecord(vol))
		},
	}
	c.Flags().IntVar(&size, "size", 0, "new size in GiB")
	_ = c.MarkFlagRequired("size")
	return c
}

func (a *App) newVolumeSetCmd() *cobra.Command {
	var name string
	var properties []string
	var bootable, notBootable bool
	c := &cobra.Command{
		Use: "set VOLUME", Short: "Change the name or properties of a volume, or whether it can be booted from", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.volumeNames, false),
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
				return usagef("--bootable and --no-bootable exclude each other")
			case bootable || notBootable:
				req.Bootable = &bootable
			}
			var err error
			if req.Metadata, err = keyValues("--property", properties); err != nil {
				return err
			}
			if req.Name == nil && req.Bootable == nil && len(req.Metadata) == 0 {
				return usagef("volume set needs --name, --property, --bootable or --no-bootable")
			}
			store, err := a.openStore(c.Context())
			if err != nil {
				return err
			}
			vol, err := store.Volume(c.Context(), args[0])
			if err != nil {
				return err
			}
			if vol, err = store.UpdateVolume(c.Context(), vol.ID, req); err != nil {
				return err
			}
			return a.printRecord(volumeRecord(vol))
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "new name of the volume")
	repeated(f, &properties, "property", "KEY=VALUE to keep with it (can be repeated)")
	f.BoolVar(&bootable, "bootable", false, "it can be booted from")
	f.BoolVar(&notBootable, "no-bootable", false, "it cannot be booted from")
	return c
}

func volumeRecord(v volume.Volume) record {
	return record{{"id", v.ID}, {"name", v.Name}, {"description", v.Description}, {"status", v.Status}, {"size", v.Size}, {"bootable", v.Bootable},
		{"readonly", v.ReadOnly}, {"multiattach", v.Multiattach}, {"encrypted", v.Encrypted}, {"volume_type", v.Type}, {"image_id", v.ImageID},
		{"snapshot_id", v.SnapshotID}, {"source_volid", v.SourceID}, {"metadata", v.Metadata}, {"attachments", v.Attachments}, {"created_at", v.CreatedAt}}
}

func (a *App) volumeList(c *cobra.Command, _ []string) error {
	store, err := a.openStore(c.Context())
	if err != nil {
		return err
	}
	all, damaged := store.Volumes(c.Context())
	if damaged != nil && all == nil {
		return damaged
	}
	slices.SortFunc(all, func(x, y volume.Volume) int { return strings.Compare(x.Name+x.ID, y.Name+y.ID) })
	l := listing{columns: []string{"ID", "Name", "Status", "Size", "Bootable", "Attached to"}}
	for _, v := range all {
		var to []string
		for _, at := range v.Attachments {
			to = append(to, at.InstanceID)
		}
		l.rows = append(l.rows, []any{v.ID, v.Name, v.Status, v.Size, v.Bootable, to})
	}
	return errors.Join(a.printList(l), damaged)
}

func (a *App) volumeShow(c *cobra.Command, args []string) error {
	store, err := a.openStore(c.Context())
	if err != nil {
		return err
	}
	vol, err := store.Volume(c.Context(), args[0])
	if err != nil {
		return err
	}
	return a.printRecord(volumeRecord(vol))
}

func (a *App) volumeDelete(c *cobra.Command, args []string) error {
	store, err := a.openStore(c.Context())
	if err != nil {
		return err
	}
	return each(args, func(ref string) error {
		vol, err := store.Volume(c.Context(), ref)
		if err != nil {
			return err
		}
		return store.DeleteVolume(c.Context(), vol.ID)
	})
}
