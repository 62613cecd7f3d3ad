package cmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newDeleteCmd() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "delete INSTANCE...", Short: "Delete instances, whatever state they are in", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completer(a.instanceNames, true),
		Long: `Undo everything that booting the instance did, and remove it. Volumes marked
shutdown=remove go with it; the others stay. A delete that failed or was interrupted
can be called again, and so can one after an interrupted boot.`,
		RunE: a.withEach(func(ctx context.Context, m *instance.Manager, ref string) error {
			rec, err := m.Delete(ctx, ref)
			if errors.Is(err, instance.ErrNotFound) && force {
				return nil
			}
			if err != nil {
				return fmt.Errorf("cannot delete instance %q: %w", orRef(rec.Name, ref), err)
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&force, "force", false, "an instance that is not there is no error")
	return c
}

func orRef(name, ref string) string {
	if name == "" {
		return ref
	}
	return name
}
