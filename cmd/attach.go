package cmd

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newVolumeAttachCmd() *cobra.Command {
	var device, mount string
	var readOnly bool
	c := &cobra.Command{
		Use: "attach INSTANCE VOLUME", Short: "Give an instance one more volume", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeAttach,
		Long: `Give an instance one more volume: a running one has it as a block device at once, a
stopped one from its next start on. The volume stays when the instance is deleted.`,
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
			return a.withInstance(c, func(ctx context.Context, m *instance.Manager) error {
				rec, err := m.AttachVolume(ctx, args[0], mp)
				if err != nil {
					return fmt.Errorf("cannot attach volume %q: %w", args[1], err)
				}
				v := rec.Volumes[len(rec.Volumes)-1]
				return a.printRecord(record{{"instance_id", rec.ID}, {"volume_id", v.VolumeID}, {"attachment_id", v.AttachmentID}, {"device", v.Mapping.DeviceName}, {"mount", v.Mapping.MountPath}})
			})
		},
	}
	c.Flags().StringVar(&device, "device", "", "name in the container, as vdc (default: the next free one)")
	c.Flags().StringVar(&mount, "mount", "", "path at which a stopped instance will have its filesystem")
	c.Flags().BoolVar(&readOnly, "read-only", false, "the container cannot write to it")
	return c
}

func (a *App) newVolumeDetachCmd() *cobra.Command {
	return &cobra.Command{
		Use: "detach INSTANCE VOLUME", Short: "Take a volume from an instance", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeAttach,
		Long: "Take a volume from an instance, which must not use it any more. Its content stays.",
		RunE: func(c *cobra.Command, args []string) error {
			return a.withInstance(c, func(ctx context.Context, m *instance.Manager) error {
				if _, err := m.DetachVolume(ctx, args[0], args[1]); err != nil {
					return fmt.Errorf("cannot detach volume %q: %w", args[1], err)
				}
				return nil
			})
		},
	}
}

func (a *App) withInstance(c *cobra.Command, do func(context.Context, *instance.Manager) error) error {
	m, err := a.manager(c.Context())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), a.settings.Timeout)
	defer cancel()
	return do(ctx, m)
}

func (a *App) completeAttach(c *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(given) == 0 {
		return a.completer(a.instanceNames, false)(c, given, typed)
	}
	return a.completer(a.volumeNames, false)(c, given[1:], typed)
}
