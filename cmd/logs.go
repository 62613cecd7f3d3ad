package cmd

import (
	"errors"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

func (a *App) newLogsCmd() *cobra.Command {
	var follow, raw bool
	var length int
	var tail string
	c := &cobra.Command{
		Use: "logs INSTANCE", Aliases: []string{"console-log"}, Short: "Show the console log of an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		Long: `Show what the container has printed on its console. The log is bounded: the oldest
part is dropped. What could change a terminal is escaped, unless --raw is given; colours
pass to one.`,
		Example: "  lxcboot logs -f web1\n  lxcboot logs -n 20 web1",
		RunE: func(c *cobra.Command, args []string) error {
			lines, err := logLines(c, length, tail)
			if err != nil {
				return err
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
					return console.FollowLog(c.Context(), path, lines, w, func() bool { return !rec.Console.Alive() })
				} else {
					return console.ReadLog(path, lines, w)
				}
			}
			if raw {
				return show(a.Out)
			}
			out := tty.Writer(a.Out, isTerminal(a.Out))
			return errors.Join(show(out), out.Close())
		},
	}
	// -f follows here, as everywhere else where there are logs. A flag of this name keeps
	// that of all commands, which has the letter too, out.
	c.Flags().StringVar(&a.print.Format, "format", "table", "has no effect here")
	_ = c.Flags().MarkHidden("format")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the container ends")
	c.Flags().StringVarP(&tail, "tail", "n", "all", "only the last so many lines, or all")
	c.Flags().IntVar(&length, "length", 0, "the same, where 0 is all")
	c.Flags().BoolVar(&raw, "raw", false, "do not escape anything")
	return c
}

// logLines is how many of the last lines of a log are asked for, as console.ReadLog takes it.
func logLines(c *cobra.Command, length int, tail string) (int, error) {
	switch {
	case c.Flags().Changed("tail") && c.Flags().Changed("length"):
		return 0, failure.Invalid("--tail and --length both say how many lines: leave one out")
	case length < 0:
		return 0, failure.Invalid("--length %d: it is a number of lines, from 1 on; 0 is all of them", length)
	case tail == "all":
		return length, nil
	}
	n, err := strconv.Atoi(tail)
	switch {
	case err != nil || n < 0:
		return 0, failure.Invalid("--tail %q: it is a number of lines, or all", tail)
	case n == 0:
		return console.NoLines, nil
	}
	return n, nil
}
