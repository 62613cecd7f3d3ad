package cmd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// usageOf is a wrong use of a command, and says where the right one is.
func usageOf(c *cobra.Command, text string) error {
	if !c.HasParent() {
		return failure.Invalid("%s; see %s --help", text, c.CommandPath())
	}
	_, short, _ := strings.Cut(c.CommandPath(), " ")
	return failure.Invalid("%s: %s; see %s --help", short, text, c.CommandPath())
}

// argsText says which arguments a command takes.
func argsText(c *cobra.Command, given []string) string {
	_, takes, _ := strings.Cut(c.Use, " ")
	switch {
	case takes == "":
		return fmt.Sprintf("no argument is expected, and there is %q", given[0])
	case len(given) == 0:
		return takes + " is missing"
	}
	return fmt.Sprintf("%s is expected, and %q is given", takes, strings.Join(given, " "))
}

// missingFlags says which flags a command cannot do without.
func missingFlags(c *cobra.Command) error {
	var missing []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if _, needed := f.Annotations[cobra.BashCompOneRequiredFlag]; needed && !f.Changed {
			missing = append(missing, "--"+f.Name)
		}
	})
	if missing == nil {
		return nil
	}
	return usageOf(c, "it needs "+strings.Join(missing, " and "))
}

// mayBeEmpty are the flags whose empty value says something: that there is none.
var mayBeEmpty = []string{"description", "name", "key-name", "os-cloud"}

// emptyFlags refuses flags that were given nothing, which would be passed over.
func emptyFlags(c *cobra.Command) (err error) {
	c.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.Type() == "string" && f.Value.String() == "" && !slices.Contains(mayBeEmpty, f.Name) && err == nil {
			err = usageOf(c, fmt.Sprintf("--%s is empty; give it a value, or leave it out", f.Name))
		}
	})
	return err
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
			return unknownCommand(c, given)
		}
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	case args != nil:
		c.Args = func(c *cobra.Command, given []string) error {
			err := args(c, given)
			if err == nil {
				return nil
			}
			if !errors.Is(err, failure.ErrInvalid) {
				err = errors.New(argsText(c, given))
			}
			return usageOf(c, err.Error())
		}
	}
	for _, sub := range c.Commands() {
		wrapUsage(sub)
	}
}
