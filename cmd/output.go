package cmd

import (
	"fmt"
	"io"

	"golang.org/x/term"

	"github.com/lxcboot/lxcboot/pkg/report"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

type (
	record  = report.Record
	listing = report.List
)

// printMade prints what was just made or changed. It is there also when that fails:
// done says so, and how names the commands to see and to undo it with.
func (a *App) printMade(r record, done, how string) error {
	if err := a.print.Record(r); err != nil {
		return &hintError{&madeError{done, err}, how}
	}
	return nil
}

// isTerminal says whether a stream is one.
func isTerminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

// warn tells a person what they should know, on stderr, also when that is to be quiet.
func (a *App) warn(format string, args ...any) {
	fmt.Fprintln(a.Err, "warning: "+tty.Lines(fmt.Sprintf(format, args...)))
}

// warnOf is warn for an error.
func (a *App) warnOf(err error) { a.warn("%v", err) }

// say tells a person what happens, on stderr: progress and hints.
func (a *App) say(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintln(a.Err, tty.Lines(fmt.Sprintf(format, args...)))
	}
}
