package cmd

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// filters choose what a list shows, and in which order.
type filters struct {
	name, host string
	statuses   []string
	tags       []string
	properties []string
	sort       []string

	wanted map[string]*string // of properties; nil: any value
}

// facts are what filters look at.
type facts struct {
	name, status string
	tags         []string
	properties   map[string]string
	hosts        []string // names and ids; nil: of a kind that has none
}

// bind makes the flags that every list has.
func (f *filters) bind(c *cobra.Command) {
	c.Flags().StringVar(&f.name, "name", "", "only with this in their name")
	c.Flags().StringArrayVar(&f.statuses, "status", nil, "only of this status (can be repeated)")
	c.Flags().StringSliceVar(&f.sort, "sort", nil, "COLUMN[:asc|desc] to sort by, several with commas between")
}

// parse looks at what was given, and says by the flag's name what is wrong with properties.
func (f *filters) parse(flag string) error {
	f.wanted = map[string]*string{}
	for _, p := range f.properties {
		key, value, has := strings.Cut(p, "=")
		if key == "" {
			return failure.Invalid("%s %q is neither KEY=VALUE nor KEY", flag, p)
		}
		if _, twice := f.wanted[key]; twice {
			return failure.Invalid("%s %q: the key %q is given twice", flag, p, key)
		}
		f.wanted[key] = nil
		if has {
			f.wanted[key] = &value
		}
	}
	return nil
}

// take says whether something is to be shown.
func (f *filters) take(x facts) bool {
	for key, want := range f.wanted {
		if has, there := x.properties[key]; !there || want != nil && has != *want {
			return false
		}
	}
	for _, tag := range f.tags {
		if !slices.Contains(x.tags, tag) {
			return false
		}
	}
	return strings.Contains(x.name, f.name) &&
		(f.host == "" || slices.Contains(x.hosts, f.host)) &&
		(len(f.statuses) == 0 || slices.ContainsFunc(f.statuses, func(s string) bool { return strings.EqualFold(s, x.status) }))
}

// print prints what was chosen.
func (f *filters) print(a *App, l listing) error { return f.printSome(a, l, len(l.Columns)) }

// printSome is print with the first so many columns. Sorted can be by all of them.
func (f *filters) printSome(a *App, l listing, columns int) error {
	if err := l.Sort(f.sort); err != nil {
		return err
	}
	l.Columns = l.Columns[:columns]
	for i := range l.Rows {
		l.Rows[i] = l.Rows[i][:columns]
	}
	return a.print.List(l)
}
