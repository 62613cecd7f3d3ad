package connector

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// info reads the loosely typed data of a connection: numbers come as numbers or
// as strings, depending on the storage driver that wrote them.
type info map[string]any

func (i info) str(key string) string {
	switch v := i[key].(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case int:
		return strconv.Itoa(v)
	}
	return ""
}

// need is str of a key that must be there.
func (i info) need(key string) (string, error) {
	s := i.str(key)
	if s == "" {
		return "", failure.Invalid("the connection says no %s", key)
	}
	return s, nil
}

func (i info) boolean(key string) bool {
	switch v := i[key].(type) {
	case bool:
		return v
	case string:
		b, _ := strconv.ParseBool(strings.ToLower(v))
		return b
	}
	return false
}

// number reads a number that is not negative; ok is false when there is none.
func number(v any) (n int, ok bool) {
	switch v := v.(type) {
	case int:
		return v, v >= 0
	case int64:
		return int(v), v >= 0
	case float64:
		return int(v), v >= 0 && v == math.Trunc(v) && v < 1<<31
	case json.Number:
		return number(v.String())
	case string:
		n, err := strconv.Atoi(v)
		return n, err == nil && n >= 0
	}
	return 0, false
}

// list reads a list; a single value counts as a list of one.
func (i info) list(key string) []any {
	switch v := i[key].(type) {
	case nil:
		return nil
	case []any:
		return v
	case []string:
		out := make([]any, len(v))
		for n, s := range v {
			out[n] = s
		}
		return out
	case []int:
		out := make([]any, len(v))
		for n, s := range v {
			out[n] = s
		}
		return out
	default:
		return []any{v}
	}
}

// strs reads a list of strings, leaving out what is no string or number.
func (i info) strs(key string) []string {
	var out []string
	for _, v := range i.list(key) {
		if s := (info{"": v}).str(""); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// secretsOf collects the values of a connection that must not be shown.
func secretsOf(data map[string]any) []string {
	var out []string
	for k, v := range data {
		s, ok := v.(string)
		if !ok || len(s) < 4 {
			continue
		}
		for _, word := range []string{"password", "secret", "key", "token"} {
			if strings.Contains(strings.ToLower(k), word) && k != "secret_type" && k != "secret_uuid" {
				out = append(out, s)
				if key, err := keyOf(s, ""); err == nil {
					out = append(out, key)
				}
				break
			}
		}
	}
	return out
}

// redacted returns err with every secret in its text replaced. An error that
// holds none is returned as it is; one that does loses its chain but for the
// kinds callers test for.
func redacted(err error, secrets []string) error {
	text := err.Error()
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, "***")
	}
	if text == err.Error() {
		return err
	}
	return &redactedError{text: text, err: err}
}

type redactedError struct {
	text string
	err  error
}

func (e *redactedError) Error() string        { return e.text }
func (e *redactedError) Is(target error) bool { return errors.Is(e.err, target) }
