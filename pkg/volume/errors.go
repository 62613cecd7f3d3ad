package volume

import (
	"cmp"
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
	ErrQuota       = errors.New("quota exceeded")
	ErrUnreachable = errors.New("service unreachable")
	ErrAuth        = errors.New("not authorized")
	ErrUnsupported = errors.New("not supported")
	// ErrManaged is of what would change or destroy a device that is the host's own.
	ErrManaged = errors.New("managed device")
)

// NotFoundError says that there is no such object.
type NotFoundError struct {
	Kind string // image, volume, snapshot
	Ref  string // id or name, as given
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("%s %q not found", e.Kind, e.Ref) }

// Is makes errors.Is(err, ErrNotFound) true.
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// shortID is how much of an id stands for it: what a table shows that is short of room.
const shortID = 8

// Begins says whether ref is the beginning of the id, and long enough to stand for it.
func Begins(ref, id string) bool {
	return len(ref) >= shortID && strings.HasPrefix(id, strings.ToLower(ref))
}

// AmbiguousError says that a name, or the beginning of an id, stands for several objects.
type AmbiguousError struct {
	Kind string   // image, volume, snapshot
	Name string   // as given
	IDs  []string // all that it could mean
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%s %q is ambiguous: it stands for %s; use a whole id", e.Kind, e.Name, strings.Join(e.IDs, ", "))
}

// Is makes errors.Is(err, ErrAmbiguous) true.
func (e *AmbiguousError) Is(target error) bool { return target == ErrAmbiguous }

// InUse is the refusal of a volume that others hold. It wraps ErrInUse and names the
// instance and the host of each.
func InUse(v Volume) error { return failure.Of(ErrInUse, "volume %s is in use: %s", v.ID, holders(v)) }

// holders says which instances hold a volume, and on which hosts.
func holders(v Volume) string {
	var who []string
	for _, a := range v.Attachments {
		holder := "somebody"
		if a.InstanceID != "" {
			holder = "instance " + a.InstanceID
		}
		if on := cmp.Or(a.Host, a.HostID); on != "" {
			holder += " on " + on
		}
		who = append(who, fmt.Sprintf("%s holds it (%s)", holder, a.Status))
	}
	if who == nil {
		return fmt.Sprintf("it is %q", v.Status)
	}
	return strings.Join(who, ", ")
}

// GoneError says that an attachment which its instance still counts on was taken away,
// and that nobody holds its volume now. It is an ErrConflict and an ErrNotFound.
type GoneError struct {
	ID       string
	VolumeID string // empty when that is not known any more
}

func (e *GoneError) Error() string {
	if e.VolumeID == "" {
		return fmt.Sprintf("attachment %s is gone: it was deleted, with its volume or by somebody else", e.ID)
	}
	return fmt.Sprintf("attachment %s of volume %s is gone: somebody else deleted it, and nobody holds the volume now", e.ID, e.VolumeID)
}

// Is makes errors.Is(err, ErrConflict) and errors.Is(err, ErrNotFound) true.
func (e *GoneError) Is(target error) bool { return target == ErrConflict || target == ErrNotFound }

// Gone is the error of an attachment that is not there any more, and of the volume that
// it was of, as that is now: InUse where it is held, else a *GoneError.
func Gone(id string, v Volume) error {
	if v.Held() {
		return InUse(v)
	}
	return &GoneError{ID: id, VolumeID: v.ID}
}

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
