package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
)

func (a *App) newConsoleCmd() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use: "console INSTANCE", Short: "Join the console of a running instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		Long: "Join the console of a running instance. The detach key, Ctrl-] unless --detach-key says another letter, ends it and leaves the container running.",
		RunE: func(c *cobra.Command, args []string) error {
			if len(key) != 2 || key[0] != '^' || key[1] < '@' || key[1] > '_' {
				return failure.Invalid("--detach-key %q is not of the form ^X, with X an upper-case letter or one of @[\\]^_", key)
			}
			return withManager(a.manager, func(ctx context.Context, m *instance.Manager, args []string) error {
				v, err := running(ctx, m, args[0])
				if err != nil {
					return err
				}
				a.say("Connected to the console of %s. The detach key is %s.", v.Name, key)
				return console.Attach(ctx, m.Store.SocketPath(v.ID), a.In, a.Out, key[1]&0x1f)
			})(c, args)
		},
	}
	c.Flags().StringVar(&key, "detach-key", "^]", "key that ends it")
	return c
}
