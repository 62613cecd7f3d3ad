package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// kind is a kind of thing that a volume store keeps. Images, volumes and snapshots are
// listed, shown, deleted and completed alike.
type kind[T any] struct {
	name    string // as it is typed
	list    func(Store, context.Context) ([]T, error)
	find    func(Store, context.Context, string) (T, error)
	remove  func(Store, context.Context, string) error
	called  func(T) (name, id string)
	record  func(T) record
	columns []string
	units   map[string]string // of columns
	row     func(T) []any
	facts   func(T) facts
}

// newKindCmd is the group of the commands of a kind: list, show, delete, and the given.
func newKindCmd[T any](a *App, k kind[T], more ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: k.name, Short: "Manage " + k.name + "s"}
	arg := strings.ToUpper(k.name)
	c.AddCommand(more...)
	c.AddCommand(
		newKindList(a, k),
		&cobra.Command{
			Use: "show " + arg, Short: "Show one " + k.name, Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(k.names(a), false),
			RunE: a.withStore(func(ctx context.Context, s Store, args []string) error {
				x, err := k.find(s, ctx, args[0])
				if err != nil {
					return err
				}
				return a.print.Record(k.record(x))
			}),
		},
		&cobra.Command{
			Use: "delete " + arg + "...", Short: "Delete " + k.name + "s", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completer(k.names(a), true),
			RunE: a.withStore(func(ctx context.Context, s Store, args []string) error {
				return each(args, func(ref string) error {
					id, err := k.id(ctx, s, ref)
					if err != nil {
						return err
					}
					return k.remove(s, ctx, id)
				})
			}),
		})
	return c
}

// newKindList is the command that lists the things of a kind.
func newKindList[T any](a *App, k kind[T]) *cobra.Command {
	var f filters
	var none T
	c := &cobra.Command{Use: "list", Short: "List " + k.name + "s", Args: cobra.NoArgs}
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.parse("--property"); err != nil {
			return err
		}
		err := a.withStore(func(ctx context.Context, s Store, _ []string) error {
			all, damaged := k.list(s, ctx)
			if damaged != nil && all == nil {
				return damaged
			}
			slices.SortFunc(all, func(x, y T) int {
				xName, xID := k.called(x)
				yName, yID := k.called(y)
				return strings.Compare(xName+xID, yName+yID)
			})
			l := listing{Columns: k.columns, Units: k.units}
			for _, x := range all {
				if f.take(k.facts(x)) {
					l.Rows = append(l.Rows, k.row(x))
				}
			}
			return errors.Join(f.print(a, l), damaged)
		})(c, args)
		if errors.Is(err, errNoState) {
			a.noneYet()
			return f.print(a, listing{Columns: k.columns, Units: k.units})
		}
		return err
	}
	f.bind(c)
	c.Flags().StringArrayVar(&f.properties, "property", nil, "only with this KEY=VALUE, or KEY (can be repeated)")
	if k.facts(none).hosts != nil {
		c.Flags().StringVar(&f.host, "host", "", "only what an instance of this host has, by the host's name or id")
	}
	return c
}

// names lists what the things of a kind are called, for completion: by their names, and
// by their ids where they have none or share it.
func (k kind[T]) names(a *App) func(context.Context) ([]string, error) {
	return func(ctx context.Context) (names []string, err error) {
		s, err := a.openStore(ctx)
		if err != nil {
			return nil, err
		}
		all, err := k.list(s, ctx)
		count := map[string]int{}
		for _, x := range all {
			name, _ := k.called(x)
			count[name]++
		}
		for _, x := range all {
			name, id := k.called(x)
			switch {
			case name == "":
				name = id
			case count[name] > 1:
				name = cobra.CompletionWithDesc(id, name)
			}
			names = append(names, name)
		}
		return names, err
	}
}

// id is the id of the thing that is meant; of "" it is "".
func (k kind[T]) id(ctx context.Context, s Store, ref string) (string, error) {
	if ref == "" {
		return "", nil
	}
	x, err := k.find(s, ctx, ref)
	_, id := k.called(x)
	return id, err
}

// make does what makes or changes a thing, and prints that.
func (k kind[T]) make(a *App, done string, do func() (T, error)) error {
	var none T
	if err := a.print.Check(k.record(none).Names()); err != nil {
		return err
	}
	x, err := do()
	if err != nil {
		return err
	}
	_, id := k.called(x)
	return a.printMade(k.record(x), k.name+" "+id+" "+done, fmt.Sprintf("lxcboot %s show %s shows it, and lxcboot %[1]s delete %[2]s removes it", k.name, id))
}

// withStore is the work of a command that needs the volume store.
func (a *App) withStore(do func(ctx context.Context, s Store, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		s, err := a.openStore(c.Context())
		if err != nil {
			return err
		}
		return do(c.Context(), s, args)
	}
}
