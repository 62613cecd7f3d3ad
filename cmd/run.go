package cmd

import (
	"context"
	"errors"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
)

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
		return failure.Invalid("run boots one instance; leave --min-count and --max-count out")
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
