package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/state"
)

func (a *App) newDeleteCmd() *cobra.Command {
	var force, keep bool
	c := a.eachInstance("delete", "Delete instances, whatever state they are in", a.storeManager, func(ctx context.Context, m *instance.Manager, ref string) error {
		remove := m.Delete
		if keep {
			remove = m.DeleteKeeping
		}
		rec, err := remove(ctx, ref)
		if err == nil || errors.Is(err, state.ErrNotFound) && force {
			return nil
		}
		return fmt.Errorf("cannot delete instance %q: %w", cmp.Or(rec.Name, ref), err)
	})
	do := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := do(c, args); !errors.Is(err, errNoState) || !force {
			return err
		}
		return nil
	}
	c.Long = `Undo everything that booting the instance did, and remove it. Volumes marked
shutdown=remove go with it; the others stay. A delete that failed or was interrupted
can be called again, and so can one after an interrupted boot.`
	c.Flags().BoolVar(&force, "force", false, "an instance that is not there is no error")
	c.Flags().BoolVar(&keep, "keep-volumes", false, "keep the volumes that are marked shutdown=remove, too; local disks go")
	return c
}
