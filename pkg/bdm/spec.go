// Package bdm holds block device mappings: the specs that users write, the typed
// mappings that they become, and Nova's rules for both. It does no I/O.
//
// The way through it is: Mappings makes the mappings of a boot's flags, the caller
// looks up what they name, and Check holds them against what was found.
package bdm

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// The kinds of error of this package; test with errors.Is.
var (
	ErrNotFound = volume.ErrNotFound // an image, volume, snapshot or volume type
	ErrInUse    = volume.ErrInUse    // a volume or snapshot whose status is not one to use it in
)

// SpecError says what is wrong with something that a user wrote.
type SpecError struct {
	Flag   string // the flag it was given to, as --block-device
	Spec   string // the whole of it, as it was written; empty for a file
	Key    string // the key that is at fault, as it was written; may be empty
	Value  string // the key's value
	Reason string // what is wrong, and what is allowed
}

func (e *SpecError) Error() string {
	if e.Spec == "" {
		return e.Flag + ": " + e.Reason
	}
	return fmt.Sprintf("%s %q: %s", e.Flag, e.Spec, e.Reason)
}

// Is makes errors.Is(err, failure.ErrInvalid) true.
func (e *SpecError) Is(target error) bool { return target == failure.ErrInvalid }

// origin is where a user wrote something.
type origin struct{ flag, text string }

func (o origin) fail(key, value, format string, args ...any) *SpecError {
	return &SpecError{Flag: o.flag, Spec: o.text, Key: key, Value: value, Reason: fmt.Sprintf(format, args...)}
}

// Spec is a block device spec: its keys in nova boot's spelling and in the order in
// which they were given, its enumerations in lower case.
type Spec struct{ pairs []pair }

type pair struct{ key, value string }

// ParseSpec reads key=value pairs with commas between them, as nova boot does: no
// quoting, no escaping. What nova boot silently ignores is refused: a key that is
// given twice, also by its alias, and a second '=' in a value. Errors are *SpecError.
func ParseSpec(text string) (Spec, error) {
	return parsePairs(origin{flagDevice, text}, keys)
}

func parsePairs(from origin, allowed []Key) (Spec, error) {
	if !printable(from.text) {
		return Spec{}, from.fail("", "", "it has characters that cannot be printed")
	}
	var typed []pair
	for piece := range strings.SplitSeq(from.text, ",") {
		name, value, ok := strings.Cut(piece, "=")
		if !ok {
			return Spec{}, from.fail("", "", "Expected a comma-separated list of key=value pairs. '%s' is not a key=value pair.", piece)
		}
		typed = append(typed, pair{name, value})
	}
	return newSpec(from, typed, allowed)
}

// newSpec checks pairs as they were typed, in novaclient's order: first their shape,
// then the keys, then the values.
func newSpec(from origin, typed []pair, allowed []Key) (Spec, error) {
	for _, p := range typed {
		switch {
		case strings.ContainsAny(p.value, "=,"):
			return Spec{}, from.fail(p.key, p.value, "the value %q of key %q has a '=' or ',' in it; neither can be part of a value", p.value, p.key)
		case !printable(p.value):
			return Spec{}, from.fail(p.key, p.value, "the value %q of key %q has characters that cannot be printed", p.value, p.key)
		}
	}
	given := map[string]pair{} // by the key's own name, as typed
	for _, p := range typed {
		k, known := findKey(allowed, p.key)
		if !known {
			return Spec{}, from.fail(p.key, p.value, "unknown key %q%s; the keys are %s", p.key, didYouMean(allowed, p.key), keyNames(allowed))
		}
		if first, twice := given[k.Name]; twice {
			also := ""
			if first.key != p.key {
				also = fmt.Sprintf(", the first time as %q", first.key)
			}
			return Spec{}, from.fail(p.key, p.value, "the key %q is given twice%s", p.key, also)
		}
		given[k.Name] = p
	}
	values := map[string]string{}
	for _, k := range allowed {
		p, ok := given[k.Name]
		if !ok {
			continue
		}
		value, reason := k.canonical(p.key, p.value)
		if reason != "" {
			return Spec{}, from.fail(p.key, p.value, "%s", reason)
		}
		values[k.Name] = value
	}
	var s Spec
	for _, p := range typed {
		k, _ := findKey(allowed, p.key)
		s.pairs = append(s.pairs, pair{k.Name, values[k.Name]})
	}
	// Who writes source_type speaks openstack server create's language, where an
	// image becomes a volume unless something else is said; nova boot says local.
	if given["source"].key == "source_type" && values["source"] == string(SourceImage) && values["dest"] == "" {
		s.pairs = slices.DeleteFunc(s.pairs, func(p pair) bool { return p.key == "dest" })
		s.pairs = append(s.pairs, pair{"dest", string(DestVolume)})
	}
	return s, nil
}

// get is the value of a key, and whether it was given.
func (s Spec) get(key string) (string, bool) {
	for _, p := range s.pairs {
		if p.key == key {
			return p.value, true
		}
	}
	return "", false
}

// String is the spec in nova boot's spelling; ParseSpec reads it back to the same.
func (s Spec) String() string {
	var b strings.Builder
	for i, p := range s.pairs {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(p.key + "=" + p.value)
	}
	return b.String()
}

// printable says whether text can be shown on a terminal and kept in JSON as it is.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}
