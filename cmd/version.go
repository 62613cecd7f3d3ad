package cmd

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *App) newVersionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			version := Version
			if info, ok := debug.ReadBuildInfo(); ok && version == "devel" && info.Main.Version != "" {
				version = info.Main.Version // as go install MODULE@VERSION knows it
			}
			return a.print.Record(record{{"version", version}, {"go", runtime.Version()}, {"platform", runtime.GOOS + "/" + runtime.GOARCH}})
		},
	}
}
