package bdm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// MaxJSON is the most that a JSON file of block devices may hold, in bytes: far more
// than a boot can use.
const MaxJSON = 1 << 20

var wholeNumber = regexp.MustCompile(`^-?[0-9]+$`)

// ParseJSON reads block devices in the form of openstack server create's JSON file:
// an object with the keys of a spec, or a list of such objects. name is what was typed;
// data is the content of the file of that name, or was typed itself. A null counts as
// absent.
// Errors are *SpecError.
func ParseJSON(name string, data []byte) ([]Spec, error) {
	if len(name) > 100 {
		name = strings.ToValidUTF8(name[:100], "") + "…"
	}
	from := origin{flagDevice, name}
	switch {
	case len(data) > MaxJSON:
		return nil, from.fail("", "", "its JSON is of %d bytes, and at most %d are read", len(data), MaxJSON)
	case len(bytes.TrimSpace(data)) == 0:
		return nil, from.fail("", "", "it is empty, and has to hold a JSON object, or a list of objects")
	}
	objects := []json.RawMessage{data}
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '[' {
		if err := json.Unmarshal(data, &objects); err != nil {
			return nil, from.fail("", "", "it is not valid JSON: %v", err)
		}
		if len(objects) == 0 {
			return nil, from.fail("", "", "the JSON list is empty: it needs an object for each device")
		}
	}
	var specs []Spec
	for i, object := range objects {
		if len(objects) > 1 {
			from.flag = fmt.Sprintf("%s (device %d of the list)", flagDevice, i+1)
		}
		typed, err := jsonPairs(from, object)
		if err != nil {
			return nil, err
		}
		s, err := newSpec(from, typed, keys)
		if err != nil {
			return nil, err
		}
		specs = append(specs, s)
	}
	return specs, nil
}

// jsonPairs reads an object token by token: a map would lose the order of its keys,
// and that one was given twice.
func jsonPairs(from origin, object []byte) ([]pair, error) {
	dec := json.NewDecoder(bytes.NewReader(object))
	dec.UseNumber()
	broken := func(err error) error {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return from.fail("", "", "it is not valid JSON: %v", err)
	}
	switch start, err := dec.Token(); {
	case err != nil:
		return nil, broken(err)
	case start != json.Delim('{'):
		return nil, from.fail("", "", "it is neither a JSON object nor a list of objects")
	}
	var typed []pair
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, broken(err)
		}
		key, _ := token.(string) // the decoder itself lets nothing else be a key
		var value any
		if err := dec.Decode(&value); err != nil {
			return nil, broken(err)
		}
		switch v := value.(type) {
		case nil:
		case string:
			typed = append(typed, pair{key, v})
		case bool:
			word := "false"
			if v {
				word = "true"
			}
			typed = append(typed, pair{key, word})
		case json.Number:
			if !wholeNumber.MatchString(v.String()) {
				return nil, from.fail(key, v.String(), "the value %s of key %q is not a whole number", v, key)
			}
			typed = append(typed, pair{key, v.String()})
		default:
			return nil, from.fail(key, "", "the value of key %q is neither text, a number nor a truth value", key)
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, broken(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, from.fail("", "", "there is more after its JSON object; for several devices give a list")
	}
	if len(typed) == 0 {
		return nil, from.fail("", "", "the JSON object says nothing of a device; the keys are %s", keyNames(keys))
	}
	return typed, nil
}
