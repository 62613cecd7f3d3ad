// lxcboot boots LXC containers from block device volumes.
package main

import (
	"os"

	"github.com/lxcboot/lxcboot/cmd"
)

func main() { os.Exit(cmd.Main()) }
