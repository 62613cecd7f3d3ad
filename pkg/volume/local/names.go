package local

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// maxName is the longest name, in characters: Cinder's and Glance's limit.
const maxName = 255

// checkName checks a text that ends up in lists, so that nobody can put terminal
// controls or a second line there. An empty one is allowed.
func checkName(what, s string) error {
	switch {
	case !utf8.ValidString(s):
		return failure.Invalid("%s %q is not UTF-8 text", what, s)
	case utf8.RuneCountInString(s) > maxName:
		return failure.Invalid("%s %q… is %d characters long, at most %d are allowed",
			what, string([]rune(s)[:20]), utf8.RuneCountInString(s), maxName)
	case strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp)
	}):
		return failure.Invalid("%s %q holds a control character: leave it out", what, s)
	}
	return nil
}

// checkMap checks metadata or properties: keys as names, values as Cinder limits
// them, but of several lines if one likes.
func checkMap(what string, m map[string]string) error {
	for k, v := range m {
		if k == "" {
			return failure.Invalid("%s has an empty key", what)
		}
		if err := checkName(what+" key", k); err != nil {
			return err
		}
		if !utf8.ValidString(v) || utf8.RuneCountInString(v) > maxName {
			return failure.Invalid("%s %s: the value is not UTF-8 text of at most %d characters", what, k, maxName)
		}
	}
	return nil
}

// gib is bytes in GiB, rounded up.
func gib(bytes int64) int {
	n := bytes >> 30
	if bytes&(1<<30-1) != 0 {
		n++
	}
	return int(n)
}
