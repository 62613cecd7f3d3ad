package cmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

func (a *App) newExecCmd() *cobra.Command {
	var o lxc.ExecOptions
	var env []string
	var withTTY, noTTY bool
	c := &cobra.Command{
		Use: "exec INSTANCE -- COMMAND [ARG...]", Short: "Run a command in a running instance", Args: cobra.MinimumNArgs(2), ValidArgsFunction: a.completer(a.instanceNames, false),
		Long: `Run a command in a running instance, in all of its namespaces and its cgroup. The
exit code is the command's: 127 when it is not there, 126 when it cannot be executed,
128 and the signal when one ended it. A terminal is allocated when stdin and stdout are terminals.`,
		Example: "  lxcboot exec web1 -- ps",
		RunE: func(c *cobra.Command, args []string) error {
			if withTTY && noTTY {
				return failure.Invalid("--tty and --no-tty exclude each other")
			}
			var err error
			if o.Env, err = keyValues("--env", env); err != nil {
				return err
			}
			o.Argv = args[1:]
			if o.Argv[0] == "--" { // flags end at the instance, so that this is left
				o.Argv = o.Argv[1:]
			}
			if len(o.Argv) == 0 {
				return failure.Invalid("exec needs a command to run after --")
			}
			o.TTY = withTTY || !noTTY && isTerminal(a.In) && isTerminal(a.Out)
			o.Stdin, o.Stdout, o.Stderr = a.In, a.Out, a.Err
			return withManager(a.manager, func(ctx context.Context, m *instance.Manager, args []string) error {
				v, err := running(ctx, m, args[0])
				if err != nil {
					return err
				}
				code, err := a.domains.Exec(ctx, v.ID, o)
				switch {
				case errors.Is(err, lxc.ErrNoProgram):
					fmt.Fprintf(a.Err, "lxcboot: %s\n", tty.Lines(err.Error()))
					return exitError(code)
				case err == nil && code != 0:
					return exitError(code)
				}
				return err
			})(c, args)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&withTTY, "tty", "t", false, "allocate a terminal")
	f.BoolVar(&noTTY, "no-tty", false, "allocate no terminal")
	f.StringArrayVarP(&env, "env", "e", nil, "KEY=VALUE for the command (can be repeated)")
	f.StringVarP(&o.User, "user", "u", "", "name or id of a user in the container, with :GROUP")
	f.StringVarP(&o.Dir, "workdir", "w", "", "directory in the container")
	return c
}
