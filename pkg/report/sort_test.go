package report

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// TestSort holds that rows are sorted by what their values are, and otherwise stay.
func TestSort(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }
	for keys, want := range map[string]string{
		"":               "c a b d",
		"name":           "a b c d",
		"Name:desc":      "d c b a",
		"SIZE":           "b d a c",
		"size:DESC,name": "c a b d",
		"created:asc":    "a c d b",
		"kind,name:desc": "d b c a",
	} {
		l := List{Columns: []string{"Name", "Size", "Created", "Kind"}, Rows: [][]any{
			{"c", Bytes(10_000), day(2), "y"}, {"a", Bytes(9_000), day(1), "y"}, {"b", Bytes(0), day(30), "x"}, {"d", Bytes(0), day(3), "x"},
		}}
		if err := l.Sort(strings.FieldsFunc(keys, func(r rune) bool { return r == ',' })); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, row := range l.Rows {
			got = append(got, row[0].(string))
		}
		if !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%q: %v, not %s", keys, got, want)
		}
	}
	l := List{Columns: []string{"Name"}}
	for key, says := range map[string]string{"nonsense": "there are Name", "name:up": "asc or desc"} {
		if err := l.Sort([]string{key}); !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", key, err)
		}
	}
}

// TestBytes holds that people read a size in words, programs the number, and that a head has
// its unit in a table alone.
func TestBytes(t *testing.T) {
	for format, want := range map[string]string{
		"table": "| Size     | RAM (MiB) |\n+----------+-----------+\n| 1.5 MiB  | 7         |\n| 1023 B   | 8         |\n| 64.0 GiB | 9         |",
		"json":  "\"Size\": 1572864,\n    \"RAM\": 7",
		"value": "1572864 7\n",
	} {
		var out strings.Builder
		p := Printer{Out: &out, Format: format, Columns: []string{"size", "ram"}}
		l := List{Columns: []string{"Size", "RAM"}, Units: map[string]string{"RAM": "MiB"}, Rows: [][]any{{Bytes(3 << 19), 7}, {Bytes(1023), 8}, {Bytes(64 << 30), 9}}}
		if err := p.List(l); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v\n%s", format, err, out.String())
		}
	}
	var out strings.Builder
	if err := (&Printer{Out: &out, Format: "table"}).Record(Record{{"size", Bytes(3 << 19)}, {"cached", Bytes(0)}}); err != nil || !strings.Contains(out.String(), "| 1572864 (1.5 MiB) |") || !strings.Contains(out.String(), "| 0 ") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
