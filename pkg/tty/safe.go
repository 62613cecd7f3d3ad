package tty

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable is the rule for text that others wrote, such as a container, an image or a
// server: what is not printable must not reach a terminal as it is. It could change the
// title, the colours, the keyboard, or the order in which text is read (bidirectional
// overrides and other format characters).
func Printable(r rune) bool { return unicode.IsPrint(r) }

// Line is text as one line that is safe for a terminal: what is not Printable comes out
// as an escape like \n, \x1b or \u202e.
func Line(text string) string { return escape(text, false) }

// Lines is Line, but that newlines stay.
func Lines(text string) string { return escape(text, true) }

func escape(text string, newlines bool) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return !Printable(r) || r == utf8.RuneError }) {
		return text
	}
	out := make([]byte, 0, len(text)+16)
	for p := []byte(text); len(p) > 0; {
		r, n := utf8.DecodeRune(p)
		switch {
		case r == '\n' && newlines:
			out = append(out, '\n')
		case r == '\n' || r == '\t' || r == '\r':
			out = append(out, '\\', map[rune]byte{'\n': 'n', '\t': 't', '\r': 'r'}[r])
		default:
			out = appendSafe(out, p[:n], r)
		}
		p = p[n:]
	}
	return string(out)
}

// appendSafe appends one character, of the bytes p, or the escape that shows it.
func appendSafe(out, p []byte, r rune) []byte {
	switch {
	case r == utf8.RuneError && len(p) == 1: // no UTF-8
		return fmt.Appendf(out, `\x%02x`, p[0])
	case Printable(r):
		return append(out, p...)
	case r < utf8.RuneSelf:
		return fmt.Appendf(out, `\x%02x`, r)
	case r <= 0xffff:
		return fmt.Appendf(out, `\u%04x`, r)
	}
	return fmt.Appendf(out, `\U%08x`, r)
}

// Writer gives a writer that makes a stream safe for a terminal as Lines does, but that
// tabs pass, and a carriage return before a newline is left out. A character that is cut
// at the end of a write is kept for the next one. Close writes what was kept and leaves w
// open.
func Writer(w io.Writer) io.WriteCloser { return &safeWriter{w: w} }

type safeWriter struct {
	w    io.Writer
	kept []byte // the start of a character, or a carriage return
}

func (s *safeWriter) Write(p []byte) (int, error) {
	out, rest := safe(append(s.kept, p...), false)
	s.kept = append([]byte(nil), rest...)
	if _, err := s.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *safeWriter) Close() error {
	out, _ := safe(s.kept, true)
	s.kept = nil
	_, err := s.w.Write(out)
	return err
}

func safe(p []byte, end bool) (out, rest []byte) {
	out = make([]byte, 0, len(p))
	for len(p) > 0 {
		if !end && !utf8.FullRune(p) {
			return out, p
		}
		if p[0] == '\r' {
			if len(p) == 1 && !end {
				return out, p
			}
			if len(p) == 1 || p[1] == '\n' {
				p = p[1:]
				continue
			}
		}
		r, n := utf8.DecodeRune(p)
		if r == '\n' || r == '\t' {
			out = append(out, p[0])
		} else {
			out = appendSafe(out, p[:n], r)
		}
		p = p[n:]
	}
	return out, nil
}
