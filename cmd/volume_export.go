package cmd

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

func (a *App) newVolumeExportCmd() *cobra.Command {
	var to target
	req := volume.ExportVolume{}
	c := &cobra.Command{
		Use: "export VOLUME [--output FILE]", Short: "Write a volume to a file, or to standard output", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(volumes.names(a), false),
		Long: `Write the content of a volume, raw or as qcow2, to a file, or to standard output where
that is no terminal. The file is there whole or not at all, of mode 0600, and takes no
room for what is zeros; one that is there already is replaced with --force alone.

While it is read nobody else gets the volume.

` + copyingText,
		Example: `  lxcboot volume export web1-root --disk-format qcow2 --output web1.qcow2
  lxcboot volume export data | zstd >data.raw.zst`,
		RunE: a.withStore(func(ctx context.Context, s Store, args []string) error {
			id, err := volumes.id(ctx, s, args[0])
			if err != nil {
				return err
			}
			req.VolumeID = id
			return a.writeTo(to, func(f *os.File) error {
				var done func()
				req.To = f
				req.Progress, done = a.progress("exporting " + args[0])
				defer done()
				return a.copying(ctx, s, id, func(how volume.Copying) error {
					req.Copying = how
					return s.ExportVolume(ctx, req)
				})
			})
		}),
	}
	a.targetFlags(c, &to)
	c.Flags().StringVar(&req.DiskFormat, "disk-format", "raw", "raw or qcow2")
	_ = c.RegisterFlagCompletionFunc("disk-format", cobra.FixedCompletions([]string{"raw", "qcow2"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}
