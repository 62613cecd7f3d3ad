package cmd

import (
	"fmt"
	"io"
	"os"
	"strconv"

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

// widthWithout is how wide a table is that is to fit, where nothing says how wide that is.
const widthWithout = 80

// tableWidth is how wide a table may be; 0: as wide as it gets.
func (a *App) tableWidth(most int, given, fit bool) int {
	switch {
	case given:
		return max(0, most)
	case !fit && !isTerminal(a.Out):
		return 0
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	if n, _, err := term.GetSize(int(a.Out.Fd())); err == nil {
		return n // 0: a terminal that does not know
	}
	return widthWithout
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
