package tty

import (
	"bytes"
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
// tabs pass, and carriage returns before a newline are left out. With colours, changes of
// how characters look (SGR) pass, too, and Close ends them. What is cut at the end of a
// write is kept for the next one. Close writes what was kept and leaves w open.
func Writer(w io.Writer, colours bool) io.WriteCloser { return &safeWriter{w: w, colours: colours} }

type safeWriter struct {
	w       io.Writer
	colours bool
	dyed    bool   // the last change of colours that passed was none back
	kept    []byte // the start of a character or sequence
}

const plain = "\x1b[m" // all colours as they were

func (s *safeWriter) Write(p []byte) (int, error) {
	out, rest := s.safe(append(s.kept, p...), false)
	s.kept = append([]byte(nil), rest...)
	if _, err := s.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *safeWriter) Close() error {
	out, _ := s.safe(s.kept, true)
	s.kept = nil
	if s.dyed {
		out, s.dyed = append(out, plain...), false
	}
	_, err := s.w.Write(out)
	return err
}

// longest is how many bytes are looked at before it is decided what they are, at least:
// the decision does not depend on where a stream is cut.
const longest = 64

func (s *safeWriter) safe(p []byte, end bool) (out, rest []byte) {
	out = make([]byte, 0, len(p))
	for len(p) > 0 {
		head := p[:min(len(p), longest)]
		cut := !end && len(head) < longest
		if !utf8.FullRune(p) && cut {
			return out, p
		}
		if p[0] == '\r' {
			line := bytes.TrimLeft(head, "\r")
			if len(line) == 0 && cut {
				return out, p
			}
			if len(line) == 0 && end && len(p) < longest || bytes.HasPrefix(line, []byte("\n")) {
				p = p[len(head)-len(line):]
				continue
			}
		}
		if s.colours && p[0] == '\x1b' {
			n, whole := sgr(head)
			if n == len(head) && !whole && cut {
				return out, p
			}
			if whole {
				out, p, s.dyed = append(out, p[:n]...), p[n:], !resets(p[:n])
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

// sgr gives how many bytes at the start are of a change of colours, ESC [ NUMBERS m, and
// whether that is all of one.
func sgr(p []byte) (n int, whole bool) {
	for i, c := range p {
		switch {
		case i == 0 && c == '\x1b', i == 1 && c == '[', i > 1 && (c >= '0' && c <= '9' || c == ';' || c == ':'):
		default:
			return i + 1, i > 1 && c == 'm'
		}
	}
	return len(p), false
}

// resets says whether a change of colours takes all back: ESC [ m or ESC [ 0 m.
func resets(sequence []byte) bool {
	return string(sequence) == plain || string(sequence) == "\x1b[0m"
}
