// Reference writes what there is to know of all commands: as Markdown in DIR/cli and
// as manual pages in DIR/man. DOCS is where the docs are for who reads it. It runs at the
// top of the tree.
//
//	go run ./docs/reference DIR DOCS
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/lxcboot/lxcboot/cmd"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: reference DIR DOCS")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

func write(dir, docs string) error {
	root := cmd.Root()
	root.DisableAutoGenTag = true
	root.InitDefaultHelpFlag()
	cli, man := filepath.Join(dir, "cli"), filepath.Join(dir, "man")
	for _, d := range []string{cli, man} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := doc.GenMarkdownTree(root, cli); err != nil {
		return err
	}
	m, err := newManual(root, docs)
	if err != nil {
		return err
	}
	for _, c := range pages(root) {
		if err := os.WriteFile(filepath.Join(man, pageName(c)+".1"), []byte(m.page(c)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pages are the commands that have one each.
func pages(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && !sub.IsAdditionalHelpTopicCommand() {
			all = append(all, pages(sub)...)
		}
	}
	return all
}
