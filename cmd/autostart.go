package cmd

import (
	"github.com/spf13/cobra"
)

func (a *App) newAutostartCmd() *cobra.Command {
	return &cobra.Command{
		Use: "autostart", Short: "Start the instances that were running when the host went down", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.manager(c.Context())
			if err != nil {
				return err
			}
			started, err := m.Autostart(c.Context())
			for _, name := range started {
				a.say("started %s", name)
			}
			return err
		},
	}
}
