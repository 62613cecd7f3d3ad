package cmd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// usageError is a wrong command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// usageOf is a wrong use of a command, and says where the right one is.
func usageOf(c *cobra.Command, text string) error {
	if !c.HasParent() {
		return usagef("%s; see %s --help", text, c.CommandPath())
	}
	_, short, _ := strings.Cut(c.CommandPath(), " ")
	return usagef("%s: %s; see %s --help", short, text, c.CommandPath())
}

// unknownCommand is a command that there is not below c.
func unknownCommand(c *cobra.Command, name string) error {
	text := fmt.Sprintf("unknown command %q for %q", name, c.CommandPath())
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(name); len(near) > 0 {
		text += fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	}
	return usagef("%s", text)
}

// flagText says what is wrong with a flag, without the words of the Go function that
// read its value.
func flagText(err error) string {
	text := err.Error()
	if n, ok := errors.AsType[*strconv.NumError](err); ok {
		why := "not a whole number"
		switch {
		case errors.Is(n.Err, strconv.ErrRange):
			why = "too large"
		case n.Func == "ParseBool":
			why = "neither true nor false"
		}
		return strings.TrimSuffix(text, n.Error()) + "it is " + why
	}
	if before, _, ok := strings.Cut(text, " flag: time: "); ok {
		return before + " flag: it is not a time, as 90s or 10m"
	}
	return text
}

// wrapUsage makes usage errors of wrong arguments and of unknown commands, which
// cobra reports in other ways than wrong flags.
func wrapUsage(c *cobra.Command) {
	switch args := c.Args; {
	case c.HasSubCommands() && !c.Runnable():
		c.Args = func(c *cobra.Command, given []string) error {
			if len(given) == 0 {
				return nil
			}
			return unknownCommand(c, given[0])
		}
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	case args != nil:
		c.Args = func(c *cobra.Command, given []string) error {
			if err := args(c, given); err != nil {
				return usageOf(c, err.Error())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapUsage(sub)
	}
}
