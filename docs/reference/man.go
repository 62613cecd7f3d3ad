package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manual is what all pages have.
type manual struct {
	docs      string // the directory of the docs
	settings  []setting
	files     [][]string // names, and what is in them
	exitCodes string
}

type setting struct{ key, variable, text string }

// newManual reads the tables that docs/cli.md has of the settings and the files: they are in
// that place alone.
func newManual(root *cobra.Command, docs string) (*manual, error) {
	text, err := os.ReadFile("docs/cli.md")
	if err != nil {
		return nil, err
	}
	m := &manual{docs: docs, files: table(string(text), "Files")}
	for _, row := range table(string(text), "Settings") {
		if len(row) != 4 {
			return nil, fmt.Errorf("a row of the settings in docs/cli.md has %d cells: %q", len(row), row)
		}
		key, _, _ := strings.Cut(row[0], " (")
		what := row[3]
		if row[2] != "" {
			what = strings.TrimPrefix(what+"; by default "+row[2], "; ")
		}
		m.settings = append(m.settings, setting{key, row[1], what})
	}
	if len(m.settings) == 0 || len(m.files) == 0 {
		return nil, errors.New("docs/cli.md has no table of the settings or of the files")
	}
	codes, _, err := root.Find([]string{"exit-codes"})
	if err != nil {
		return nil, err
	}
	_, m.exitCodes, _ = strings.Cut(codes.Long, "\n\n")
	return m, nil
}

var mdLink = regexp.MustCompile(`\[[^\]]*\]\(([a-z-]+\.md)[^)]*\)`)

// table gives the rows of the first table of a section of a Markdown text, as plain text.
func table(text, section string) (rows [][]string) {
	_, text, _ = strings.Cut(text, "\n## "+section+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	_, text, _ = strings.Cut(text, "\n| ---")
	for _, line := range strings.Split(text, "\n")[1:] {
		if !strings.HasPrefix(line, "|") {
			break
		}
		line = mdLink.ReplaceAllString(strings.ReplaceAll(line, "`", ""), "docs/$1")
		var cells []string
		for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		rows = append(rows, cells)
	}
	return rows
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func reference(name string) string { return bold(name) + "(1)" }

// page is the manual page of a command.
func (m *manual) page(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH \"%s\" \"1\" \"\" \"lxcboot\" \"lxcboot\"\n.nh\n.ad l\n", strings.ToUpper(pageName(c)))
	for _, s := range []struct{ title, text string }{
		{"NAME", strings.TrimSuffix(roff(pageName(c)), "\n") + ` \- ` + roff(c.Short)},
		{"SYNOPSIS", m.synopsis(c)},
		{"DESCRIPTION", paragraphs(cmp.Or(c.Long, c.Short+"."))},
		{"COMMANDS", commands(c)},
		{"OPTIONS", options(c)},
		{"EXIT STATUS", paragraphs(m.exitCodes)},
		{"ENVIRONMENT", m.environment(c)},
		{"FILES", m.filesOf(c)},
		{"EXAMPLES", literal(examplesOf(c))},
		{"SEE ALSO", m.seeAlso(c)},
	} {
		if s.text != "" {
			fmt.Fprintf(&b, ".SH %s\n%s", s.title, strings.TrimPrefix(s.text, ".PP\n"))
		}
	}
	return inDocs.ReplaceAllString(b.String(), strings.TrimSuffix(roff(m.docs), "\n")+"/$1")
}

var inDocs = regexp.MustCompile(`\bdocs/([a-z]+(?:\\-[a-z]+)*\.md)`)

func (m *manual) synopsis(c *cobra.Command) string {
	var b strings.Builder
	line := func(path, rest string) { b.WriteString(bold(path) + " " + roff(strings.TrimSpace(rest)) + ".br\n") }
	if c.Runnable() && !c.HasAvailableSubCommands() || c.RunE != nil && c.Args == nil {
		_, takes, _ := strings.Cut(c.Use, " ")
		line(c.CommandPath(), takes+" [options]")
	}
	if c.HasAvailableSubCommands() {
		line(c.CommandPath(), "COMMAND [options]")
	}
	return strings.TrimSuffix(b.String(), ".br\n")
}

func subCommands(c *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(c.Commands()), func(sub *cobra.Command) bool {
		return !sub.IsAvailableCommand() || sub.IsAdditionalHelpTopicCommand()
	})
}

