package cmd

import (
	"strings"

	"github.com/spf13/pflag"
)

// list is the value of a flag that can be repeated. pflag's own one takes a buffer of
// 4 KiB for each such flag of each command, to say that it is empty.
type list []string

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

func (l *list) String() string { return strings.Join(*l, " ") }

func (*list) Type() string { return "stringArray" }

// repeated defines a flag that can be repeated.
func repeated(f *pflag.FlagSet, to *[]string, name, usage string) {
	f.Var((*list)(to), name, usage)
}
