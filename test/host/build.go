package host

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build builds the programs into the directory bin, which it makes, as make build does: lxcboot, lxcboot-faults,
// which stops at named points, and lxcboot-console, lxcboot-copy and lxcboot-init, which both start.
func Build(bin string) error {
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("go env GOMOD: %w", err)
	}
	top := filepath.Dir(strings.TrimSpace(string(mod)))
	const tags = "libvirt_without_lxc,libvirt_without_qemu" // as make build has them
	for _, b := range []struct{ cgo, tags, ldflags, name, dir string }{
		{"1", tags, "", "lxcboot", "."},
		{"1", tags + ",faults", "", "lxcboot-faults", "."},
		{"0", "", "", "lxcboot-console", "./cmd/lxcboot-console"},
		{"1", "netgo,osusergo", "-linkmode=external -extldflags=-static-pie", "lxcboot-copy", "./cmd/lxcboot-copy"},
	} {
		c := exec.Command("go", "build", "-buildvcs=false", "-buildmode=pie", "-tags", b.tags, "-ldflags", b.ldflags, "-o", filepath.Join(bin, b.name), b.dir)
		c.Dir, c.Env = top, append(os.Environ(), "CGO_ENABLED="+b.cgo)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(c.Args, " "), err, out)
		}
	}
	c := exec.Command(filepath.Join(top, "cmd/lxcboot-init/build"), filepath.Join(bin, "lxcboot-init"))
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("lxcboot-init: %w\n%s", err, out)
	}
	return nil
}
