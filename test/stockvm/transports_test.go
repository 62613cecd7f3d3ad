//go:build stockvm

package stockvm_test

import (
	"testing"
	"time"
)

// TestTransports runs the connectors' own tests of the kernel's drivers, with targets in
// the machine; with -short those that wait for no time limits.
func TestTransports(t *testing.T) {
	limit, run := 40*time.Minute, "/srv/share/connector.test -test.v -test.timeout 40m -test.run TestReal"
	if testing.Short() {
		limit, run = 9*time.Minute, run+" -test.short"
	}
	s := machine(t, limit)
	s.run("systemctl stop tgt || true; systemctl start iscsid; modprobe iscsi_tcp")
	out, err := s.try(run)
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	s.run("! losetup --noheadings --list | grep .; ! ls /sys/class/iscsi_session/ /sys/class/nvme/ | grep -v :; ! dmsetup ls | grep mpath")
}
