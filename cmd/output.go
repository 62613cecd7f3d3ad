package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"golang.org/x/term"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

var formats = []string{"table", "json", "yaml", "value"}

// field is a property of one thing; a record is all of them, in order.
type field struct {
	name  string
	value any
}

type record []field

// listing is a list of things with their columns.
type listing struct {
	columns []string
	rows    [][]any
}

// printMade prints what was just made or changed. It is there also when that fails:
// done says so, and how names the commands to see and to undo it with.
func (a *App) printMade(r record, done, how string) error {
	if err := a.printRecord(r); err != nil {
		return &hintError{&madeError{done, err}, how}
	}
	return nil
}

// pickFields are the fields that were asked for. To be called with a sample before
// something is made, so that a wrong column is no reason to make it.
func (a *App) pickFields(r record) (record, error) {
	if len(a.columns) == 0 {
		return r, nil
	}
	var names []string
	for _, f := range r {
		names = append(names, f.name)
	}
	picked, err := pick(names, a.columns)
	var chosen record
	for _, i := range picked {
		chosen = append(chosen, r[i])
	}
	return chosen, err
}

// printRecord prints one thing: a property table, or an object.
func (a *App) printRecord(r record) error {
	r, err := a.pickFields(r)
	if err != nil {
		return err
	}
	switch a.format {
	case "json", "yaml":
		return a.encode(object(r))
	case "value":
		var lines []string
		for _, f := range r {
			lines = append(lines, cell(f.value))
		}
		return a.print(lines...)
	}
	t := newTable("Field", "Value")
	for _, f := range r {
		t.AppendRow(table.Row{f.name, cell(f.value)})
	}
	return a.print(t.Render())
}

// printList prints a list.
func (a *App) printList(l listing) error {
	picked := make([]int, len(l.columns))
	for i := range picked {
		picked[i] = i
	}
	if len(a.columns) > 0 {
		var err error
		if picked, err = pick(l.columns, a.columns); err != nil {
			return err
		}
	}
	switch a.format {
	case "json", "yaml":
		all := make([]object, 0, len(l.rows))
		for _, row := range l.rows {
			var o object
			for _, i := range picked {
				o = append(o, field{l.columns[i], row[i]})
			}
			all = append(all, o)
		}
		return a.encode(all)
	case "value":
		var lines []string
		for _, row := range l.rows {
			var cells []string
			for _, i := range picked {
				cells = append(cells, cell(row[i]))
			}
			lines = append(lines, strings.Join(cells, " "))
		}
		return a.print(lines...)
	}
	head := make([]any, len(picked))
	for n, i := range picked {
		head[n] = l.columns[i]
	}
	t := newTable(head...)
	for _, row := range l.rows {
		var r table.Row
		for _, i := range picked {
			r = append(r, cell(row[i]))
		}
		t.AppendRow(r)
	}
	return a.print(t.Render())
}

// print writes lines to stdout. A result that could not be written is an error: who
// reads it would take it for an empty one.
func (a *App) print(lines ...string) error {
	if len(lines) == 0 {
		return nil
	}
	_, err := io.WriteString(a.Out, strings.Join(lines, "\n")+"\n")
	return err
}

func newTable(head ...any) table.Writer {
	t := table.NewWriter()
	t.SetStyle(table.StyleDefault)
	t.Style().Format.Header = 0 // as it is
	t.AppendHeader(head)
	return t
}

// pick finds the columns that were asked for, in any case, in the order asked.
func pick(have, want []string) (picked []int, err error) {
	for _, w := range want {
		i := slices.IndexFunc(have, func(h string) bool { return strings.EqualFold(h, w) })
		if i < 0 {
			return nil, failure.Invalid("there is no column %q; there are %s", w, strings.Join(have, ", "))
		}
		if !slices.Contains(picked, i) { // an object has each key once
			picked = append(picked, i)
		}
	}
	return picked, nil
}

// stable is a value as programs are to find it whatever it holds: an empty list or
// object is one, and no null, and all times are in one form.
func stable(v any) any {
	if t, ok := v.(time.Time); ok {
		return t.UTC().Format(time.RFC3339)
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Slice:
		if r.IsNil() {
			return []any{}
		}
	case reflect.Map:
		if r.IsNil() {
			return map[string]any{}
		}
	}
	return v
}

// cell is a value as a line of text that is safe for a terminal.
func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return sanitize(v, false)
	case []string:
		return sanitize(strings.Join(v, ", "), false)
	case map[string]string:
		var pairs []string
		for k, x := range v {
			pairs = append(pairs, k+"='"+x+"'")
		}
		slices.Sort(pairs)
		return sanitize(strings.Join(pairs, ", "), false)
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case fmt.Stringer:
		return sanitize(v.String(), false)
	case bool, int, int64, uint64, float64:
		return fmt.Sprint(v)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return sanitize(string(data), false)
}

// sanitize escapes what could change a terminal: names and messages may come from
// anywhere. Newlines are kept where asked for.
func sanitize(s string, newlines bool) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' && newlines, unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// isTerminal says whether a stream is one.
func isTerminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

// warn tells a person what they should know, on stderr, also when that is to be quiet.
func (a *App) warn(format string, args ...any) {
	fmt.Fprintln(a.Err, "warning: "+sanitize(fmt.Sprintf(format, args...), true))
}

// say tells a person what happens, on stderr: progress and hints.
func (a *App) say(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintln(a.Err, sanitize(fmt.Sprintf(format, args...), true))
	}
}
