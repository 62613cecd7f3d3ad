// Package failure has the one error type of this module that knows its kind. The kind
// is for errors.Is and the exit code; the text is for people, and is the whole of what
// they are told.
package failure

import (
	"errors"
	"fmt"
)

// ErrInvalid is the kind of a request that cannot be: what its user typed, or a file of
// theirs, has to change first.
var ErrInvalid = errors.New("invalid request")

// Error is a failure of a kind.
type Error struct {
	Kind error // for errors.Is; its own words are not part of Error's
	err  error // the text, with what it wraps
}

// Of makes an Error; the rest is as for fmt.Errorf.
func Of(kind error, format string, args ...any) error {
	return &Error{kind, fmt.Errorf(format, args...)}
}

// Invalid is Of(ErrInvalid, …).
func Invalid(format string, args ...any) error { return Of(ErrInvalid, format, args...) }

func (e *Error) Error() string { return e.err.Error() }

// Unwrap gives the kind and what the text wraps to errors.Is and errors.As.
func (e *Error) Unwrap() []error { return []error{e.Kind, e.err} }
