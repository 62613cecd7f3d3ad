package cmd

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/spelling"
)

// shortNames are other names of commands, wherever there is one of the name.
var shortNames = map[string][]string{"list": {"ls"}, "delete": {"rm"}}

// elsewhere are what commands are called by other programs. They are suggested, and not
// taken: what they do there may be another thing.
var elsewhere = map[string][]string{
	"boot":    {"create", "launch", "new", "up", "spawn"},
	"list":    {"ps", "status"},
	"show":    {"info", "inspect", "describe", "get"},
	"events":  {"monitor", "watch"},
	"top":     {"usage", "stat"},
	"logs":    {"log", "journal", "tail"},
	"exec":    {"shell", "sh", "ssh", "enter", "bash"},
	"cp":      {"file", "push", "copy", "scp"},
	"stop":    {"shutdown", "poweroff", "kill", "down", "halt"},
	"reboot":  {"restart"},
	"delete":  {"remove", "destroy", "terminate", "undefine", "del"},
	"start":   {"resume", "poweron"},
	"rename":  {"mv", "move"},
	"set":     {"update", "edit", "label"},
	"image":   {"images", "pull", "build"},
	"keypair": {"keypairs", "key", "keys"},
	"volume":  {"volumes", "disk", "disks"},
	"import":  {"add", "pull", "upload", "load"},
	"save":    {"download", "export"},
	"extend":  {"resize", "grow"},
	"export":  {"download", "save"},
	"create":  {"new", "add", "make"},
	"doctor":  {"check", "verify"},
	"repair":  {"fsck", "fix", "recover"},
}

// nouns are what other programs put before the verbs that are commands of the root here.
var nouns = []string{"server", "servers", "instance", "instances", "container", "containers", "vm"}

// alias gives the commands below c their short names, and what they are suggested for.
func alias(c *cobra.Command) {
	for _, sub := range c.Commands() {
		sub.Aliases = append(sub.Aliases, shortNames[sub.Name()]...)
		sub.SuggestFor = append(sub.SuggestFor, elsewhere[sub.Name()]...)
		alias(sub)
	}
}

// unknownCommand is a command that there is not below c, with what was given after it.
func unknownCommand(c *cobra.Command, given []string) error {
	name := given[0]
	text := fmt.Sprintf("unknown command %q for %q", name, c.CommandPath())
	if !c.HasParent() && slices.Contains(nouns, name) {
		verb := "list"
		if len(given) > 1 {
			verb = given[1]
		}
		return failure.Invalid("%s: what is done to instances has no word before it; did you mean %s %s?", text, c.CommandPath(), verb)
	}
	var near []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && slices.Contains(sub.SuggestFor, name) {
			near = append(near, sub.Name())
		}
	}
	if near == nil {
		c.SuggestionsMinimumDistance = min(2, len(name)/2) // a short word is near to everything
		near = c.SuggestionsFor(name)
	}
	if len(near) > 0 {
		text += fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	} else {
		text += "; see " + c.CommandPath() + " --help"
	}
	return failure.Invalid("%s", text)
}

// flagText says what is wrong with a flag, without the words of the Go function that
// read its value, and which flag may be meant by one that there is not.
func flagText(c *cobra.Command, err error) string {
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
	if missing, ok := errors.AsType[*pflag.NotExistError](err); ok && missing.GetSpecifiedShortnames() == "" {
		if near := nearFlags(c, missing.GetSpecifiedName()); len(near) > 0 {
			text += "; did you mean --" + strings.Join(near, " or --") + "?"
		}
	}
	return text
}

// sameFlags are what flags are called by other programs.
var sameFlags = map[string]string{
	"network": "nic", "net": "nic", "property": "meta", "metadata": "meta", "label": "tags", "tag": "tags",
	"volume": "boot-volume", "lines": "tail", "output": "format", "key": "key-name",
}

// nearFlags are the flags of a command whose names are like one that it does not have.
func nearFlags(c *cobra.Command, name string) (near []string) {
	if same := sameFlags[name]; same != "" && c.Flags().Lookup(same) != nil {
		return []string{same}
	}
	least := 3
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		switch d := spelling.Distance(name, f.Name); {
		case d < least && d <= len(name)/2:
			near, least = []string{f.Name}, d
		case d == least && len(near) > 0:
			near = append(near, f.Name)
		}
	})
	return near
}
