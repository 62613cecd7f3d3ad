package cmd

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

func (a *App) newLogsCmd() *cobra.Command {
	var follow, raw bool
	var length int
	c := &cobra.Command{
		Use: "logs INSTANCE", Aliases: []string{"console-log"}, Short: "Show the console log of an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		Long: `Show what the container has printed on its console. The log is bounded: the oldest
part is dropped. What could change a terminal is escaped, unless --raw is given; colours
pass to one.`,
		RunE: func(c *cobra.Command, args []string) error {
			if length < 0 {
				return failure.Invalid("--length %d: it is a number of lines, from 1 on; 0 is all of them", length)
			}
			store, err := a.records()
			if err != nil {
				return err
			}
			rec, err := store.Find(args[0])
			if err != nil {
				return err
			}
			show := func(w io.Writer) error {
				if path := store.LogPath(rec.ID); follow {
					return console.FollowLog(c.Context(), path, length, w, func() bool { return !rec.Console.Alive() })
				} else {
					return console.ReadLog(path, length, w)
				}
			}
			if raw {
				return show(a.Out)
			}
			out := tty.Writer(a.Out, isTerminal(a.Out))
			return errors.Join(show(out), out.Close())
		},
	}
	c.Flags().BoolVar(&follow, "follow", false, "go on until the container ends")
	c.Flags().IntVar(&length, "length", 0, "only the last so many lines")
	c.Flags().BoolVar(&raw, "raw", false, "do not escape anything")
	return c
}
