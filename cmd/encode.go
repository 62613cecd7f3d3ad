package cmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"
)

// object is a record that keeps its order when it is encoded.
type object []field

// MarshalJSON encodes the fields in order.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		for _, v := range []any{f.name, stable(f.value)} {
			data, err := marshal(v)
			if err != nil {
				return nil, err
			}
			b.Write(data)
			b.WriteByte(':')
		}
		b.Truncate(b.Len() - 1)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// marshal is JSON with <, > and & as they are: it is not for a page.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// encode prints JSON, or the YAML that says the same.
func (a *App) encode(v any) error {
	data, err := marshal(v)
	if err != nil {
		return err
	}
	if a.format == "yaml" {
		text, err := toYAML(data)
		if err != nil {
			return err
		}
		return a.print(text)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(escape(string(data))), "", "  "); err != nil {
		return err
	}
	return a.print(b.String())
}

// hidden says whether a rune has to be escaped: it cannot be printed, and could change
// a terminal.
func hidden(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }

// escape escapes as JSON does it. All that is hidden is within its strings.
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case !hidden(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		}
	}
	return b.String()
}

// toYAML is JSON as YAML, in the same order.
func toYAML(data []byte) (string, error) {
	var n yaml.Node // JSON is YAML, once what YAML does not have raw is escaped
	if err := yaml.Unmarshal([]byte(escapeYAML(string(data))), &n); err != nil {
		return "", err
	}
	if err := restyle(&n); err != nil {
		return "", err
	}
	out, err := yaml.Marshal(&n)
	return strings.TrimSuffix(escapeYAML(string(out)), "\n"), err
}

// restyle takes the style of JSON off: text is quoted where it would be read as
// something else, also by those who read YAML 1.1 ("yes", "1:20").
func restyle(n *yaml.Node) error {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		if err := n.Encode(n.Value); err != nil {
			return err
		}
		if strings.ContainsFunc(n.Value, hidden) {
			n.Style = yaml.DoubleQuotedStyle
		}
	}
	for _, c := range n.Content {
		if err := restyle(c); err != nil {
			return err
		}
	}
	return nil
}

// escapeYAML escapes as YAML does it between double quotes, where all is that is
// hidden: in what comes from JSON, and in what restyle was at.
func escapeYAML(s string) string {
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			fmt.Fprintf(&b, `\U%08x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
