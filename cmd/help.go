package cmd

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/host"
)

// newHelpCmd is cobra's help command, but that it knows what there is no help for.
func newHelpCmd() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Help about any command",
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
			of, _, err := c.Root().Find(args)
			if err == nil {
				for _, sub := range of.Commands() {
					if sub.IsAvailableCommand() || sub.IsAdditionalHelpTopicCommand() {
						names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			of, rest, err := c.Root().Find(args)
			if err != nil {
				return failure.Invalid("%v", err)
			}
			if len(rest) > 0 {
				return unknownCommand(of, rest)
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// docs is where a page of the docs is.
func docs(page string) string {
	path, _ := host.Docs(page)
	return path
}

// pointToManual ends all help with where there is more, where that is installed.
func pointToManual(root *cobra.Command) {
	dir, installed := host.Docs("")
	if !installed {
		return
	}
	cobra.AddTemplateFunc("page", func(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") })
	root.SetUsageTemplate(root.UsageTemplate() + `{{if not .IsAdditionalHelpTopicCommand}}
More: man {{page .}}; ` + dir + "\n{{end}}")
}

const exitCodesText = `The exit codes of lxcboot:

  0    done
  1    it failed, and what it had done was undone
  2    the command line or the configuration is wrong; nothing was done
  3    an instance, image, volume, snapshot or flavor was not found
  4    conflict: in use, taken, ambiguous, or not in a state for this
  5    libvirtd or the cloud cannot be reached
  6    not permitted, or this host lacks something
  7    not all could be undone: lxcboot delete finishes it; or something was made, and
       its description could not be written: it is there
  130  interrupted (143: by SIGTERM; 129: its terminal ended); what was done was undone

exec ends with the exit code of the program inside: 127 when there is none of that
name, 126 when it cannot be executed, 128 and the signal when one ended it. run ends
with the exit code of the container's init, 0 also after a power-off, and with 125 where
it fails itself.`

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesText}
}
