package cmd

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// newEndedCmd is what the process that keeps a console becomes when the container has
// ended: nobody else may be there to release what the host holds for it.
func (a *App) newEndedCmd() *cobra.Command {
	var status uint32
	var config string
	c := &cobra.Command{
		Use: "ended ID", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			m, err := a.offlineManager()
			if err != nil {
				return err
			}
			if m.Domains, err = a.openDomains(ctx); err != nil {
				return err
			}
			how := &status
			if !c.Flags().Changed("status") {
				how = nil
			}
			pause, err := m.Ended(ctx, args[0], how)
			if err != nil || pause == 0 {
				return err
			}
			return a.again(args[0], pause, config)
		},
	}
	c.Flags().StringVar(&config, againWith, "", "configuration of a start that follows")
	c.Flags().Uint32Var(&status, "status", 0, "wait status of the container's init")
	return c
}

// againWith is the flag for the configuration that a start by the restart policy is to have.
// What only releases needs none, and must not fail for want of it.
const againWith = "again-with"

// endedWords are the command for the end of a container.
func (a *App) endedWords() []string {
	words := []string{"ended"}
	if path, err := filepath.Abs(a.config); a.config != "" && err == nil {
		words = append(words, "--"+againWith, path)
	}
	return words
}

// again has this process go on as newAgainCmd does, without what it holds for the container
// that has ended.
func (a *App) again(id string, pause time.Duration, config string) error {
	words, err := a.itself()
	if config != "" {
		words = append(words, "--config", config)
	}
	if err == nil {
		err = host.CloseOnExec()
	}
	if err != nil {
		return err
	}
	argv := append(words, "again", id, "--after", pause.String())
	return os.NewSyscallError("execve", unix.Exec(argv[0], argv, os.Environ()))
}

// newAgainCmd starts a container again by its restart policy. What ends this process before,
// such as the host going down, leaves it to the next start of the host.
func (a *App) newAgainCmd() *cobra.Command {
	var after time.Duration
	c := &cobra.Command{
		Use: "again ID", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := wait.For(c.Context(), after); err != nil {
				return err
			}
			return withManager(a.storeManager, a.timed(func(ctx context.Context, m *instance.Manager, args []string) error {
				return m.Again(ctx, args[0])
			}))(c, args)
		},
	}
	c.Flags().DurationVar(&after, "after", 0, "the pause before it")
	return c
}
