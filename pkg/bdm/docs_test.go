package bdm

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocs holds docs/bdm.md: its examples and its rows of "the same as" are
// accepted, and its table of keys is that of the package.
func TestDocs(t *testing.T) {
	data, err := os.ReadFile("../../docs/bdm.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)

	examples := 0
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "lxcboot" {
			continue
		}
		examples++
		var r Request
		for i, w := range words[:len(words)-1] {
			switch w {
			case "--block-device":
				r.BlockDevices = append(r.BlockDevices, words[i+1])
			case "--boot-volume":
				r.BootVolume = words[i+1]
			case "--image":
				r.Image = words[i+1]
			case "--boot-from-volume":
				r.BootFromVolume = words[i+1]
			}
		}
		if _, err := Mappings(r); err != nil {
			t.Error(err)
		}
	}
	if examples < 8 {
		t.Errorf("%d examples", examples)
	}

	for flag, r := range map[string]Request{
		"| `--boot-volume ID` |":                  {BootVolume: "ID"},
		"| `--snapshot ID` |":                     {Snapshot: "ID"},
		"| `--image ID --boot-from-volume GIB` |": {Image: "ID", BootFromVolume: "7"},
		"| `--swap MIB` |":                        {BootVolume: "v", Swap: "7"},
	} {
		_, row, found := strings.Cut(text, flag)
		spec := regexp.MustCompile("`([^`]*)`").FindStringSubmatch(row)
		all, err := Mappings(r)
		if !found || spec == nil || err != nil {
			t.Fatal(flag, spec, err)
		}
		want, err := parse(strings.NewReplacer("GIB", "7", "MIB", "7").Replace(spec[1]))
		if got := all[len(all)-1].String(); err != nil || got != want.String() {
			t.Errorf("%s %s, %v\nis %s", flag, want, err, got)
		}
	}

	rows := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (?:`([a-z_]+)`)? ?\\| (.*?) \\|").FindAllStringSubmatch(text, -1)
	var documented []string
	for _, row := range rows {
		k, known := findKey(keys, row[1])
		if !known || k.Name != row[1] {
			continue // a row of another table
		}
		documented = append(documented, k.Name)
		if alias := row[2]; alias != k.Name && alias != strings.Join(k.Aliases, "") {
			t.Errorf("%s has the aliases %q, documented is %q", k.Name, k.Aliases, alias)
		}
		for _, v := range k.Values {
			if !strings.Contains(row[3], "`"+v+"`") {
				t.Errorf("%s=%s is not documented", k.Name, v)
			}
		}
	}
	for _, k := range keys {
		if !slices.Contains(documented, k.Name) {
			t.Errorf("%s is not documented", k.Name)
		}
	}
}
