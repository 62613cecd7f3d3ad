package tty

import (
	"bytes"
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
	} {
		var out bytes.Buffer
		w := Writer(&out)
		for i := range len(in) { // a byte at a time: the worst case
			if n, err := w.Write([]byte{in[i]}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%q: %q instead of %q", in, out.String(), want)
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
	f.Add([]byte("a\r\n\x1b\xc3\xa4"), 3)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		var whole, parts bytes.Buffer
		w := Writer(&whole)
		w.Write(in)
		w.Close()
		w = Writer(&parts)
		cut = max(0, min(cut, len(in)))
		w.Write(in[:cut])
		w.Write(in[cut:])
		w.Close()
		if whole.String() != parts.String() {
			t.Errorf("%q cut at %d: %q and %q", in, cut, whole.String(), parts.String())
		}
		if bad := strings.ContainsFunc(whole.String(), func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }); bad || !utf8.Valid(whole.Bytes()) {
			t.Errorf("%q came out as %q", in, whole.String())
		}
	})
}
