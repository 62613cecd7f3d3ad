// lxcboot-copy copies files in and out of a container, from inside it, and is started by
// lxcboot alone, from a sealed copy. It is a program of its own because it may do no more
// than the container's root, and because what enters a container is to be small.
package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/transfer"
)

func main() {
	// An interrupt ends the streams, and then this does, once it has cleaned up.
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	os.Exit(transfer.Inside(os.Args[1:], os.Stdin, os.Stdout))
}
