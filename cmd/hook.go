package cmd

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
)

// newHookCmd is what libvirt's hook runs: NAME prepare|start|started|stopped|release
// begin|end -, with the domain's XML on stdin.
func (a *App) newHookCmd() *cobra.Command {
	return &cobra.Command{
		Use: "hook NAME MOMENT SUB EXTRA", Hidden: true, Args: cobra.RangeArgs(2, 4),
		RunE: func(c *cobra.Command, args []string) error {
			switch args[1] {
			case instance.HookPrepare, instance.HookStarted, instance.HookRelease:
			default:
				return nil
			}
			text, err := io.ReadAll(io.LimitReader(a.In, 4<<20))
			if err != nil {
				return err
			}
			dom, err := lxc.ParseDomain(string(text))
			if err != nil {
				return fmt.Errorf("cannot read the domain that libvirt gave: %w", err)
			}
			m, err := a.offlineManager()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), a.settings.Timeout)
			defer cancel()
			return m.Hook(ctx, args[1], dom, func() (instance.Volumes, error) { return a.openStore(ctx) })
		},
	}
}
