//go:build stockvm

package stockvm_test

import (
	"testing"
	"time"
)

// TestTransports runs the connectors' own tests of the kernel's drivers, with targets in
// the machine; with -short one each of a disk by iSCSI, by NVMe and of LVM's.
func TestTransports(t *testing.T) {
	limit, run := 90*time.Minute, "-test.timeout 90m -test.run TestReal"
	if testing.Short() {
		limit, run = 20*time.Minute, "-test.short -test.run '^(TestRealISCSI|TestRealNVMe|TestRealLVM|TestRealLVMActivates)$'"
	}
	s := machine(t, limit)
	s.run("systemctl stop tgt || true; systemctl start iscsid; modprobe iscsi_tcp")
	out, err := s.try("/srv/share/connector.test -test.v " + run)
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	// The containers that stay for other tests have loop devices too.
	s.run(`left=$(losetup --noheadings --list --output BACK-FILE | grep -v ^/var/lib/lxcboot/; ls -d /sys/class/iscsi_session/* /sys/class/nvme/* 2>/dev/null; dmsetup ls | grep mpath) || true
test -z "$left" || { echo "$left"; exit 1; }`)
}
