package report

import (
	"regexp"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// shortID is how much of an id is shown where there is no room. The commands take that much
// for the whole.
const shortID = 8

// leastWidth is how narrow a column is made, at most. Below it a table is no longer read.
const leastWidth = 8

var (
	anID    = regexp.MustCompile(`[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	onlyIDs = regexp.MustCompile(`^` + anID.String() + `(?:, ` + anID.String() + `)*$`)
)

// table writes a table. One that is wider than Width has its ids shortened, if it may, and
// then its widest columns wrapped.
func (p *Printer) table(head []string, rows [][]string, shorten bool) error {
	all := append([][]string{head}, rows...)
	if p.Width > 0 {
		room := p.Width - 3*len(head) - 1 // without what is between the cells
		if shorten && sum(widths(all)) > room {
			shortenIDs(rows)
		}
		fit(all, room)
	}
	t := table.NewWriter()
	t.SetStyle(table.StyleDefault)
	t.Style().Format.Header = 0 // as it is
	t.AppendHeader(line(all[0]))
	for _, row := range all[1:] {
		t.AppendRow(line(row))
	}
	return p.write(t.Render())
}

func line(of []string) (r table.Row) {
	for _, c := range of {
		r = append(r, c)
	}
	return r
}

// shortenIDs shortens the ids in cells that have nothing else.
func shortenIDs(rows [][]string) {
	for _, row := range rows {
		for i, cell := range row {
			if onlyIDs.MatchString(cell) {
				row[i] = anID.ReplaceAllStringFunc(cell, func(id string) string { return id[:shortID] })
			}
		}
	}
}

// fit wraps the cells of the widest columns until the rows have room: between pieces first,
// and within them only when that is not enough.
func fit(rows [][]string, room int) {
	have := widths(rows)
	want := slices.Clone(have)
	for _, least := range [][]int{longest(rows), slices.Repeat([]int{leastWidth}, len(have))} {
		for sum(want) > room {
			widest := -1
			for i, w := range want {
				if w > max(least[i], leastWidth) && (widest < 0 || w > want[widest]) {
					widest = i
				}
			}
			if widest < 0 {
				break
			}
			want[widest]--
		}
	}
	for _, row := range rows {
		for i := range row {
			if want[i] < have[i] {
				row[i] = wrap(row[i], want[i])
			}
		}
	}
}

// widths are how wide the columns are.
func widths(rows [][]string) []int {
	return widest(rows, func(cell string) []string { return []string{cell} })
}

// longest are how wide the columns are at least when no piece is broken.
func longest(rows [][]string) []int { return widest(rows, pieces) }

func widest(rows [][]string, of func(cell string) []string) []int {
	w := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			for _, part := range of(cell) {
				w[i] = max(w[i], text.StringWidth(strings.TrimRight(part, " ")))
			}
		}
	}
	return w
}

func sum(of []int) (n int) {
	for _, x := range of {
		n += x
	}
	return n
}

// breaks are where a line may be broken: after a space, what separates the parts of a path
// or list, and a date.
var breaks = regexp.MustCompile(`[ /,=;]+|\d\d-\d\dT`)

func pieces(s string) (all []string) {
	from := 0
	for _, at := range breaks.FindAllStringIndex(s, -1) {
		all, from = append(all, s[from:at[1]]), at[1]
	}
	return append(all, s[from:])
}

// wrap breaks a line so that no part is wider than width: between pieces, and within
// those that are wider themselves.
func wrap(s string, width int) string {
	var lines []string
	var last strings.Builder
	at := 0 // how wide the last line is
	end := func() {
		lines, at = append(lines, strings.TrimRight(last.String(), " ")), 0
		last.Reset()
	}
	for _, piece := range pieces(s) {
		w := text.StringWidth(strings.TrimRight(piece, " "))
		if at+w > width && (w <= width || at >= width/2) { // little does not stand alone before what is broken anyway
			end()
		}
		for _, r := range piece {
			rw := text.RuneWidth(r)
			if r != ' ' && at > 0 && at+rw > width {
				end()
			}
			last.WriteRune(r)
			at += rw
		}
	}
	end()
	return strings.Join(lines, "\n")
}
