// Reference writes what there is to know of all commands: as Markdown in DIR/cli and
// as manual pages in DIR/man.
//
//	go run ./docs/reference DIR
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra/doc"

	"github.com/lxcboot/lxcboot/cmd"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: reference DIR")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	root := cmd.Root()
	root.DisableAutoGenTag = true
	cli, man := filepath.Join(dir, "cli"), filepath.Join(dir, "man")
	for _, d := range []string{cli, man} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := doc.GenMarkdownTree(root, cli); err != nil {
		return err
	}
	return doc.GenManTree(root, &doc.GenManHeader{Title: "LXCBOOT", Section: "1", Source: "lxcboot"}, man)
}
