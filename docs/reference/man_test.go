package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/cmd"
)

// TestManual: every page has a head of its own, the sections that a reader looks for, and
// nothing that mandoc finds wrong.
func TestManual(t *testing.T) {
	t.Chdir("../..")
	dir := t.TempDir()
	if err := write(dir, "/usr/share/doc/lxcboot"); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(dir + "/man/*.1")
	if want := len(pages(cmd.Root())); len(files) < 50 || len(files) != want {
		t.Errorf("%d pages of %d commands", len(files), want)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".1")
		if head := `.TH "` + strings.ToUpper(name) + `" "1" `; !bytes.HasPrefix(text, []byte(head)) || bytes.Count(text, []byte(".TH")) != 1 {
			t.Errorf("%s does not begin with %s", name, head)
		}
		for _, s := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"} {
			_, section, found := strings.Cut(string(text), "\n.SH "+s+"\n")
			section, _, _ = strings.Cut(section, "\n.SH ")
			if !found || strings.Trim(section, "\n.EXP") == "" {
				t.Errorf("%s has no %s", name, s)
			}
		}
	}
	// A page without a date is as Debian's are that can be built again.
	out, _ := exec.Command("mandoc", append([]string{"-T", "lint", "-W", "warning"}, files...)...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "missing date") {
			t.Error(line)
		}
	}
	out, err := exec.Command("mandoc", "-T", "utf8", "-O", "width=200", dir+"/man/lxcboot-boot.1").CombinedOutput()
	said := regexp.MustCompile(".\b").ReplaceAllString(string(out), "")
	for _, want := range []string{
		"size=GIB[,format=FS][,mount=/PATH] (can be repeated)", "--ephemeral=", "LXCBOOT-BOOT(1)",
		"described in /usr/share/doc/lxcboot/bdm.md", "130  interrupted",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("%v: the page of boot does not say %q: %s", err, want, said)
		}
	}
}

// TestExamples: what the examples type is there: the commands, and their options.
func TestExamples(t *testing.T) {
	root := cmd.Root()
	typed := 0
	for _, c := range pages(root) {
		if _, doubled := examples[c.CommandPath()]; doubled && c.Example != "" {
			t.Errorf("%s has examples in its help, and others here", c.CommandPath())
		}
		for _, line := range examplesOf(c) {
			for _, words := range regexp.MustCompile(`\blxcboot ([^|>;'"]*)`).FindAllStringSubmatch(line, -1) {
				args, _, _ := strings.Cut(words[1]+" -- ", " -- ")
				of, rest, err := root.Find(strings.Fields(args))
				if err != nil || of == root {
					t.Errorf("%s: %v", line, err)
					continue
				}
				of.InitDefaultHelpFlag()
				for _, word := range rest {
					name, isFlag := strings.CutPrefix(word, "--")
					name, _, _ = strings.Cut(name, "=")
					if isFlag && of.Flag(name) == nil && root.PersistentFlags().Lookup(name) == nil {
						t.Errorf("%s: %s has no --%s", line, of.CommandPath(), name)
					}
				}
				typed++
			}
		}
	}
	for path := range examples {
		if c, _, err := root.Find(strings.Fields(path)[1:]); err != nil || c.CommandPath() != path {
			t.Errorf("examples of %s, which there is not", path)
		}
	}
	if typed < 60 {
		t.Errorf("only %d examples", typed)
	}
}
