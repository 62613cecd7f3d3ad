package cmd

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newVolumeReleaseCmd() *cobra.Command {
	var host string
	var yes bool
	c := &cobra.Command{
		Use: "release VOLUME --host HOST", Short: "Take a volume from a host that is gone", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(volumes.names(a), false),
		Long: `Take a volume from a host that is known to be gone: what lxcboot on that host attached is
deleted from the volume, so that another host can have it. The host is named as 'volume
show' names it, or by its id; a name that several hosts have is refused.

A host that still runs, or comes back, goes on writing: two hosts that write to one
filesystem destroy it. So that host must be fenced, or be off, before. Where the claim is of
an earlier start of this very host, nothing is asked.

It is refused with exit code 4 while another host or another program holds the volume, and
while this host has its instance. A volume that nobody holds is left as it is.`,
		Example: `  lxcboot volume release web1-root --host node3 --yes`,
		RunE: withManager(a.dialingManager, a.timed(func(ctx context.Context, m *instance.Manager, args []string) error {
			ask := func(h instance.Holding) error {
				return a.confirm(ctx, "Take volume %s from the host %s? If that still runs, what is on the volume is destroyed.", h.Volume.ID, cmp.Or(h.Host.Name, h.Host.ID))
			}
			if yes {
				ask = nil
			}
			h, err := m.Release(ctx, args[0], host, ask)
			switch {
			case err != nil:
				return fmt.Errorf("cannot release volume %q: %w", args[0], err)
			case len(h.Attachments) == 0:
				a.say("nobody holds volume %s", h.Volume.ID)
			case h.Over:
				a.say("volume %s was held by an earlier start of this host", h.Volume.ID)
			}
			return nil
		})),
	}
	c.Flags().StringVar(&host, "host", "", "name or id of the host that is gone")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	_ = c.Flags().SetAnnotation("host", noSetting, []string{}) // what this host is called
	_ = c.MarkFlagRequired("host")
	return c
}
