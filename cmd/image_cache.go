package cmd

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/report"
)

func (a *App) newImageCacheCmd() *cobra.Command {
	c := &cobra.Command{Use: "cache", Short: "Manage what is kept of images to be quick"}
	c.AddCommand(&cobra.Command{
		Use: "prune", Short: "Remove the raw forms of all images", Args: cobra.NoArgs,
		Long: `Remove the raw forms of all images. The first volume that is made of an image which
is not raw leaves its raw form beside it, so that the next one is a copy of that. It is
made anew when it is needed, and goes by itself when there is no room for what is to
be made. Volumes and images stay as they are.

What was removed is listed, with the bytes that it took; less than that is free now
where volumes share their blocks with it. A cloud keeps such things by itself.`,
		RunE: a.withStore(func(ctx context.Context, s Store, _ []string) error {
			pruned, err := s.PruneImages(ctx)
			if err != nil && len(pruned) == 0 {
				return err
			}
			l := listing{Columns: []string{"ID", "Name", "Cached"}}
			for _, i := range pruned {
				l.Rows = append(l.Rows, []any{i.ID, i.Name, report.Bytes(i.Cached)})
			}
			return errors.Join(a.print.List(l), err)
		}),
	})
	return c
}
