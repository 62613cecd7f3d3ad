// Package report writes what a command found, one thing or a list, as a table and values
// for people or as JSON and YAML for programs.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"

	"github.com/lxcboot/lxcboot/pkg/failure"

	"github.com/lxcboot/lxcboot/pkg/tty"
)

// Formats are the formats there are.
var Formats = []string{"table", "json", "yaml", "value"}

// Field is a property of one thing.
type Field = struct {
	Name  string
	Value any
}

// Record is all properties of one thing, in order, also where it is encoded.
type Record []Field

// List is things of one kind with their columns.
type List struct {
	Columns []string
	Rows    [][]any
	Units   map[string]string // of the numbers of a column, for its head in a table
}

// Bytes is a number of bytes: in few words in a table, and as it is elsewhere.
type Bytes int64

// Human is the number with a unit.
func (b Bytes) Human() string {
	if b < 1<<10 {
		return fmt.Sprintf("%d B", int64(b))
	}
	n, unit := float64(b), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n /= 1 << 10; n < 1<<10 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", n, unit)
}

// Printer writes in one of the Formats.
type Printer struct {
	Out     io.Writer
	Format  string
	Columns []string // that were asked for, in any case; empty: all
	Width   int      // of a table, in columns of a terminal; 0: what it needs
}

// Names are the names of the fields.
func (r Record) Names() (names []string) {
	for _, f := range r {
		names = append(names, f.Name)
	}
	return names
}

// Check refuses columns that were asked for and are not among those that there will be,
// with failure.ErrInvalid: before something is made, and not when it is to be told.
func (p *Printer) Check(columns []string) error {
	_, err := p.pick(columns)
	return err
}

// pick finds the columns that were asked for.
func (p *Printer) pick(have []string) (picked []int, err error) {
	if len(p.Columns) == 0 {
		for i := range have {
			picked = append(picked, i)
		}
	}
	for _, w := range p.Columns {
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

// Record writes one thing: a property table, or an object.
func (p *Printer) Record(r Record) error {
	picked, err := p.pick(r.Names())
	if err != nil {
		return err
	}
	var chosen Record
	var rows [][]string
	var lines []string
	for _, i := range picked {
		f := r[i]
		chosen = append(chosen, f)
		cell := Cell(f.Value)
		if b, ok := f.Value.(Bytes); ok && b >= 1<<10 {
			cell += " (" + b.Human() + ")"
		}
		rows = append(rows, []string{Cell(f.Name), cell})
		lines = append(lines, Cell(f.Value))
	}
	switch p.Format {
	case "json", "yaml":
		return p.Encode(chosen)
	case "value":
		return p.write(lines...)
	}
	return p.table([]string{"Field", "Value"}, rows, false)
}

// List writes a list.
func (p *Printer) List(l List) error {
	picked, err := p.pick(l.Columns)
	if err != nil {
		return err
	}
	var head, lines []string
	for _, i := range picked {
		name := l.Columns[i]
		if unit := l.Units[name]; unit != "" {
			name += " (" + unit + ")"
		}
		head = append(head, name)
	}
	objects := []Record{} // no null
	var rows [][]string
	for _, row := range l.Rows {
		var o Record
		var cells, shown []string
		for _, i := range picked {
			o = append(o, Field{l.Columns[i], row[i]})
			cell := Cell(row[i])
			cells = append(cells, cell)
			if b, ok := row[i].(Bytes); ok {
				cell = b.Human()
			}
			shown = append(shown, cell)
		}
		objects, rows, lines = append(objects, o), append(rows, shown), append(lines, strings.Join(cells, " "))
	}
	switch p.Format {
	case "json", "yaml":
		return p.Encode(objects)
	case "value":
		return p.write(lines...)
	}
	return p.table(head, rows, true)
}

// Line writes one thing as a line: for one after the other, as they come. JSON is an object
// without line breaks, all else values.
func (p *Printer) Line(r Record) error {
	picked, err := p.pick(r.Names())
	if err != nil {
		return err
	}
	var chosen Record
	var cells []string
	for _, i := range picked {
		chosen, cells = append(chosen, r[i]), append(cells, Cell(r[i].Value))
	}
	if p.Format != "json" {
		return p.write(strings.Join(cells, " "))
	}
	data, err := marshal(chosen)
	if err != nil {
		return err
	}
	return p.write(escape(string(data)))
}

// write writes lines. A result that could not be written is an error: who reads it would
// take it for an empty one.
func (p *Printer) write(lines ...string) error {
	if len(lines) == 0 {
		return nil
	}
	_, err := io.WriteString(p.Out, strings.Join(lines, "\n")+"\n")
	return err
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

// Cell is a value as a line of text that is safe for a terminal.
func Cell(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return tty.Line(v)
	case []string:
		return tty.Line(strings.Join(v, ", "))
	case map[string]string:
		var pairs []string
		for k, x := range v {
			pairs = append(pairs, k+"='"+x+"'")
		}
		slices.Sort(pairs)
		return tty.Line(strings.Join(pairs, ", "))
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case fmt.Stringer:
		return tty.Line(v.String())
	case bool, int, int64, uint64, float64:
		return fmt.Sprint(v)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return tty.Line(string(data))
}

// MarshalJSON encodes the fields in order.
func (r Record) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range r {
		if i > 0 {
			b.WriteByte(',')
		}
		for _, v := range []any{f.Name, stable(f.Value)} {
			data, err := marshal(v)
			if err != nil {
				return nil, err
			}
			b.Write(data)
			b.WriteByte(':')
		}
		b.Truncate(b.Len() - 1)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// marshal is JSON with <, > and & as they are: it is not for a page.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// Encode writes any value as JSON, or as the YAML that says the same.
func (p *Printer) Encode(v any) error {
	data, err := marshal(v)
	if err != nil {
		return err
	}
	if p.Format == "yaml" {
		text, err := toYAML(data)
		if err != nil {
			return err
		}
		return p.write(text)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(escape(string(data))), "", "  "); err != nil {
		return err
	}
	return p.write(b.String())
}

// hidden says whether a rune has to be escaped: it cannot be printed, and could change
// a terminal.
func hidden(r rune) bool { return r != '\n' && !tty.Printable(r) }

// escape escapes as JSON does it. All that is hidden is within its strings.
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case !hidden(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		}
	}
	return b.String()
}

// toYAML is JSON as YAML, in the same order.
func toYAML(data []byte) (string, error) {
	var n yaml.Node // JSON is YAML, once what YAML does not have raw is escaped
	if err := yaml.Unmarshal([]byte(escapeYAML(string(data))), &n); err != nil {
		return "", err
	}
	if err := restyle(&n); err != nil {
		return "", err
	}
	out, err := yaml.Marshal(&n)
	return strings.TrimSuffix(escapeYAML(string(out)), "\n"), err
}

// restyle takes the style of JSON off: text is quoted where it would be read as
// something else, also by those who read YAML 1.1 ("yes", "1:20").
func restyle(n *yaml.Node) error {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		if err := n.Encode(n.Value); err != nil {
			return err
		}
		if strings.ContainsFunc(n.Value, hidden) {
			n.Style = yaml.DoubleQuotedStyle
		}
	}
	for _, c := range n.Content {
		if err := restyle(c); err != nil {
			return err
		}
	}
	return nil
}

// escapeYAML escapes control characters for a double-quoted YAML scalar.
func escapeYAML(s string) string {
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			fmt.Fprintf(&b, `\U%08x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
