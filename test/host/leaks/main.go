// Leaks compares the host before the tests with the host after them.
//
//	leaks save FILE
//	leaks check FILE    fails, and lists the differences, when there are any after 20 s
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/test/host"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "leaks:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: leaks save|check FILE")
	}
	ctx := context.Background()
	switch args[0] {
	case "save":
		state, err := host.Look(ctx)
		if err != nil {
			return err
		}
		return os.WriteFile(args[1], []byte(strings.Join(state, "\n")), 0o600)
	case "check":
		data, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		before := host.State(strings.Split(string(data), "\n"))
		all := func(s host.State) host.State { return s }
		diff, err := host.Settle(ctx, before, all, 20*time.Second)
		if err != nil {
			return err
		}
		if len(diff) > 0 {
			return fmt.Errorf("the host is not as it was before:\n%s", strings.Join(diff, "\n"))
		}
		fmt.Printf("The host is as it was: %d loop devices, mounts, domains, processes, cgroups, interfaces and files looked at\n", len(before))
		return nil
	}
	return fmt.Errorf("no such command: %s", args[0])
}
