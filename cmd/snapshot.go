package cmd

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/flavor"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// undoContext is a context for undoing, which an interrupt does not end.
func (a *App) undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), a.settings.Timeout)
}

func (a *App) newSnapshotCmd() *cobra.Command {
	c := &cobra.Command{Use: "snapshot", Short: "Manage snapshots of volumes"}
	var vol string
	create := &cobra.Command{
		Use: "create [NAME] --volume VOLUME", Short: "Make a snapshot of a volume", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			store, err := a.openStore(c.Context())
			if err != nil {
				return err
			}
			v, err := store.Volume(c.Context(), vol)
			if err != nil {
				return err
			}
			s, err := store.CreateSnapshot(c.Context(), strings.Join(args, ""), v.ID)
			if err != nil {
				return err
			}
			return a.printRecord(snapshotRecord(s))
		},
	}
	create.Flags().StringVar(&vol, "volume", "", "volume to make it of")
	_ = create.MarkFlagRequired("volume")
	_ = create.RegisterFlagCompletionFunc("volume", a.completer(a.volumeNames, true))
	c.AddCommand(create,
		&cobra.Command{Use: "list", Short: "List snapshots", Args: cobra.NoArgs, RunE: a.snapshotList},
		&cobra.Command{Use: "show SNAPSHOT", Short: "Show a snapshot", Args: cobra.ExactArgs(1), RunE: a.snapshotShow, ValidArgsFunction: a.completer(a.snapshotNames, false)},
		&cobra.Command{Use: "delete SNAPSHOT...", Short: "Delete snapshots", Args: cobra.MinimumNArgs(1), RunE: a.snapshotDelete, ValidArgsFunction: a.completer(a.snapshotNames, true)})
	return c
}

func snapshotRecord(s volume.Snapshot) record {
	return record{{"id", s.ID}, {"name", s.Name}, {"status", s.Status}, {"volume_id", s.VolumeID}, {"size", s.Size}, {"metadata", s.Metadata}, {"created_at", s.CreatedAt}}
}

func (a *App) snapshotList(c *cobra.Command, _ []string) error {
	store, err := a.openStore(c.Context())
	if err != nil {
		return err
	}
	all, damaged := store.Snapshots(c.Context())
	if damaged != nil && all == nil {
		return damaged
	}
	slices.SortFunc(all, func(x, y volume.Snapshot) int { return strings.Compare(x.Name+x.ID, y.Name+y.ID) })
	l := listing{columns: []string{"ID", "Name", "Status", "Size", "Volume ID"}}
	for _, s := range all {
		l.rows = append(l.rows, []any{s.ID, s.Name, s.Status, s.Size, s.VolumeID})
	}
	return errors.Join(a.printList(l), damaged)
}

func (a *App) snapshotShow(c *cobra.Command, args []string) error {
	store, err := a.openStore(c.Context())
	if err != nil {
		return err
	}
	s, err := store.Snapshot(c.Context(), args[0])
	if err != nil {
		return err
	}
	return a.printRecord(snapshotRecord(s))
}

func (a *App) snapshotDelete(c *cobra.Command, args []string) error {
	store, err := a.openStore(c.Context())
	if err != nil {
		return err
	}
	return each(args, func(ref string) error {
		s, err := store.Snapshot(c.Context(), ref)
		if err != nil {
			return err
		}
		return store.DeleteSnapshot(c.Context(), s.ID)
	})
}

func (a *App) newFlavorCmd() *cobra.Command {
	c := &cobra.Command{Use: "flavor", Short: "Show flavors"}
	c.AddCommand(
		&cobra.Command{Use: "list", Short: "List flavors", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			all, err := a.flavors()
			if err != nil {
				return err
			}
			l := listing{columns: []string{"ID", "Name", "RAM", "Disk", "Ephemeral", "VCPUs", "Swap"}}
			for _, f := range all {
				l.rows = append(l.rows, []any{f.ID, f.Name, f.MemoryMiB, f.DiskGiB, f.EphemeralGiB, f.VCPUs, f.SwapMiB})
			}
			return a.printList(l)
		}},
		&cobra.Command{Use: "show FLAVOR", Short: "Show a flavor", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.flavorNames, false), RunE: func(_ *cobra.Command, args []string) error {
			f, err := a.flavor(args[0])
			if err != nil {
				return err
			}
			return a.printRecord(record{{"id", f.ID}, {"name", f.Name}, {"ram", f.MemoryMiB}, {"disk", f.DiskGiB}, {"ephemeral", f.EphemeralGiB}, {"vcpus", f.VCPUs}, {"swap", f.SwapMiB}})
		}})
	return c
}

// flavor is the flavor of that name or id.
func (a *App) flavor(ref string) (flavor.Flavor, error) {
	all, err := a.flavors()
	if err != nil {
		return flavor.Flavor{}, err
	}
	return all.Find(ref)
}
