package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// lxcfsLimit is how long an lxcfs may take from its start to its mount.
const lxcfsLimit = 20 * time.Second

// newViewsCmd is what the unit of lxcfs runs after lxcfs was started, and after it has
// ended: what running containers have of the one before is taken away.
func (a *App) newViewsCmd() *cobra.Command {
	var started bool
	c := &cobra.Command{
		Use: "views", Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := needRoot(); err != nil {
				return err
			}
			m, err := a.offlineManager()
			if err != nil {
				return err
			}
			if started {
				ctx, cancel := context.WithTimeoutCause(c.Context(), lxcfsLimit, fmt.Errorf("no lxcfs is mounted at %s within %s", a.settings.LXCFS, lxcfsLimit))
				defer cancel()
				err := wait.Until(ctx, 10*time.Millisecond, time.Second, func() (bool, error) { return lxc.LXCFSRuns(a.settings.LXCFS) })
				if err != nil {
					return err
				}
			}
			return m.ShowViews()
		},
	}
	c.Flags().BoolVar(&started, "started", false, "wait until lxcfs is mounted")
	return c
}
