package cmd

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

func (a *App) newLogsCmd() *cobra.Command {
	var follow, raw bool
	var length int
	c := &cobra.Command{
		Use: "logs INSTANCE", Aliases: []string{"console-log"}, Short: "Show the console log of an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		Long: `Show what the container has printed on its console. The log is bounded: the oldest
part is dropped. What could change a terminal is escaped, unless --raw is given.`,
		RunE: func(c *cobra.Command, args []string) error {
			if length < 0 {
				return usagef("--length %d: it is a number of lines, from 1 on; 0 is all of them", length)
			}
			store, err := a.records()
			if err != nil {
				return err
			}
			rec, err := store.Find(args[0])
			if err != nil {
				return err
			}
			path := store.LogPath(rec.ID)
			if raw {
				return a.logs(c.Context(), rec, path, length, follow, a.Out)
			}
			out := tty.Writer(a.Out)
			return errors.Join(a.logs(c.Context(), rec, path, length, follow, out), out.Close())
		},
	}
	c.Flags().BoolVar(&follow, "follow", false, "go on until the container ends")
	c.Flags().IntVar(&length, "length", 0, "only the last so many lines")
	c.Flags().BoolVar(&raw, "raw", false, "do not escape anything")
	return c
}

func (a *App) logs(ctx context.Context, rec instance.Record, path string, length int, follow bool, out writer) error {
	if !follow {
		return console.ReadLog(path, length, out)
	}
	return console.FollowLog(ctx, path, length, out, func() bool { return !rec.Console.Alive() })
}

type writer interface{ Write([]byte) (int, error) }

func (a *App) newConsoleCmd() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use: "console INSTANCE", Short: "Join the console of a running instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		Long: "Join the console of a running instance. The detach key, Ctrl-] unless --detach-key says another letter, ends it and leaves the container running.",
		RunE: func(c *cobra.Command, args []string) error {
			if len(key) != 2 || key[0] != '^' || key[1] < '@' || key[1] > '_' {
				return usagef("--detach-key %q is not of the form ^X, with X an upper-case letter or one of @[\\]^_", key)
			}
			v, err := a.running(c.Context(), args[0])
			if err != nil {
				return err
			}
			store, err := a.records()
			if err != nil {
				return err
			}
			a.say("Connected to the console of %s. The detach key is %s.", v.Name, key)
			return console.Attach(c.Context(), store.SocketPath(v.ID), a.In, a.Out, key[1]&0x1f)
		},
	}
	c.Flags().StringVar(&key, "detach-key", "^]", "key that ends it")
	return c
}

// newConsoleServeCmd keeps a console where lxcboot-console is not installed.
func newConsoleServeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "console-serve", Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return console.Keep(args) },
	}
}

// newEndedCmd is what the process that keeps a console becomes when the container has
// ended: nobody else may be there to release what the host holds for it.
func (a *App) newEndedCmd() *cobra.Command {
	return &cobra.Command{
		Use: "ended ID", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			m, err := a.offlineManager()
			if err != nil {
				return err
			}
			if m.Domains, err = a.openDomains(ctx); err != nil {
				return err
			}
			return m.Ended(ctx, args[0])
		},
	}
}

func (a *App) newExecCmd() *cobra.Command {
	var o lxc.ExecOptions
	var env []string
	var tty, noTTY bool
	c := &cobra.Command{
		Use: "exec INSTANCE -- COMMAND [ARG...]", Short: "Run a command in a running instance", Args: cobra.MinimumNArgs(2), ValidArgsFunction: a.completer(a.instanceNames, false),
		Long: `Run a command in a running instance, in all of its namespaces and its cgroup. The
exit code is the command's: 127 when it is not there, 126 when it cannot be executed,
128 and the signal when one ended it. A terminal is allocated when stdin and stdout are terminals.`,
		Example: "  lxcboot exec web1 -- ps",
		RunE: func(c *cobra.Command, args []string) error {
			if tty && noTTY {
				return usagef("--tty and --no-tty exclude each other")
			}
			var err error
			if o.Env, err = keyValues("--env", env); err != nil {
				return err
			}
			v, err := a.running(c.Context(), args[0])
			if err != nil {
				return err
			}
			o.Argv = args[1:]
			if o.Argv[0] == "--" { // flags end at the instance, so that this is left
				o.Argv = o.Argv[1:]
			}
			if len(o.Argv) == 0 {
				return usagef("exec needs a command to run after --")
			}
			o.TTY = tty || !noTTY && term.IsTerminal(int(a.In.Fd())) && term.IsTerminal(int(a.Out.Fd()))
			o.Stdin, o.Stdout, o.Stderr = a.In, a.Out, a.Err
			code, err := a.domains.Exec(c.Context(), v.ID, o)
			switch {
			case errors.Is(err, lxc.ErrNoProgram):
				fmt.Fprintf(a.Err, "lxcboot: %s\n", sanitize(err.Error(), true))
				return exitError(code)
			case err != nil:
				return err
			case code != 0:
				return exitError(code)
			}
			return nil
		},
	}
	f := c.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&tty, "tty", "t", false, "allocate a terminal")
	f.BoolVar(&noTTY, "no-tty", false, "allocate no terminal")
	f.VarP((*list)(&env), "env", "e", "KEY=VALUE for the command (can be repeated)")
	f.StringVarP(&o.User, "user", "u", "", "name or id of a user in the container, with :GROUP")
	f.StringVarP(&o.Dir, "workdir", "w", "", "directory in the container")
	return c
}

func (a *App) newRunCmd() *cobra.Command {
	o := &bootOptions{}
	var rm bool
	c := &cobra.Command{
		Use: "run NAME", Short: "Boot an instance in the foreground", Args: nameArg,
		Long: `Boot an instance as boot does, and stay until its container ends: its console comes
on stdout, and SIGINT and SIGTERM stop it. For systemd, Nomad and CI jobs. The exit
code is 0 when the container ended by itself, or by such a signal.`,
		RunE: func(c *cobra.Command, args []string) error { return a.run(c.Context(), o, args[0], rm) },
	}
	a.bootFlags(c, o)
	c.Flags().BoolVar(&rm, "rm", false, "delete the instance when it has ended")
	a.stopTimeoutFlag(c)
	return c
}

func (a *App) run(ctx context.Context, o *bootOptions, name string, rm bool) error {
	req, err := a.bootRequest(ctx, o, name)
	if err != nil {
		return err
	}
	if req.Count > 1 {
		return usagef("run boots one instance; leave --min-count and --max-count out")
	}
	m, err := a.dialingManager(ctx)
	if err != nil {
		return err
	}
	if err := a.imageWith(ctx, m, &req); err != nil {
		return err
	}
	plan, err := m.Plan(ctx, req)
	if err != nil {
		return err
	}
	for _, w := range plan.Warnings {
		a.warn("%s", w)
	}
	if o.dryRun {
		return a.printPlans([]instance.Plan{plan})
	}
	v, err := m.Boot(ctx, plan)
	if err != nil {
		return err
	}
	err = a.foreground(ctx, m, v)
	if rm {
		after, cancel := a.undoContext(ctx)
		defer cancel()
		_, e := m.Delete(after, v.ID)
		err = errors.Join(err, deleted(e))
	}
	return err
}

// foreground shows an instance's console until its container has ended; a reboot is no
// end. A signal to us, and an output that takes no more, stop the container; what it
// says while it stops is shown too.
func (a *App) foreground(ctx context.Context, m *instance.Manager, v instance.View) error {
	until, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)
	stopped := make(chan error, 1)
	stop := func() {
		after, cancel := a.undoContext(ctx)
		defer cancel()
		_, err := m.Stop(after, v.ID, false)
		if errors.Is(err, instance.ErrState) { // it has ended by itself meanwhile
			err = nil
		}
		if err = deleted(err); err != nil {
			giveUp(err)
		}
		stopped <- err
	}
	ended := func() bool {
		if v.Console.Alive() || m.Store.Held(v.ID) {
			return false
		}
		now, err := m.Show(until, v.ID)
		v.Console = now.Console
		return err != nil || !now.Domain.Active()
	}
	// A reader of ours that goes away must not end us before the container.
	signal.Ignore(syscall.SIGPIPE)
	forward := context.AfterFunc(ctx, stop)
	err := console.FollowLog(until, m.Store.LogPath(v.ID), 0, a.Out, ended)
	if forward() { // no signal has come
		if err == nil {
			after, cancel := a.undoContext(ctx)
			defer cancel()
			return deleted(m.Change(after, v.ID, func(r *instance.Record) error { r.Up = false; return nil }))
		}
		stop()
	}
	if failed := <-stopped; failed != nil {
		return failed
	}
	return err
}

// deleted makes nil of the error that another command has deleted the instance.
func deleted(err error) error {
	if errors.Is(err, instance.ErrNotFound) {
		return nil
	}
	return err
}
