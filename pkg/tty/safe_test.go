package tty

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestWriter(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\r\nnext\n":    "plain\ttext\nnext\n",
		"\x1b]0;title\x07":         `\x1b]0;title\x07`,
		"\x1b[2J\x9b":              `\x1b[2J\x9b`,
		"grüße 日本 🙂":               "grüße 日本 🙂",
		"over\rwritten":            `over\x0dwritten`,
		"\u202eevil \u0085 \ufeff": `\u202eevil \u0085 \ufeff`,
		"\xff\xc3":                 `\xff\xc3`,
		"end\r":                    "end",
		"\x00\x7f\b":               `\x00\x7f\x08`,
		"\x1b[32mOK\x1b[0m\r\r\n":  `\x1b[32mOK\x1b[0m` + "\n",
	} {
		if got := written(t, in, false); got != want {
			t.Errorf("%q: %q instead of %q", in, got, want)
		}
	}
}

// written is what a Writer makes of a text, a byte at a time: the worst case.
func written(t *testing.T, in string, colours bool) string {
	t.Helper()
	var out bytes.Buffer
	w := Writer(&out, colours)
	for i := range len(in) {
		if n, err := w.Write([]byte{in[i]}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Colours pass, are ended, and nothing that looks like them passes.
func TestWriterColours(t *testing.T) {
	long := "\x1b[" + strings.Repeat("1;", longest)
	for in, want := range map[string]string{
		"[\x1b[0;32m  OK  \x1b[0m]\r\n":     "[\x1b[0;32m  OK  \x1b[0m]\n",
		"\x1b[38:2:255:0:0mred":             "\x1b[38:2:255:0:0mred\x1b[m",
		"\x1b[1mbold\x1b[m":                 "\x1b[1mbold\x1b[m",
		"\x1b[2J\x1b[?25l\x1b[1;1H\x1b[1 m": `\x1b[2J\x1b[?25l\x1b[1;1H\x1b[1 m`,
		"\x1b]0;title\x07\x9b1m":            `\x1b]0;title\x07\x9b1m`,
		"\x1b\x1b[1m":                       `\x1b` + "\x1b[1m\x1b[m",
		"\x1b[3":                            `\x1b[3`,
		"\x1bm":                             `\x1bm`,
		long + "m":                          `\x1b` + long[1:] + "m",
	} {
		if got := written(t, in, true); got != want {
			t.Errorf("%q: %q instead of %q", in, got, want)
		}
	}
}

// What has no end is not waited for, and not kept.
func TestWriterUnended(t *testing.T) {
	for _, in := range []string{"\x1b[" + strings.Repeat("1;", longest), strings.Repeat("\r", 2*longest)} {
		var out bytes.Buffer
		w := Writer(&out, true).(*safeWriter)
		for range 10 {
			if _, err := w.Write([]byte(in)); err != nil {
				t.Fatal(err)
			}
		}
		if len(w.kept) >= longest || out.Len() == 0 {
			t.Errorf("of %.8q %d bytes are kept, and %d are out", in, len(w.kept), out.Len())
		}
	}
}

func TestLines(t *testing.T) {
	for in, want := range map[string]string{
		"plain 日本 🙂":             "plain 日本 🙂",
		"a\nb\x1bc\td\r":         `a\nb\x1bc\td\r`,
		"\u202eliv\u2066e\u200b": `\u202eliv\u2066e\u200b`,
		"\xff \U000e0041\u2028":  `\xff \U000e0041\u2028`,
	} {
		if got := Line(in); got != want {
			t.Errorf("%q: %q instead of %q", in, got, want)
		}
		if got := Lines(in); got != strings.ReplaceAll(want, `a\nb`, "a\nb") {
			t.Errorf("%q in lines: %q", in, got)
		}
	}
}

func FuzzWriter(f *testing.F) {
	f.Add([]byte("a\r\n\x1b\xc3\xa4"), 3, false)
	f.Add([]byte("a\x1b[0;32mb\r\r\n\x1b[2J"), 3, true)
	f.Fuzz(func(t *testing.T, in []byte, cut int, colours bool) {
		var whole, parts bytes.Buffer
		w := Writer(&whole, colours)
		w.Write(in)
		w.Close()
		w = Writer(&parts, colours)
		cut = max(0, min(cut, len(in)))
		w.Write(in[:cut])
		w.Write(in[cut:])
		w.Close()
		if whole.String() != parts.String() {
			t.Errorf("%q cut at %d: %q and %q", in, cut, whole.String(), parts.String())
		}
		text := whole.String()
		if colours {
			text = regexp.MustCompile(`\x1b\[[0-9;:]*m`).ReplaceAllString(text, "")
		}
		if bad := strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }); bad || !utf8.ValidString(text) {
			t.Errorf("%q came out as %q", in, whole.String())
		}
	})
}
