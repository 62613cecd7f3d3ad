package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

func (a *App) newAdoptCmd() *cobra.Command {
	var all, yes bool
	c := &cobra.Command{
		Use: "adopt {INSTANCE | --all}", Short: "Take over instances that belong to another host", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		Long: `Make instances that belong to another host this host's: after a reinstallation, or when
the state directory was restored on another machine. Until then all that could change
them is refused, since two hosts that mount one filesystem destroy it. The host that
they belong to must not run them any more; what it visibly still claims is refused.`,
		RunE: func(c *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return failure.Invalid("adopt needs the name or id of an instance, or --all")
			}
			return withManager(a.storeManager, a.timed(func(ctx context.Context, m *instance.Manager, args []string) error {
				what, whose := "all instances that belong to another host", "that host"
				if !all {
					v, err := m.Show(ctx, args[0])
					if err != nil {
						return err
					}
					what, whose = fmt.Sprintf("instance %q", v.Name), fmt.Sprintf("%q", v.Host.Name)
				}
				if !yes {
					if err := a.confirm(ctx, "Make %s this host's? What %s still runs of it is destroyed.", what, whose); err != nil {
						return err
					}
				}
				if !all {
					return m.Adopt(ctx, args[0])
				}
				adopted, err := m.AdoptAll(ctx)
				for _, name := range adopted {
					a.say("adopted %s", name)
				}
				return err
			}))(c, args)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all that belong to another host")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// confirm asks whoever is at the terminal, and is nil when that one says yes.
func (a *App) confirm(ctx context.Context, format string, args ...any) error {
	question := tty.Line(fmt.Sprintf(format, args...))
	if !isTerminal(a.In) || !isTerminal(a.Err) {
		return failure.Invalid("there is no terminal to ask on; --yes says yes to: %s", question)
	}
	fmt.Fprint(a.Err, question+" [y/N] ")
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.In).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case line := <-answer:
		if line != "y" && line != "yes" {
			return errors.New("nothing was changed")
		}
		return nil
	}
}
