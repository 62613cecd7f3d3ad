package volume

import (
	"errors"
	"fmt"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// The kinds of failure that callers tell apart. Stores wrap them with the
// object's kind and reference; test with errors.Is.
var (
	ErrNotFound    = errors.New("not found")
	ErrAmbiguous   = errors.New("ambiguous name")
	ErrInUse       = errors.New("in use")
	ErrConflict    = errors.New("conflict")
	ErrInvalid     = failure.ErrInvalid
	ErrQuota       = errors.New("quota exceeded")
	ErrUnreachable = errors.New("service unreachable")
	ErrAuth        = errors.New("not authorized")
	ErrUnsupported = errors.New("not supported")
)

// NotFoundError says that there is no such object.
type NotFoundError struct {
	Kind string // image, volume, snapshot
	Ref  string // id or name, as given
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("%s %q not found", e.Kind, e.Ref) }

// Is makes errors.Is(err, ErrNotFound) true.
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// AmbiguousError says that a name stands for several objects.
type AmbiguousError struct {
	Kind string   // image, volume, snapshot
	Name string   // as given
	IDs  []string // all that it could mean
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%s name %q is ambiguous: it is the name of %s; use an id", e.Kind, e.Name, strings.Join(e.IDs, ", "))
}

// Is makes errors.Is(err, ErrAmbiguous) true.
func (e *AmbiguousError) Is(target error) bool { return target == ErrAmbiguous }

// StateError says that a wait ended in a state it was not for.
type StateError struct {
	Kind   string // image, volume, snapshot
	ID     string
	Status string // the status it has
	Want   string // the status that was waited for
	Detail string // the service's own words; may be empty
}

func (e *StateError) Error() string {
	s := fmt.Sprintf("%s %s is %q instead of %q", e.Kind, e.ID, e.Status, e.Want)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *StateError) Is(target error) bool { return target == ErrConflict }
