//go:build stockvm

package stockvm_test

import (
	"strings"
	"testing"
	"time"
)

// TestRemove: who removes the package has the containers stopped in order, and running again
// once it is installed; who purges it has volumes, and nothing else.
func TestRemove(t *testing.T) {
	s := machine(t, 30*time.Minute)
	s.debians()
	s.run("lxcboot exec d1 -- sh -c 'echo kept >/root/kept'")
	s.run("apt-get -q -y remove lxcboot; ! command -v lxcboot; ! pgrep libvirt_lxc; virsh -q -c lxc:/// list --all --name | grep d1; /etc/libvirt/hooks/lxc.d/lxcboot other prepare begin - </dev/null")
	s.run(install)
	s.well(debians...)
	if kept := s.run("lxcboot exec d1 -- cat /root/kept"); kept != "kept" {
		t.Errorf("its file has %q", kept)
	}
	// Where a thin pool was used images stay, too, and TestLVM has used one that is gone.
	out := s.run("rm -rf /var/lib/lxcboot/pools; apt-get -q -y purge lxcboot")
	if !strings.Contains(out, "volumes and their snapshots stay in /var/lib/lxcboot") {
		t.Errorf("it does not say what stays: %s", out)
	}
	if left := s.run("ls -A /var/lib/lxcboot; ls -d /etc/lxcboot /etc/libvirt/hooks/lxc.d /run/lxcboot* 2>/dev/null || true"); left != "volumes" {
		t.Errorf("there is left: %s", left)
	}
	s.until(nothing)
	s.run("rm -r /var/lib/lxcboot\n" + install)
}
