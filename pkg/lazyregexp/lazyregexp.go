// Package lazyregexp compiles regular expressions when they are first used: a command
// is not to wait for the patterns of all the others.
package lazyregexp

import (
	"regexp"
	"sync"
)

// New gives a function whose first call compiles an expression. Like
// regexp.MustCompile it panics when that is not valid.
func New(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
