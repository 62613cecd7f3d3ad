// Package share has the files that are installed beside the programs, for those that
// lxcboot setup installs too.
package share

import (
	"embed"
	"strings"
)

//go:embed libvirt systemd sysctl.conf
var files embed.FS

// Text is a file, with the command line of lxcboot in the place of @LXCBOOT@. A name that
// there is not is a mistake of the caller's, and panics.
func Text(name, command string) string {
	data, err := files.ReadFile(name)
	if err != nil {
		panic(err)
	}
	return strings.ReplaceAll(string(data), "@LXCBOOT@", command)
}
