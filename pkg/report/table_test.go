package report

import (
	"strings"
	"testing"

	"github.com/jedib0t/go-pretty/v6/text"
)

const id1, id2 = "0a1b2c3d-0000-4000-8000-000000000001", "1a1b2c3d-0000-4000-8000-000000000002"

// drawn is a list as a table of a width.
func drawn(t *testing.T, width int, l List) string {
	t.Helper()
	var out strings.Builder
	if err := (&Printer{Out: &out, Format: "table", Width: width}).List(l); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestFit holds that a table is as wide as it may be, loses nothing but the ends of ids,
// and is not touched where it has room.
func TestFit(t *testing.T) {
	l := List{Columns: []string{"ID", "Name", "Held by", "Path"}, Rows: [][]any{
		{id1, "a", []string{id1, id2}, "/volumes/" + id1 + "/disk"},
		{id2, "名前は日本語です", []string(nil), "does not run: containers see the memory of the host"},
	}}
	full := drawn(t, 0, l)
	if !strings.Contains(full, "| "+id1+" | a ") || drawn(t, 1000, l) != full {
		t.Errorf("with room:\n%s", full)
	}
	for width := 50; width < 150; width++ {
		got := drawn(t, width, l)
		for line := range strings.Lines(got) {
			if w := text.StringWidth(strings.TrimSuffix(line, "\n")); w > width {
				t.Fatalf("of %d columns a line has %d:\n%s", width, w, got)
			}
		}
		if !strings.Contains(got, "| 0a1b2c3d | ") || !strings.Contains(got, "名前") {
			t.Fatalf("of %d columns:\n%s", width, got)
		}
		var path string
		for line := range strings.Lines(got) {
			if cells := strings.Split(line, "|"); len(cells) == 6 {
				path += strings.TrimSpace(cells[4])
			}
		}
		if !strings.Contains(path, "/volumes/"+id1+"/disk") {
			t.Fatalf("of %d columns the path is %q:\n%s", width, path, got)
		}
	}
	if got := drawn(t, 5, l); got != drawn(t, 1, l) {
		t.Errorf("too narrow for any table:\n%s", got)
	}
}

// TestFitKeepsNames holds that a name is broken last: it is what is copied.
func TestFitKeepsNames(t *testing.T) {
	const name = "web-frontend-number-1"
	got := drawn(t, 66, List{Columns: []string{"Name", "Created", "Note"}, Rows: [][]any{{name, "2026-11-28T02:21:27Z", "two words and more of them"}}})
	if !strings.Contains(got, "| "+name+" | 2026-11-28T") || strings.Count(got, "\n") > 6 {
		t.Errorf("\n%s", got)
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		in    string
		width int
		want  string
	}{
		{"short", 10, "short"},
		{"one two three", 7, "one two\nthree"},
		{"abcdefghij", 4, "abcd\nefgh\nij"},
		{"a bcdefghijklmn", 8, "a bcdefg\nhijklmn"},
		{"abcde fghijklmno", 8, "abcde\nfghijklm\nno"},
		{"2026-11-28T02:21:27Z", 12, "2026-11-28T\n02:21:27Z"},
		{"/var/lib/lxcboot/images", 10, "/var/lib/\nlxcboot/\nimages"},
		{"日本語です", 5, "日本\n語で\nす"},
		{"", 5, ""},
	} {
		if got := wrap(c.in, c.width); got != c.want {
			t.Errorf("%q in %d: %q, not %q", c.in, c.width, got, c.want)
		}
	}
}

// TestRecordKeepsIDs holds that one thing is shown with its whole ids, however narrow.
func TestRecordKeepsIDs(t *testing.T) {
	var out strings.Builder
	if err := (&Printer{Out: &out, Format: "table", Width: 48}).Record(Record{{"id", id1}, {"text", strings.Repeat("word ", 20)}}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), id1) || strings.Contains(out.String(), strings.Repeat("-", 48)) {
		t.Errorf("%s", out.String())
	}
}
