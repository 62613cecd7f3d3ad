package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestImports holds the way of the data: cmd wires everything, instance knows
// the order, and the leaves know neither it nor each other.
func TestImports(t *testing.T) {
	const module = "github.com/lxcboot/lxcboot/"
	// What each package may import of this module; a package that is not named
	// here may import none of it.
	allowed := map[string][]string{
		"pkg/instance":          {"pkg/state", "pkg/host", "pkg/bdm", "pkg/volume", "pkg/volume/connector", "pkg/rootfs", "pkg/loop", "pkg/lxc", "pkg/proc", "pkg/flavor", "pkg/seed", "pkg/fault", "pkg/cgroup", "pkg/inuse"},
		"pkg/onhost":            {"pkg/instance", "pkg/cgroup", "pkg/state", "pkg/rootfs", "pkg/seed", "pkg/inroot", "pkg/loop", "pkg/lxc", "pkg/console", "pkg/proc", "pkg/inuse"},
		"pkg/state":             {"pkg/host", "pkg/cgroup", "pkg/bdm", "pkg/volume/connector", "pkg/rootfs", "pkg/loop", "pkg/lxc", "pkg/proc", "pkg/flavor", "pkg/seed", "pkg/fault"},
		"pkg/volume/local":      {"pkg/volume", "pkg/volume/imagefile", "pkg/host", "pkg/loop", "pkg/fault", "pkg/blockdev", "pkg/inuse", "pkg/volume/lvm"},
		"pkg/volume/lvm":        {"pkg/volume", "pkg/fault"},
		"pkg/volume/openstack":  {"pkg/volume", "pkg/volume/imagefile", "pkg/host", "pkg/fault", "pkg/tty"},
		"pkg/volume/connector":  {"pkg/volume", "pkg/loop", "pkg/proc", "pkg/fault", "pkg/host"},
		"pkg/volume/volumetest": {"pkg/volume"},
		"pkg/volume/imagefile":  {"pkg/volume", "pkg/fault"},
		"pkg/rootfs":            {"pkg/loop", "pkg/fault", "pkg/tty", "pkg/inroot", "pkg/proc"},
		"pkg/loop":              {"pkg/fault"},
		"pkg/durable":           {"pkg/fault"},
		"pkg/lxc":               {"pkg/host", "pkg/cgroup", "pkg/tty", "pkg/proc", "pkg/fault", "pkg/inroot", "pkg/inuse"},
		"pkg/inuse":             {"pkg/loop", "pkg/proc", "pkg/inroot", "pkg/blockdev"},
		"pkg/blockdev":          nil,
		"pkg/console":           {"pkg/tty", "pkg/proc", "pkg/host"},
		"pkg/transfer":          {"pkg/fault"},
		"pkg/tty":               nil,
		"pkg/proc":              nil,
		"pkg/host":              {"pkg/cgroup"},
		"pkg/doctor":            {"pkg/host"},
		"pkg/cgroup":            nil,
		"pkg/failure":           nil,
		"pkg/inroot":            nil,
		"pkg/qcow2":             nil,
		"pkg/lock":              nil,
		"pkg/wait":              nil,
		"pkg/fault":             nil,
		"pkg/bdm":               {"pkg/volume", "pkg/spelling"},
		"pkg/pacemaker":         nil,
		"pkg/report":            {"pkg/tty"},
		"pkg/flavor":            nil,
		"pkg/volume":            {"pkg/host"},
	}
	anywhere := []string{"pkg/failure", "pkg/qcow2", "pkg/durable", "pkg/lock", "pkg/wait"} // which are of the standard library alone
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}}`, "./pkg/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < len(allowed) {
		t.Errorf("go list found %d packages, fewer than the %d that are named here", len(lines), len(allowed))
	}
	for _, line := range lines {
		path, imports, _ := strings.Cut(line, ": ")
		pkg := strings.TrimPrefix(path, module)
		for _, imported := range strings.Fields(imports) {
			dep, ours := strings.CutPrefix(imported, module)
			if ours && !slices.Contains(allowed[pkg], dep) && !slices.Contains(anywhere, dep) {
				t.Errorf("%s imports %s", pkg, dep)
			}
			if (pkg == "pkg/bdm" || pkg == "pkg/volume" || slices.Contains(anywhere, pkg)) && !ours && strings.Contains(strings.Split(imported, "/")[0], ".") {
				t.Errorf("%s is of the standard library alone, and imports %s", pkg, imported)
			}
			if strings.HasPrefix(imported, "libvirt.org/") && pkg != "pkg/lxc" {
				t.Errorf("%s imports %s: only pkg/lxc knows libvirt", pkg, imported)
			}
		}
	}
}
