package cmd

import (
	"bytes"
	"context"
	"errors"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/report"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

func (a *App) newTopCmd() *cobra.Command {
	var once bool
	var interval time.Duration
	var f filters
	c := &cobra.Command{
		Use: "top", Aliases: []string{"stats"}, Short: "Show what running instances use", Args: cobra.NoArgs,
		Long: `Show what running instances of this host use, and refresh it until it is interrupted.
With --once, and where stdout is no terminal, it is shown once. Processor time is that of
the interval: 100 % is one CPU. Memory is with the page cache.`,
		Example: "  lxcboot top --sort memory:desc\n  lxcboot top --once -f json",
		RunE: func(c *cobra.Command, args []string) error {
			if interval < 100*time.Millisecond {
				return failure.Invalid("--interval %v is less than 100ms", interval)
			}
			if err := f.parse("--meta"); err != nil {
				return err
			}
			if err := a.print.Check(topColumns); err != nil {
				return err
			}
			once = once || !isTerminal(a.Out)
			err := withManager(a.manager, func(ctx context.Context, m *instance.Manager, _ []string) error {
				return a.top(ctx, m, f, interval, once)
			})(c, args)
			if _, interrupted := errors.AsType[*interruptedError](context.Cause(c.Context())); interrupted && !once {
				return nil
			}
			return err
		},
	}
	c.Flags().BoolVar(&once, "once", false, "show it once")
	c.Flags().DurationVar(&interval, "interval", time.Second, "how long between two looks")
	f.bind(c)
	c.Flags().StringArrayVar(&f.tags, "tag", nil, "only with this tag (can be repeated)")
	c.Flags().StringArrayVar(&f.properties, "meta", nil, "only with this KEY=VALUE, or KEY, in their metadata (can be repeated)")
	return c
}

var (
	topColumns = []string{"Name", "CPU", "CPU Limit", "Memory", "Memory Limit", "Read", "Written", "Processes", "ID", "CPU Seconds"}
	topUnits   = map[string]string{"CPU": "%", "CPU Limit": "%"}
)

// topShown is how many of the columns a table has.
const topShown = 8

// top shows what is used again and again.
func (a *App) top(ctx context.Context, m *instance.Manager, f filters, interval time.Duration, once bool) error {
	out := a.print.Out
	defer func() { a.print.Out = out }()
	before, err := a.used(ctx, m, f)
	for err == nil {
		if err = wait.For(ctx, interval); err != nil {
			break
		}
		var now map[string]used
		if now, err = a.used(ctx, m, f); err != nil {
			break
		}
		var frame bytes.Buffer
		a.print.Out = &frame
		if err = a.printTop(before, now, f); err != nil {
			break
		}
		const home, rest = "\x1b[H", "\x1b[J"
		text := frame.Bytes()
		if !once {
			// Each line is cleared as it is written, so that nothing flickers.
			text = append([]byte(home), bytes.ReplaceAll(text, []byte("\n"), []byte("\x1b[K\n"))...)
			text = append(text, rest...)
		}
		if _, err = out.Write(text); err != nil || once {
			break
		}
		before = now
	}
	return err
}

// used is what a container has used by a time.
type used struct {
	name string
	at   time.Time
	lxc.Usage
}

// used looks at all running instances that are chosen, by their ids.
func (a *App) used(ctx context.Context, m *instance.Manager, f filters) (map[string]used, error) {
	views, damaged := m.List(ctx)
	if damaged != nil && views == nil {
		return nil, damaged
	}
	all := map[string]used{}
	for _, v := range views {
		if !v.Domain.Active() || !f.take(facts{name: v.Name, status: v.Status, tags: v.Spec.Tags, properties: v.Meta}) {
			continue
		}
		u, err := a.domains.Usage(ctx, v.ID)
		switch {
		case errors.Is(err, lxc.ErrNotRunning) || errors.Is(err, lxc.ErrNotFound): // it has just ended
		case err != nil:
			return nil, err
		default:
			all[v.ID] = used{v.Name, time.Now(), u}
		}
	}
	return all, nil
}

// printTop prints what was used between two looks.
func (a *App) printTop(before, now map[string]used, f filters) error {
	l := listing{Columns: topColumns, Units: topUnits}
	for id, u := range now {
		var cpu, limit any
		if old, ok := before[id]; ok && u.CPUTime >= old.CPUTime {
			cpu = tenth(float64(u.CPUTime-old.CPUTime) / float64(u.at.Sub(old.at)) * 100)
		}
		if u.CPULimit >= 0 {
			limit = tenth(u.CPULimit * 100)
		}
		l.Rows = append(l.Rows, []any{u.name, cpu, limit, counted(u.MemoryBytes), counted(u.MemoryLimit), counted(u.BlockReadBytes), counted(u.BlockWriteBytes), u.Processes, id, tenth(u.CPUTime.Seconds())})
	}
	f.sort = append(f.sort, "name")
	columns := topShown
	if a.print.Format != "table" || len(a.print.Columns) > 0 {
		columns = len(l.Columns)
	}
	return f.printSome(a, l, columns)
}

func tenth(x float64) float64 { return math.Round(x*10) / 10 }

// counted is a number of bytes; nil: the host does not count it.
func counted(n int64) any {
	if n < 0 {
		return nil
	}
	return report.Bytes(n)
}
