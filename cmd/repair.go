package cmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

func (a *App) newRepairCmd() *cobra.Command {
	return &cobra.Command{
		Use: "repair", Short: "Finish everything that was interrupted", Args: cobra.NoArgs,
		Long: `Finish everything that was interrupted: boots and deletes that were cut short are
undone, starts and stops are ended, and what ended containers left on the host is
released. It prints what it did.`,
		RunE: withManager(a.storeManager, func(ctx context.Context, m *instance.Manager, _ []string) error {
			did, err := m.Repair(ctx)
			if s, ok := m.Volumes.(interface {
				Repair(context.Context) ([]string, error)
			}); ok {
				more, e := s.Repair(ctx)
				did, err = append(did, more...), errors.Join(err, e)
			}
			for _, d := range did {
				fmt.Fprintln(a.Out, tty.Line(d))
			}
			return err
		}),
	}
}
