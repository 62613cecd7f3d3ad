//go:build stockvm

package stockvm_test

import (
	"testing"
	"time"
)

// TestTransports runs the connectors' own tests of the kernel's drivers, with targets in
// the machine.
func TestTransports(t *testing.T) {
	s := machine(t, 9*time.Minute)
	s.run("systemctl stop tgt || true; systemctl start iscsid; modprobe iscsi_tcp")
	out, err := s.try("/srv/share/connector.test -test.v -test.run TestReal")
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	s.run("! losetup --noheadings --list | grep .; ! ls /sys/class/iscsi_session/ /sys/class/nvme/ | grep -v :")
}
