package openstack

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// config is what is set for one cloud: its entry of clouds.yaml with all that is laid
// over it, or the OS_* variables. Keys have underscores; values are texts, nil, lists
// and maps.
type config map[string]any

// envCloud is the name that the cloud of the OS_* variables has, as in openstacksdk.
func envCloud() string { return cmp.Or(os.Getenv("OS_CLOUD_NAME"), "envvars") }

// Configured says whether the environment names a cloud, and how: "OS_CLOUD" or
// "OS_AUTH_URL"; empty when it does not.
func Configured() string {
	for _, name := range []string{"OS_CLOUD", "OS_AUTH_URL"} {
		if os.Getenv(name) != "" {
			return name
		}
	}
	return ""
}

// findConfig reads a cloud's entry, or the OS_* variables if cloud is empty or envCloud.
// Where both say something the entry wins, but for OS_REGION_NAME. source is what to
// call it in an error.
func findConfig(cloud string, warn func(string)) (c config, source string, err error) {
	if cloud == "" || cloud == envCloud() {
		if cloud == "" && os.Getenv("OS_AUTH_URL") == "" {
			return nil, "", failure.Invalid("no cloud is set: set OS_CLOUD to an entry of clouds.yaml, or OS_AUTH_URL and the other OS_* variables")
		}
		return environment(warn), "the OS_* variables", nil
	}
	entry, source, err := findEntry(cloud)
	if err != nil {
		return nil, "", err
	}
	if name := cmp.Or(text(entry["profile"]), text(entry["cloud"])); name != "" {
		public, _, err := readFirst("clouds-public", "")
		if err != nil {
			return nil, "", err
		}
		profile, ok := section(public, "public-clouds")[name].(map[string]any)
		if !ok {
			warn(fmt.Sprintf("%s: the profile %q is passed over; what it stands for has to be in the entry", source, name))
		}
		entry = overlaid(underscored(profile).(map[string]any), entry)
	}
	c, err = inRegion(entry, source, os.Getenv("OS_REGION_NAME"))
	return c, source, err
}

// environment is the entry that the OS_* variables stand for.
func environment(warn func(string)) config {
	c := config{}
	for _, line := range os.Environ() {
		name, value, _ := strings.Cut(line, "=")
		if key, ok := strings.CutPrefix(name, "OS_"); ok && value != "" {
			c[strings.ToLower(key)] = value
		}
	}
	// Of a variable, openstacksdk takes "true" alone for yes.
	if v := text(c["insecure"]); v != "" && !strings.EqualFold(v, "true") {
		if !strings.EqualFold(v, "false") && v != "0" && !strings.EqualFold(v, "no") {
			warn(fmt.Sprintf("OS_INSECURE=%s is not \"true\", so certificates are verified", v))
		}
		delete(c, "insecure")
	}
	return c
}

// findEntry finds a cloud in clouds.yaml, with what secure.yaml adds to it.
func findEntry(cloud string) (entry map[string]any, source string, err error) {
	named := os.Getenv("OS_CLIENT_CONFIG_FILE")
	file, path, err := readFirst("clouds", named)
	if err != nil {
		return nil, "", err
	}
	secure, securePath, err := readFirst("secure", os.Getenv("OS_CLIENT_SECURE_FILE"))
	if err == nil && securePath == "" && named != "" {
		secure, _, err = readIn(filepath.Dir(named), "secure")
	}
	if err != nil {
		return nil, "", err
	}
	clouds := overlaid(section(file, "clouds"), section(secure, "clouds"))
	switch {
	case path == "" && len(clouds) == 0:
		return nil, "", failure.Invalid("cloud %q: there is no clouds.yaml in %s; OS_CLIENT_CONFIG_FILE may name another", cloud, strings.Join(searchDirs(), ", "))
	case clouds[cloud] == nil:
		return nil, "", failure.Invalid("cloud %q is not in %s; there are: %s", cloud, path, strings.Join(slices.Sorted(maps.Keys(clouds)), ", "))
	}
	source = fmt.Sprintf("cloud %q of %s", cloud, path)
	entry, ok := underscored(clouds[cloud]).(map[string]any)
	if !ok {
		return nil, "", failure.Invalid("%s is a single value, where auth, region_name and so on are expected", source)
	}
	return entry, source, nil
}

