package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/state"
)

func (a *App) newWaitCmd() *cobra.Command {
	var status string
	known := []string{instance.StatusActive, instance.StatusShutoff, instance.StatusPaused, instance.StatusError}
	c := &cobra.Command{
		Use: "wait INSTANCE --for STATUS", Short: "Wait until an instance has a status", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		Long: "Wait until an instance has a status (ACTIVE, SHUTOFF or another), at most --timeout. An instance in status ERROR ends the wait.",
		RunE: func(c *cobra.Command, args []string) error {
			want := strings.ToUpper(status)
			if !slices.Contains(known, want) {
				return failure.Invalid("--for %q is not one of %s", status, strings.Join(known, ", "))
			}
			return withManager(a.manager, func(ctx context.Context, m *instance.Manager, args []string) error {
				ctx, cancel := context.WithTimeoutCause(ctx, a.settings.Timeout, fmt.Errorf("instance %q did not become %s within %v", args[0], want, a.settings.Timeout))
				defer cancel()
				for {
					v, err := m.Show(ctx, args[0])
					switch {
					case err != nil:
						return err
					case v.Status == want:
						return nil
					case v.Status == instance.StatusError:
						return failure.Of(state.ErrState, "instance %q is in status ERROR: %s", v.Name, v.Note)
					}
					select {
					case <-ctx.Done():
						return context.Cause(ctx)
					case <-time.After(100 * time.Millisecond):
					}
				}
			})(c, args)
		},
	}
	c.Flags().StringVar(&status, "for", "", "the status to wait for")
	_ = c.MarkFlagRequired("for")
	_ = c.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
	return c
}
