package cmd

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/report"
)

var trimColumns = []string{"Volume", "Instance", "Discarded", "Freed", "Skipped"}

func (a *App) newVolumeTrimCmd() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "trim VOLUME | --all", Short: "Give back the space that a volume's filesystem does not use", ValidArgsFunction: a.completer(volumes.names(a), false),
		Long: `Give back the space that the filesystem of a volume does not use any more, as fstrim
does, which a container cannot: its file on this host gets holes, and a device of a cloud
or of this host is told. The volume is one that a running instance has mounted, one
of an instance that is stopped, or one of the embedded store that nobody has.

With --all it is each that a running instance has mounted; what is read-only, a block
device of its instance, or on a device that does not discard, is skipped, and that is said.
Discarded is what the filesystem said, and Freed what the file takes less.`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return failure.Invalid("--all is every volume, and %q is named", strings.Join(args, " "))
			case !all && len(args) != 1:
				return failure.Invalid("one VOLUME is expected, or --all")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.print.Check(trimColumns); err != nil {
				return err
			}
			if err := needRoot(); err != nil {
				return err
			}
			m, err := a.offlineManager()
			if err != nil {
				return err
			}
			done, err := a.trim(c.Context(), m, args)
			if err != nil && done == nil {
				return err
			}
			l := listing{Columns: trimColumns}
			for _, t := range done {
				var freed any
				if t.Freed != nil {
					freed = report.Bytes(*t.Freed)
				}
				l.Rows = append(l.Rows, []any{t.VolumeID, t.Instance, report.Bytes(t.Discarded), freed, t.Skipped})
			}
			if e := a.print.List(l); e != nil {
				return &madeError{"what could be was trimmed", e}
			}
			return err
		},
	}
	c.Flags().BoolVar(&all, "all", false, "each volume that a running instance has mounted")
	return c
}

// trim trims one volume, or, of running instances, all: that needs no store.
func (a *App) trim(ctx context.Context, m *instance.Manager, args []string) ([]instance.Trimmed, error) {
	if len(args) == 0 {
		return m.TrimAll(ctx)
	}
	s, err := a.openStore(ctx)
	if err != nil {
		return nil, err
	}
	id, err := volumes.id(ctx, s, args[0])
	if err != nil {
		return nil, err
	}
	m.Volumes = s
	t, err := m.TrimVolume(ctx, id)
	if err != nil {
		return nil, err
	}
	return []instance.Trimmed{t}, nil
}
