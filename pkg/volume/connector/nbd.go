package connector

import (
	"net"
	"path/filepath"
	"strconv"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// nbdReconnect is how long, in seconds, requests wait for a server that went
// away before they fail.
const nbdReconnect = 30

// nbdNodes serves a volume of a network block device server: Data holds host and
// port (10809 when not said), or path of a unix socket, and export, the volume's
// name there (empty is the server's default).
func nbdNodes(_ *Host, conn volume.Connection, readOnly bool) (stack, error) {
	i := info(conn.Data)
	c := candidate{}
	n := args{"driver": "nbd", "export": i.str("export"), "reconnect-delay": nbdReconnect}
	if path := i.str("path"); path != "" {
		if !filepath.IsAbs(path) {
			return stack{}, failure.Invalid("the socket path %q is not absolute", path)
		}
		c.name = "nbd server " + path
		n["server"] = args{"type": "unix", "path": path}
	} else {
		host, err := i.need("host")
		if err != nil {
			return stack{}, err
		}
		port, ok := 10809, true
		if i["port"] != nil {
			port, ok = number(i["port"])
		}
		if !ok || port == 0 || port > 65535 || !hostName.MatchString(host) {
			return stack{}, failure.Invalid("host %q, port %v is no address of an nbd server", host, i["port"])
		}
		addr := net.JoinHostPort(host, strconv.Itoa(port))
		c.name, c.dial = "nbd server "+addr, []string{addr}
		n["server"] = args{"type": "inet", "host": host, "port": strconv.Itoa(port)}
	}
	c.nodes = []args{protocolNode(readOnly, n)}
	return stack{candidates: []candidate{c}}, nil
}
