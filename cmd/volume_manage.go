package cmd

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

func (a *App) newVolumeManageCmd() *cobra.Command {
	var req volume.ManageVolume
	var properties []string
	c := &cobra.Command{
		Use: "manage DEVICE", Short: "Make a volume of a block device of this host, as it is", Args: cobra.ExactArgs(1),
		Long: `Make a volume of a block device of this host: an LV, a partition, a disk, a zvol, or the
file behind a loop device. Nothing is copied, and nothing on it is changed but by the
containers that have the volume; unmanage lets go of it.

The device is known again by what stays of it when the host restarts, as an id of its
hardware, of LVM or of a partition table, never by a name like /dev/sdb. One that anything
uses, or that is a volume already, is refused, with exit code 4.`,
		Example: `  lxcboot volume manage /dev/vg0/web1 --name web1 --bootable
  lxcboot boot --flavor m1.small --block-device source=volume,id=web1,bootindex=0 web1`,
		ValidArgsFunction: func(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(given) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault // a file's name
		},
		RunE: a.withManaging(func(ctx context.Context, s instance.Managing, args []string) (err error) {
			req.Device = args[0]
			if req.Metadata, err = keyValues("--property", properties); err != nil {
				return err
			}
			if err := a.print.Check(volumes.record(volume.Volume{}).Names()); err != nil {
				return err
			}
			v, err := s.ManageVolume(ctx, req)
			if err != nil {
				return err
			}
			return a.printMade(volumes.record(v), "volume "+v.ID+" is managed", fmt.Sprintf("lxcboot volume show %s shows it, and lxcboot volume unmanage %[1]s lets go of it", v.ID))
		}),
	}
	f := c.Flags()
	f.StringVar(&req.Name, "name", "", "name of the volume")
	f.BoolVar(&req.Bootable, "bootable", false, "there is a root filesystem on it, and it can be booted from")
	f.BoolVar(&req.ReadOnly, "read-only", false, "containers cannot write to it")
	f.StringArrayVar(&properties, "property", nil, "KEY=VALUE to keep with it (can be repeated)")
	return c
}

func (a *App) newVolumeUnmanageCmd() *cobra.Command {
	return &cobra.Command{
		Use: "unmanage VOLUME...", Short: "Let go of managed volumes, and leave their devices as they are", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completer(a.managedNames, true),
		Long: `Let go of volumes that are devices of this host: they are volumes no more, and what is
on the devices stays as it is. One that an instance has is refused, with exit code 4. A
volume is named by its id, its name or the path of its device.`,
		RunE: a.withManaging(func(ctx context.Context, s instance.Managing, args []string) error {
			return each(args, func(ref string) error {
				id, err := volumes.id(ctx, a.store, ref)
				if err != nil {
					return err
				}
				return s.UnmanageVolume(ctx, id)
			})
		}),
	}
}

// withManaging is a command that needs a store whose volumes can be devices of this host.
func (a *App) withManaging(do func(ctx context.Context, s instance.Managing, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		// A cloud need not be asked, or be up, for this to be told.
		if backend, why := a.choose(); backend != "local" {
			return failure.Of(volume.ErrUnsupported, "devices of this host are managed by the embedded store alone, and the store is a cloud's (%s). There its operator does it, with 'cinder manage', of what its storage hosts have; here use --backend local", why)
		}
		if err := needRoot(); err != nil {
			return err
		}
		return a.withStore(func(ctx context.Context, s Store, args []string) error {
			return do(ctx, s.(instance.Managing), args)
		})(c, args)
	}
}

// managedNames are the managed volumes.
func (a *App) managedNames(ctx context.Context) (names []string, err error) {
	only := volumes
	only.list = func(s Store, ctx context.Context) (some []volume.Volume, err error) {
		all, err := s.Volumes(ctx)
		for _, v := range all {
			if v.Managed != nil {
				some = append(some, v)
			}
		}
		return some, err
	}
	return only.names(a)(ctx)
}
