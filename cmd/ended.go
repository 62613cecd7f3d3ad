package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// newEndedCmd is what the process that keeps a console becomes when the container has
// ended: nobody else may be there to release what the host holds for it.
func (a *App) newEndedCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "ended ID", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			m, err := a.offlineManager()
			if err != nil {
				return err
			}
			if m.Domains, err = a.openDomains(ctx); err != nil {
				return err
			}
			return m.Ended(ctx, args[0])
		},
	}
	c.Flags().Int("status", -1, "wait status of the container's init; -1: not known")
	return c
}
