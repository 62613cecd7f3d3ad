package cmd

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

var snapshots = kind[volume.Snapshot]{
	name: "snapshot", list: Store.Snapshots, find: Store.Snapshot, remove: Store.DeleteSnapshot,
	called: func(s volume.Snapshot) (name, id string) { return s.Name, s.ID },
	record: func(s volume.Snapshot) record {
		return record{{"id", s.ID}, {"name", s.Name}, {"status", s.Status}, {"volume_id", s.VolumeID}, {"size", s.Size}, {"metadata", s.Metadata}, {"created_at", s.CreatedAt}}
	},
	columns: []string{"ID", "Name", "Status", "Size", "Volume ID"},
	units:   map[string]string{"Size": "GiB"},
	facts: func(s volume.Snapshot) facts {
		return facts{name: s.Name, status: s.Status, properties: s.Metadata}
	},
	row: func(s volume.Snapshot) []any { return []any{s.ID, s.Name, s.Status, s.Size, s.VolumeID} },
}

func (a *App) newSnapshotCmd() *cobra.Command {
	var of string
	create := &cobra.Command{
		Use: "create [NAME] --volume VOLUME", Short: "Make a snapshot of a volume", Args: cobra.MaximumNArgs(1),
		Long: "Make a snapshot of a volume.\n\n" + copyingText,
		RunE: a.withStore(func(ctx context.Context, s Store, args []string) error {
			id, err := volumes.id(ctx, s, of)
			if err != nil {
				return err
			}
			return snapshots.make(a, "is made", func() (n volume.Snapshot, err error) {
				err = a.copying(ctx, s, id, func(how volume.Copying) error {
					n, err = s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: strings.Join(args, ""), VolumeID: id, Copying: how})
					return err
				})
				return n, err
			})
		}),
	}
	create.Flags().StringVar(&of, "volume", "", "volume to make it of")
	_ = create.MarkFlagRequired("volume")
	_ = create.RegisterFlagCompletionFunc("volume", a.completer(volumes.names(a), true))
	return newKindCmd(a, snapshots, create)
}
