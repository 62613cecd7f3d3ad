package console

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Sanitize gives a writer that makes what a container wrote safe for a terminal:
// newlines, tabs and printable UTF-8 pass, as does a carriage return before a
// newline; everything else comes out as an escape like \x1b, so that no title,
// colour, cursor or keyboard of the terminal can be changed. A character that is
// cut at the end of a write is kept for the next one. Close writes what was kept
// and leaves w open.
func Sanitize(w io.Writer) io.WriteCloser { return &sanitizer{w: w} }

type sanitizer struct {
	w    io.Writer
	kept []byte // the start of a character, or a carriage return
}

func (s *sanitizer) Write(p []byte) (int, error) {
	out, rest := sanitize(append(s.kept, p...), false)
	s.kept = append([]byte(nil), rest...)
	if _, err := s.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *sanitizer) Close() error {
	out, _ := sanitize(s.kept, true)
	s.kept = nil
	_, err := s.w.Write(out)
	return err
}

// Clean makes one line of untrusted text safe for a terminal.
func Clean(text string) string {
	out, _ := sanitize([]byte(text), true)
	return strings.NewReplacer("\n", `\n`, "\t", " ").Replace(string(out))
}

func sanitize(p []byte, end bool) (out, rest []byte) {
	out = make([]byte, 0, len(p))
	for len(p) > 0 {
		if !end && !utf8.FullRune(p) {
			return out, p
		}
		if p[0] == '\r' {
			if len(p) == 1 && !end {
				return out, p
			}
			if len(p) > 1 && p[1] == '\n' || len(p) == 1 {
				p = p[1:]
				continue
			}
		}
		r, n := utf8.DecodeRune(p)
		switch {
		case r == utf8.RuneError && n == 1:
			out = fmt.Appendf(out, `\x%02x`, p[0])
		case r == '\n' || r == '\t' || unicode.IsPrint(r):
			out = append(out, p[:n]...)
		case r < 0x80:
			out = fmt.Appendf(out, `\x%02x`, r)
		default: // C1 controls, bidirectional overrides and other formatting
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		p = p[n:]
	}
	return out, nil
}
