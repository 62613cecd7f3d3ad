package cmd

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *App) newRenameCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rename INSTANCE NAME", Short: "Give a stopped instance another name", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completer(a.instanceNames, false),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := a.manager(c.Context())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), a.settings.Timeout)
			defer cancel()
			return m.Rename(ctx, args[0], args[1])
		},
	}
}
