package cmd

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/state"
)

func (a *App) newVolumeAttachCmd() *cobra.Command {
	var device, mount string
	var readOnly bool
	c := &cobra.Command{
		Use: "attach INSTANCE VOLUME", Short: "Give an instance one more volume", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeAttach,
		Long: `Give an instance one more volume, as a block device or, with --mount, its filesystem
mounted: a running one has it at once, a stopped one from its next start on. The volume
stays when the instance is deleted.

A volume that is to be mounted must have a filesystem. The directory is made where it is
missing; neither it nor what it lies in may be a link.`,
		RunE: func(c *cobra.Command, args []string) error {
			spec := "source=volume,id=" + args[1]
			for key, value := range map[string]string{"device": device, "mount": mount} {
				if value != "" {
					spec += "," + key + "=" + value
				}
			}
			if readOnly {
				spec += ",readonly=yes"
			}
			s, err := bdm.ParseSpec(spec)
			if err != nil {
				return err
			}
			mp, err := s.Mapping()
			if err != nil {
				return err
			}
			return withManager(a.storeManager, a.timed(func(ctx context.Context, m *instance.Manager, args []string) error {
				if err := a.print.Check(attached(state.Record{}, state.Volume{}).Names()); err != nil {
					return err
				}
				rec, err := m.AttachVolume(ctx, args[0], mp)
				if err != nil {
					return fmt.Errorf("cannot attach volume %q: %w", args[1], err)
				}
				v := rec.Volumes[len(rec.Volumes)-1]
				return a.printMade(attached(rec, v), fmt.Sprintf("volume %s is attached to instance %q", v.VolumeID, rec.Name),
					fmt.Sprintf("lxcboot show %s shows it, and lxcboot volume detach %[1]s %s takes it away", rec.Name, v.VolumeID))
			}))(c, args)
		},
	}
	c.Flags().StringVar(&device, "device", "", "name in the container, as vdc (default: the next free one)")
	c.Flags().StringVar(&mount, "mount", "", "absolute path in the container at which its filesystem is mounted (default: a block device)")
	c.Flags().BoolVar(&readOnly, "read-only", false, "the container cannot write to it")
	return c
}

func attached(rec state.Record, v state.Volume) record {
	return record{{"instance_id", rec.ID}, {"volume_id", v.VolumeID}, {"attachment_id", v.AttachmentID}, {"device", v.Mapping.DeviceName}, {"mount", v.Mapping.MountPath}}
}

func (a *App) completeAttach(c *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(given) == 0 {
		return a.completer(a.instanceNames, false)(c, given, typed)
	}
	return a.completer(volumes.names(a), false)(c, given[1:], typed)
}
