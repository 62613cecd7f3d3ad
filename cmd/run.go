package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// stopTime is how long a container of run has to end by itself: a job scheduler kills run
// 30 s after it asked it to end.
const stopTime = 20 * time.Second

func (a *App) newRunCmd() *cobra.Command {
	o := &bootOptions{}
	var rm bool
	c := &cobra.Command{
		Use: "run NAME", Short: "Boot an instance in the foreground", Args: nameArg,
		Long: `Boot an instance as boot does, and stay until its container ends: its console comes
on stdout, and SIGINT and SIGTERM stop it. For systemd, Nomad and CI jobs. The exit
code is that of the container's init: 0 also after a power-off, 128 and the signal
when one ended it. What run itself fails at is 125, as with docker run.`,
		RunE: func(c *cobra.Command, args []string) error { return a.run(c.Context(), o, args[0], rm) },
	}
	a.bootFlags(c, o)
	c.Flags().BoolVar(&rm, "rm", false, "delete the instance when it has ended")
	stopTimeoutFlag(c, stopTime)
	return c
}

func (a *App) run(ctx context.Context, o *bootOptions, name string, rm bool) error {
	if o.restart != "" {
		return failure.Invalid("run ends with its container: leave --restart out, or boot it")
	}
	caller, err := state.CallerRunning(rm)
	if err != nil {
		return err
	}
	m, plans, err := a.plan(ctx, o, name, caller)
	switch {
	case err != nil:
		return err
	case len(plans) > 1:
		return failure.Invalid("run boots one instance; leave --min-count and --max-count out")
	case o.dryRun:
		return a.printPlans(plans)
	}
	v, err := m.Boot(ctx, plans[0])
	if err != nil {
		return err
	}
	err = a.foreground(ctx, m, v)
	after, cancel := a.undoContext(ctx)
	defer cancel()
	code, e := outcome(after, m, v.ID)
	err = errors.Join(err, e)
	if rm {
		_, e := m.Delete(after, v.ID)
		err = errors.Join(err, deleted(e))
	}
	if err == nil && code != 0 {
		return exitError(code)
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
		if errors.Is(err, state.ErrState) { // it has ended by itself meanwhile
			err = nil
		}
		if err = deleted(err); err != nil {
			giveUp(err)
		}
		stopped <- err
	}
	// A reader of ours that goes away must not end us before the container.
	signal.Ignore(syscall.SIGPIPE)
	forward := context.AfterFunc(ctx, stop)
	err := console.FollowLog(until, m.Store.LogPath(v.ID), 0, a.Out, func() bool {
		if v.Console.Alive() || m.Store.Held(v.ID) {
			return false
		}
		now, err := m.Show(until, v.ID)
		if err == nil {
			v.Console = now.Console // another one after a reboot
		}
		return over(now, err)
	})
	if forward() { // no signal has come
		if err == nil {
			return nil
		}
		stop()
	}
	return cmp.Or(<-stopped, err)
}

// over says whether a container has ended, by what show found. That nothing could be found
// is no end: libvirtd may be away for a while.
func over(v instance.View, err error) bool {
	return errors.Is(err, state.ErrNotFound) || err == nil && !v.Domain.Active()
}

// outcome is the exit code that a container's end stands for.
func outcome(ctx context.Context, m *instance.Manager, id string) (int, error) {
	v, err := m.Show(ctx, id)
	if errors.Is(err, state.ErrNotFound) { // deleted by another command, which killed it
		return exitKilled, nil
	}
	if err != nil {
		return 0, err
	}
	if v.Exit == nil {
		return 0, fmt.Errorf("the container of instance %q has ended, and with what exit status could not be learnt", v.Name)
	}
	return v.Exit.Code(), nil
}

// deleted makes nil of the error that another command has deleted the instance.
func deleted(err error) error {
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	return err
}
