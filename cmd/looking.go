package cmd

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// looking are the commands that are of what is there already. They make no state directory:
// one that was mistyped is to be told, and not to stay behind empty.
var looking = []string{
	"list", "show", "logs", "exec", "cp", "console", "stop", "start", "reboot", "delete", "rename", "resize", "set", "unset", "wait",
	"image list", "image show", "image delete", "image set", "image save",
	"volume list", "volume show", "volume delete", "volume set", "volume extend", "volume export",
	"snapshot list", "snapshot show", "snapshot delete",
}

// looks says whether a command is one of them.
func looks(c *cobra.Command) bool {
	_, path, _ := strings.Cut(c.CommandPath(), " ")
	return slices.Contains(looking, path)
}

// errNoState is of a state directory that is not there, where none is to be made.
var errNoState = errors.New("no state directory")

// stateThere says whether a command that makes no state directory has one.
func (a *App) stateThere() error {
	if _, err := os.Lstat(a.settings.StateDir); a.looking && errors.Is(err, fs.ErrNotExist) {
		return failure.Of(errNoState, "nothing is there: there is no state directory %s", a.settings.StateDir)
	}
	return nil
}

// noneYet says that a state directory that was named is not there, where a list of what is in
// it is empty. The usual one is not there on a host where nothing was booted yet.
func (a *App) noneYet() {
	if a.settings.StateDir != usualStateDir {
		a.warn("there is no state directory %s", a.settings.StateDir)
	}
}
