package cmd

import (
	"cmp"
	"context"
	"maps"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

func (a *App) newImageCreateCmd() *cobra.Command {
	var of, instance string
	var properties []string
	var req volume.CreateImage
	c := &cobra.Command{
		Use: "create NAME --volume VOLUME | --instance INSTANCE", Short: "Make an image of a volume, or of an instance's root", Args: cobra.ExactArgs(1),
		Long: `Make an image of a volume, or of the root volume of an instance. It has the properties
of the image that the volume was made of. What is made of it is a machine of its own:
its host name and identity are new, as with any image.

` + copyingText,
		Example: `  lxcboot image create golden --instance web1
  lxcboot image create data-2026 --volume data --property purpose=archive`,
		RunE: a.withStore(func(ctx context.Context, s Store, args []string) error {
			if (of == "") == (instance == "") {
				return failure.Invalid("image create needs either --volume or --instance")
			}
			var booted bdm.Mapping
			if instance != "" {
				root, err := a.rootOf(instance)
				if err != nil {
					return err
				}
				of, booted = root.VolumeID, root.Mapping
			}
			v, err := volumes.find(s, ctx, of)
			if err != nil {
				return err
			}
			req.Name, req.VolumeID, req.Properties = args[0], v.ID, map[string]string{}
			// Where its root is belongs to what is on it.
			for key, said := range map[string]string{bdm.PartitionProperty: booted.Partition, bdm.SubvolumeProperty: booted.Subvolume} {
				if value := cmp.Or(said, v.Metadata[key]); value != "" {
					req.Properties[key] = value
				}
			}
			given, err := keyValues("--property", properties)
			if err != nil {
				return err
			}
			maps.Copy(req.Properties, given)
			return images.make(a, "is made", func() (img volume.Image, err error) {
				var done func()
				req.Progress, done = a.progress("copying " + of)
				defer done()
				err = a.copying(ctx, s, v.ID, func(how volume.Copying) error {
					req.Copying = how
					img, err = s.CreateImage(ctx, req)
					return err
				})
				return img, err
			})
		}),
	}
	f := c.Flags()
	f.StringVar(&of, "volume", "", "volume to make it of")
	f.StringVar(&instance, "instance", "", "instance to make it of the root of")
	f.StringArrayVar(&properties, "property", nil, "KEY=VALUE to keep with it (can be repeated)")
	_ = c.RegisterFlagCompletionFunc("volume", a.completer(volumes.names(a), true))
	_ = c.RegisterFlagCompletionFunc("instance", a.completer(a.instanceNames, true))
	return c
}

// copyingText is what is to be known of copying a volume.
const copyingText = `A volume that a stopped instance has is copied while that is held: who starts it waits.
One that a running container writes to is taken as it is at one moment, with its
filesystem frozen for ten seconds at most, where the state directory's filesystem can
share blocks between files (btrfs, xfs); else it is refused (exit code 4): stop the
instance first.`

// rootOf is the volume that is the root of an instance, whole by itself.
func (a *App) rootOf(ref string) (state.Volume, error) {
	records, err := a.records()
	if err != nil {
		return state.Volume{}, err
	}
	rec, err := records.Find(ref)
	if err != nil {
		return state.Volume{}, err
	}
	root := rec.Root()
	switch {
	case root == nil || root.VolumeID == "":
		return state.Volume{}, failure.Of(state.ErrState, "instance %q has no root volume", rec.Name)
	case root.Overlay() != "":
		return state.Volume{}, failure.Of(state.ErrState, "the root of instance %q is an overlay: volume %s stays as it was, and what was written is not on it; --volume makes an image of the one without the other", rec.Name, root.VolumeID)
	}
	return *root, nil
}

// copying runs what copies a volume, and tells it who writes to that meanwhile.
func (a *App) copying(ctx context.Context, s Store, id string, do func(volume.Copying) error) error {
	m, err := a.offlineManager()
	if err != nil {
		return err
	}
	m.Volumes = s
	return m.CopyVolume(ctx, id, do)
}