func commands(c *cobra.Command) string {
	var b strings.Builder
	for _, sub := range subCommands(c) {
		b.WriteString(item(reference(pageName(sub)), sub.Short))
	}
	return b.String()
}

// options are those of the command alone: those of all commands are in lxcboot(1).
func options(c *cobra.Command) string {
	c.InitDefaultHelpFlag()
	var b strings.Builder
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		name := bold("--" + f.Name)
		if f.Shorthand != "" {
			name = bold("-"+f.Shorthand) + ", " + name
		}
		kind, usage := pflag.UnquoteUsage(f)
		if kind != "" {
			name += "=" + `\fI` + strings.TrimSuffix(roff(kind), "\n") + `\fR`
		}
		if !slices.Contains([]string{"", "false", "0", "[]"}, f.DefValue) && !strings.Contains(usage, "(default") {
			usage += " (default: " + f.DefValue + ")"
		}
		b.WriteString(item(name, usage))
	})
	if c.HasParent() {
		b.WriteString(".PP\nThe options of all commands are in " + reference("lxcboot") + ".\n")
	}
	return b.String()
}

// environment has all variables in the page of lxcboot, and in the others those of their options.
func (m *manual) environment(c *cobra.Command) string {
	var b strings.Builder
	for _, s := range m.settings {
		if !c.HasParent() || c.LocalFlags().Lookup(s.key) != nil {
			b.WriteString(item(bold(s.variable), s.text))
		}
	}
	if c.HasParent() {
		return b.String() + ".PP\nThe variables of all commands, each of which is a key of the configuration too, are in " + reference("lxcboot") + ".\n"
	}
	b.WriteString(item(bold("LXCBOOT_CONFIG"), "the configuration file, as --config"))
	return b.String() + item(bold("OS_AUTH_URL")+", "+bold("OS_USERNAME")+", …", "the cloud, as those of the openstack command: see docs/openstack.md")
}

func (m *manual) filesOf(c *cobra.Command) string {
	var b strings.Builder
	b.WriteString(item(bold("/etc/lxcboot/config.yaml"), "the configuration"))
	b.WriteString(item(bold("/var/lib/lxcboot"), "images, volumes and what is known of instances, unless --state-dir is another"))
	if c.HasParent() {
		return b.String() + ".PP\nAll files are in " + reference("lxcboot") + ".\n"
	}
	b.WriteString(".PP\nOf these, STATE is the directory of " + bold("--state-dir") + ", and RUN that of " + bold("--run-dir") + ":\n")
	for _, row := range m.files {
		b.WriteString(item(bold(row[0]), strings.Join(row[1:], " ")))
	}
	return b.String()
}

func (m *manual) seeAlso(c *cobra.Command) string {
	var names []string
	if c.HasParent() {
		names = append(names, pageName(c.Parent()))
		for _, sub := range subCommands(c.Parent()) {
			if sub != c && c.Parent().HasParent() {
				names = append(names, pageName(sub))
			}
		}
	}
	for _, sub := range subCommands(c) {
		names = append(names, pageName(sub))
	}
	for i, name := range names {
		names[i] = reference(name)
	}
	names = append(names, bold("virsh")+"(1)")
	return strings.Join(names, ",\n") + "\n.PP\nThe docs are in " + bold(m.docs) + ".\n"
}

// examplesOf are those that the command has itself, those below, or those of its
// subcommands.
func examplesOf(c *cobra.Command) (lines []string) {
	for line := range strings.Lines(cmp.Or(c.Example, examples[c.CommandPath()])) {
		lines = append(lines, strings.TrimSpace(line))
	}
	if lines == nil {
		for _, sub := range subCommands(c) {
			lines = append(lines, examplesOf(sub)...)
		}
	}
	return lines
}
