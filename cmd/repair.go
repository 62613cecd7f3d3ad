package cmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func (a *App) newRepairCmd() *cobra.Command {
	return &cobra.Command{
		Use: "repair", Short: "Finish everything that was interrupted", Args: cobra.NoArgs,
		Long: `Finish everything that was interrupted: boots and deletes that were cut short are
undone, starts and stops are ended, and what ended containers left on the host is
released. It prints what it did.`,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.manager(c.Context())
			if err != nil {
				return err
			}
			did, err := m.Repair(c.Context())
			if s, ok := m.Volumes.(interface {
				Repair(context.Context) ([]string, error)
			}); ok {
				more, e := s.Repair(c.Context())
				did, err = append(did, more...), errors.Join(err, e)
			}
			for _, d := range did {
				fmt.Fprintln(a.Out, sanitize(d, false))
			}
			return err
		},
	}
}
