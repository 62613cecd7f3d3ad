package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// newEndedCmd is what the process that keeps a console becomes when the container has
// ended: nobody else may be there to release what the host holds for it.
func (a *App) newEndedCmd() *cobra.Command {
	var status uint32
	c := &cobra.Command{
		Use: "ended ID", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			m, err := a.offlineManager()
			if err != nil {
				return err
			}
			if m.Domains, err = a.openDomains(ctx); err != nil {
				return err
			}
			if !c.Flags().Changed("status") {
				return m.Ended(ctx, args[0], nil)
			}
			return m.Ended(ctx, args[0], &status)
		},
	}
	c.Flags().Uint32Var(&status, "status", 0, "wait status of the container's init")
	return c
}
