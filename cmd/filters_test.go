package cmd

import (
	"strings"
	"testing"
)

// TestFilters holds what is chosen: all properties and tags have to be there, one of the
// statuses, and a property by its key alone whatever it is.
func TestFilters(t *testing.T) {
	web := facts{name: "web1", status: "ACTIVE", tags: []string{"a", "b"}, properties: map[string]string{"role": "web", "empty": ""}, hosts: []string{"n1", "id-1"}}
	for _, c := range []struct {
		f    filters
		want bool
	}{
		{filters{}, true},
		{filters{name: "eb"}, true},
		{filters{name: "db"}, false},
		{filters{statuses: []string{"shutoff", "active"}}, true},
		{filters{statuses: []string{"shutoff"}}, false},
		{filters{tags: []string{"a", "b"}}, true},
		{filters{tags: []string{"a", "c"}}, false},
		{filters{properties: []string{"role=web", "empty"}}, true},
		{filters{properties: []string{"empty="}}, true},
		{filters{properties: []string{"role="}}, false},
		{filters{properties: []string{"none"}}, false},
		{filters{host: "id-1"}, true},
		{filters{host: "n2"}, false},
	} {
		if err := c.f.parse("--meta"); err != nil || c.f.take(web) != c.want {
			t.Errorf("%+v: %v, %v", c.f, !c.want, err)
		}
	}
	clean(t)
	for line, want := range map[string]string{
		"volume list --property =x":              `--property "=x" is neither KEY=VALUE nor KEY`,
		"image list --property a --property a=b": `the key "a" is given twice`,
		"volume list --sort size:up":             "the order is asc or desc",
		"snapshot list --sort nonsense":          "there are ID, Name, Status, Size, Volume ID",
		"list --all-hosts --tag x":               "--tag and --all-hosts exclude each other",
		"list --status nonsense":                 "is not one of BUILD",
		"snapshot list --host h":                 "unknown flag: --host",
		"list --sort name:sideways":              "the order is asc or desc",
		"volume list --sort":                     "flag needs an argument: --sort",
	} {
		if code, _, stderr := run(t, strings.Fields(line)...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d, %q lacks %q", line, code, stderr, want)
		}
	}
	for _, args := range []string{"--size 2 b --property a=1", "--size 1 c", "--size 10 a --property a=2"} {
		if code, _, stderr := run(t, append([]string{"volume", "create"}, strings.Fields(args)...)...); code != 0 {
			t.Fatal(stderr)
		}
	}
	for args, want := range map[string]string{
		"":                              "a b c ",
		"--sort size":                   "c b a ",
		"--sort Size:desc,name":         "a b c ",
		"--property a --sort name:desc": "b a ",
		"--property a=2":                "a ",
		"--status in-use":               "",
		"--name c --host here":          "",
	} {
		if _, out, stderr := run(t, append([]string{"volume", "ls", "-f", "value", "-c", "Name"}, strings.Fields(args)...)...); strings.ReplaceAll(out, "\n", " ") != want {
			t.Errorf("%s: %q, not %q; %s", args, out, want, stderr)
		}
	}
}
