package cmd

import (
	"strings"
	"testing"
)

// TestSuggestions holds that who types what another program understands is told what it
// is called here, and that nothing is suggested for what is near to nothing.
func TestSuggestions(t *testing.T) {
	clean(t)
	for line, want := range map[string]string{
		"ps":                             `unknown command "ps" for "lxcboot"; did you mean list?`,
		"launch web1":                    "did you mean boot?",
		"create --image i web1":          "did you mean boot?",
		"server list":                    "what is done to instances has no word before it; did you mean lxcboot list?",
		"server delete web1":             "did you mean lxcboot delete?",
		"instances":                      "did you mean lxcboot list?",
		"restart web1":                   "did you mean reboot?",
		"inspect web1":                   "did you mean show?",
		"images":                         "did you mean image?",
		"image pull x":                   "did you mean import?",
		"volume resize v":                "did you mean extend?",
		"help ps":                        "did you mean list?",
		"zzz":                            `unknown command "zzz" for "lxcboot"; see lxcboot --help`,
		"boot --flavour m1.tiny n":       "unknown flag: --flavour; did you mean --flavor?; see lxcboot boot --help",
		"boot --flavour=m1.tiny n":       "did you mean --flavor?",
		"boot --network none n":          "did you mean --nic?",
		"boot --property a=b n":          "did you mean --meta?",
		"boot --tag a n":                 "did you mean --tags?",
		"volume create --sise 1 v":       "did you mean --size?",
		"list --nonsense":                "unknown flag: --nonsense; see lxcboot list --help",
		"logs --lines 5 web1":            "did you mean --tail?",
		"logs -n 5 --length 5 web1":      "--tail and --length both say",
		"logs -n some web1":              `--tail "some": it is a number of lines, or all`,
		"logs --tail=-1 web1":            `--tail "-1"`,
		"volume create -z v --size 1":    "unknown shorthand flag: 'z' in -z; see",
		"boot --block-devices x --image": "did you mean --block-device?",
	} {
		code, _, stderr := run(t, strings.Fields(line)...)
		if code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d, %q lacks %q", line, code, stderr, want)
		}
	}
	for _, line := range []string{"flavor ls", "image ls", "volume ls", "snapshot ls", "volume rm --help", "ls --help", "rm --help"} {
		if code, _, stderr := run(t, strings.Fields(line)...); code != exitOK {
			t.Errorf("%s: exit code %d, %s", line, code, stderr)
		}
	}
}

// TestLogsFormat holds that -f follows in logs, and that no other command has lost it.
func TestLogsFormat(t *testing.T) {
	c, _, err := Root().Find([]string{"logs"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ParseFlags([]string{"-fn5"}); err != nil || c.Flags().Lookup("follow").Value.String() != "true" || c.Flags().Lookup("tail").Value.String() != "5" {
		t.Errorf("logs -fn5: %v", err)
	}
	if err := c.ParseFlags([]string{"--format", "json"}); err != nil {
		t.Errorf("logs --format: %v", err)
	}
}

// TestPattern holds that who names instances by a pattern is told how that is done.
func TestPattern(t *testing.T) {
	clean(t)
	if code, _, stderr := run(t, "volume", "create", "--size", "1", "v"); code != 0 { // so that there is a state directory
		t.Fatal(stderr)
	}
	code, _, stderr := run(t, "delete", "web*")
	if want := `hint: patterns are not taken, and a shell makes file names of them; lxcboot list --name 'web' -f value -c Name | xargs -r lxcboot delete`; code != exitNotFound || !strings.Contains(stderr, want) {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}
