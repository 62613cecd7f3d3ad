package cmd

import (
	"os"
	"strings"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// TestTableWidth holds how wide a table is: as the terminal, as is said, or as it gets.
func TestTableWidth(t *testing.T) {
	clean(t)
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	defer tty.Close()
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if term.IsTerminal(int(null.Fd())) {
		t.Fatal("/dev/null is a terminal")
	}
	for _, c := range []struct {
		out     *os.File
		columns string
		args    string
		want    int
	}{
		{tty, "", "", 80},
		{tty, "100", "", 100},
		{tty, "nonsense", "", 80},
		{tty, "", "--max-width 70", 70},
		{tty, "", "--max-width 0", 0},
		{tty, "", "--fit-width", 80},
		{null, "", "", 0},
		{null, "100", "", 0},
		{null, "", "--max-width 70", 70},
		{null, "100", "--fit-width", 100},
		{null, "", "--fit-width", widthWithout},
	} {
		t.Setenv("COLUMNS", c.columns)
		app := &App{In: null, Out: c.out, Err: null}
		if code := app.Run(append([]string{"version", "-q"}, strings.Fields(c.args)...)); code != 0 || app.print.Width != c.want {
			t.Errorf("%s, COLUMNS=%s, %q: exit code %d, a width of %d, not %d", c.out.Name(), c.columns, c.args, code, app.print.Width, c.want)
		}
	}
}
