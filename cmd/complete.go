package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// completer completes arguments with what a function lists. Completion never fails
// loudly: without names the shell offers none.
func (a *App) completer(list func(ctx context.Context) ([]string, error), many bool) cobra.CompletionFunc {
	return func(c *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(given) > 0 && !many || a.load(c) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer a.close()
		a.looking = true
		// Whoever typed it waits.
		ctx, cancel := context.WithTimeout(c.Context(), 5*time.Second)
		defer cancel()
		names, err := list(ctx)
		if err != nil && len(names) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *App) flavorNames(context.Context) (names []string, err error) {
	all, err := a.flavors()
	for _, f := range all {
		names = append(names, f.Name)
	}
	return names, err
}

func (a *App) instanceNames(context.Context) (names []string, err error) {
	s, err := a.records()
	if err != nil {
		return nil, err
	}
	all, err := s.List()
	for _, r := range all {
		names = append(names, r.Name)
	}
	return names, err
}
