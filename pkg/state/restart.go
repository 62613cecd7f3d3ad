package state

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// Restart says whether a container is started again when it has ended by itself. The zero one
// says no.
type Restart struct {
	When string // RestartAlways or RestartOnFailure
	Most int    // starts in a row; 0: without end
}

// When a container is started again.
const (
	RestartNo        = "no"
	RestartAlways    = "always"     // however it ended
	RestartOnFailure = "on-failure" // not after exit code 0, nor after it powered itself off
)

// ParseRestart reads no, always, on-failure or on-failure:N. Empty is no.
func ParseRestart(text string) (Restart, error) {
	when, most, limited := strings.Cut(text, ":")
	r := Restart{When: when}
	switch {
	case !limited && (text == "" || text == RestartNo):
		return Restart{}, nil
	case !limited && (when == RestartAlways || when == RestartOnFailure):
		return r, nil
	case limited && when == RestartOnFailure:
		n, err := strconv.Atoi(most)
		if r.Most = n; err == nil && n > 0 && strconv.Itoa(n) == most {
			return r, nil
		}
	}
	return Restart{}, failure.Invalid("the restart policy %q is none of %s, %s, %s and %[4]s:N, N being how often in a row", text, RestartNo, RestartAlways, RestartOnFailure)
}

// String is what ParseRestart reads.
func (r Restart) String() string {
	switch {
	case r.When == "":
		return RestartNo
	case r.Most > 0:
		return fmt.Sprintf("%s:%d", r.When, r.Most)
	}
	return r.When
}

// MarshalText is String.
func (r Restart) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRestart.
func (r *Restart) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRestart(string(text))
	return err
}
