// lxcboot-console keeps the console of one container, and is started by lxcboot alone.
// It is a program of its own because each running container has one: it does without
// libvirt's libraries, so that it is up in a moment and takes little memory.
package main

import (
	"fmt"
	"os"

	"github.com/lxcboot/lxcboot/pkg/console"
)

func main() {
	if err := console.Keep(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "lxcboot-console: %v\n", err)
		os.Exit(1)
	}
}
