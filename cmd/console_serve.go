package cmd

import (
	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/console"
)

// newConsoleServeCmd keeps a console where lxcboot-console is not installed.
func newConsoleServeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "console-serve", Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return console.Keep(args) },
	}
}
