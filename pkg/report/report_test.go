package report

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

func TestCell(t *testing.T) {
	if got := Cell("a\x1b[2Jb\nc\u202ed"); got != `a\x1b[2Jb\nc\u202ed` {
		t.Errorf("a cell that changes the terminal: %q", got)
	}
}

// TestHidden holds that what programs read is whole, and safe for a terminal as well.
func TestHidden(t *testing.T) {
	const text = "a\x1bb\u202ec\nyes"
	for format, want := range map[string]string{
		"json": "{\n  \"text\": \"a\\u001bb\\u202ec\\nyes\",\n  \"l\": []\n}\n",
		"yaml": "text: \"a\\eb\\U0000202ec\\nyes\"\nl: []\n",
	} {
		var out strings.Builder
		if err := (&Printer{Out: &out, Format: format}).Record(Record{{"text", text}, {"l", []string(nil)}}); err != nil || out.String() != want {
			t.Errorf("%s: %q, not %q, %v", format, out.String(), want, err)
		}
	}
}

func TestColumns(t *testing.T) {
	var out strings.Builder
	p := Printer{Out: &out, Format: "value", Columns: []string{"B", "a", "b"}}
	if err := p.List(List{Columns: []string{"a", "b"}, Rows: [][]any{{1, "x"}, {2, "y"}}}); err != nil || out.String() != "x 1\ny 2\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := p.Check([]string{"a"}); !errors.Is(err, failure.ErrInvalid) {
		t.Errorf("a column that there is not: %v", err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	p.Out = full
	if err := p.Record(Record{{"a", 1}, {"b", 2}}); err == nil {
		t.Error("a result that could not be written is no error")
	}
}

// TestLine holds that what comes one after the other is a line each, in JSON, too.
func TestLine(t *testing.T) {
	for format, want := range map[string]string{"json": "{\"a\":\"x\\u001by\",\"n\":7}\n", "value": `x\x1by 7` + "\n", "table": `x\x1by 7` + "\n"} {
		var out strings.Builder
		if err := (&Printer{Out: &out, Format: format}).Line(Record{{"a", "x\x1by"}, {"n", Bytes(7)}}); err != nil || out.String() != want {
			t.Errorf("%s: %q, %v", format, out.String(), err)
		}
	}
}