// inRegion lays the values of a region over an entry: of the one that is wanted, or else
// of the first that the entry names. An entry that names none takes any.
func inRegion(entry map[string]any, source, wanted string) (config, error) {
	list, ok := entry["regions"].([]any)
	if !ok {
		if list, ok = entry["region_name"].([]any); !ok && text(entry["region_name"]) != "" {
			for name := range strings.SplitSeq(text(entry["region_name"]), ",") {
				list = append(list, name)
			}
		}
	}
	region, values := wanted, map[string]any{}
	var names []string
	for i, item := range list {
		name, over := text(item), map[string]any{}
		if m, ok := item.(map[string]any); ok {
			name = text(m["name"])
			over, _ = m["values"].(map[string]any)
		}
		if name == "" {
			return nil, failure.Invalid("%s: region %d of its regions has no name", source, i+1)
		}
		names = append(names, name)
		if name == wanted || wanted == "" && i == 0 {
			region, values = name, over
		}
	}
	if len(names) > 0 && !slices.Contains(names, region) {
		return nil, failure.Invalid("%s has no region %q (OS_REGION_NAME); there are: %s", source, wanted, strings.Join(names, ", "))
	}
	c := config(overlaid(entry, values))
	c["region_name"] = region
	return c, nil
}

// searchDirs are where openstacksdk looks for its files.
func searchDirs() (dirs []string) {
	here, _ := os.Getwd()
	home, _ := os.UserHomeDir()
	for _, dir := range []struct{ base, sub string }{{here, ""}, {os.Getenv("XDG_CONFIG_HOME"), "openstack"}, {home, ".config/openstack"}, {"/etc", "openstack"}} {
		if path := filepath.Join(dir.base, dir.sub); dir.base != "" && !slices.Contains(dirs, path) {
			dirs = append(dirs, path)
		}
	}
	return dirs
}

// readFirst reads the file that was named, or else the first one of that name which is
// there and may be read. The path is empty when there is none.
func readFirst(name, named string) (data map[string]any, path string, err error) {
	if named != "" {
		data, err = readFile(named)
		return data, named, err
	}
	for _, dir := range searchDirs() {
		if data, path, err = readIn(dir, name); path != "" {
			return data, path, err
		}
	}
	return nil, "", nil
}

// readIn is readFirst in one directory.
func readIn(dir, name string) (data map[string]any, path string, err error) {
	for _, suffix := range []string{".yaml", ".yml", ".json"} {
		path = filepath.Join(dir, name+suffix)
		data, err = readFile(path)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return data, path, err
		}
	}
	return nil, "", nil
}

var yamlLine = regexp.MustCompile(`line \d+`)

// readFile reads a file of settings. Its errors quote nothing from it: what a parser
// stumbles over may be a password.
func readFile(path string) (map[string]any, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, failure.Of(errors.Join(failure.ErrInvalid, err), "%s can not be read: %v", path, errors.Unwrap(err))
	}
	var v value
	if strings.HasSuffix(path, ".json") {
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		err = d.Decode(&v.v)
	} else {
		var whole any // refuses aliases that never end
		if err = yaml.Unmarshal(data, &whole); err == nil {
			err = yaml.Unmarshal(data, &v)
		}
	}
	m, ok := v.v.(map[string]any)
	if err != nil || !ok && v.v != nil {
		where := "check its syntax"
		if err != nil {
			where = cmp.Or(yamlLine.FindString(err.Error()), where)
		}
		return nil, failure.Invalid("%s can not be understood: %s", path, where)
	}
	return m, nil
}

// value is any YAML, with scalars as they are written: a password 0123 is no number,
// and yes not the same as true.
type value struct{ v any }

// UnmarshalYAML is called by package yaml.
func (v *value) UnmarshalYAML(n *yaml.Node) error {
	switch n.Kind {
	case yaml.MappingNode:
		var m map[string]value
		if err := n.Decode(&m); err != nil {
			return err
		}
		all := map[string]any{}
		for key, item := range m {
			all[key] = item.v
		}
		v.v = all
	case yaml.SequenceNode:
		var items []value
		if err := n.Decode(&items); err != nil {
			return err
		}
		all := []any{}
		for _, item := range items {
			all = append(all, item.v)
		}
		v.v = all
	default:
		if n.Tag != "!!null" {
			v.v = n.Value
		}
	}
	return nil
}

// text is a single value as text; empty when it is none.
func text(v any) string {
	switch v.(type) {
	case nil, map[string]any, []any:
		return ""
	}
	return fmt.Sprint(v)
}

// section is the map below a key.
func section(m map[string]any, key string) map[string]any {
	below, _ := m[key].(map[string]any)
	return below
}

// overlaid is what is below with what is above laid over it; neither is changed.
func overlaid(below, above map[string]any) map[string]any {
	all := maps.Clone(below)
	if all == nil {
		all = map[string]any{}
	}
	for key, v := range above {
		if m, ok := v.(map[string]any); ok && section(all, key) != nil {
			v = overlaid(section(all, key), m)
		}
		all[key] = v
	}
	return all
}

// underscored is a value with underscores for the hyphens in its keys.
func underscored(v any) any {
	switch v := v.(type) {
	case map[string]any:
		all := map[string]any{}
		for key, item := range v {
			all[strings.ReplaceAll(key, "-", "_")] = underscored(item)
		}
		return all
	case []any:
		all := []any{}
		for _, item := range v {
			all = append(all, underscored(item))
		}
		return all
	}
	return v
}
