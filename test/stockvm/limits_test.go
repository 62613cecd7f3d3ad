//go:build stockvm

package stockvm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// held lifts each limit that a container's root may write to, and prints then how a memory
// hog in it ends, and what limits it above.
const held = `name=%s
lxcboot exec $name -- sh -c 'for f in $(find /sys/fs/cgroup -type f -name "*.max" -o -name "*.high"); do echo max >$f; done' 2>/dev/null || true
lxcboot exec $name -- tail /dev/zero || echo "ends with $?"
cd $(find /sys/fs/cgroup -type d -name "*$(lxcboot show $name -f value -c id | tr -d -)*")
cat memory.max memory.swap.max cpu.max pids.max
grep -w oom_kill memory.events`

// TestLimits: a container is held by limits that its root cannot lift, whoever starts it,
// and its swap is what was asked for.
func TestLimits(t *testing.T) {
	s := machine(t, 8*time.Minute)
	s.run(`printf 'flavors:\n- {name: small, ram: 64, vcpus: 1, disk: 1, swap: 32}\n' >limits.yaml`)
	want := "ends with 137 67108864 33554432 100000 100000 16384 oom_kill 1"
	holds := func(name, how string) {
		t.Helper()
		if got := strings.Join(strings.Fields(s.run(fmt.Sprintf(held, name))), " "); got != want {
			t.Errorf("%s started by %s: %s\ninstead of %s", name, how, got, want)
		}
	}
	for name, how := range map[string]string{"l1": "", "l2": "--privileged"} {
		s.run("LXCBOOT_CONFIG=limits.yaml lxcboot boot -q --flavor small --image busybox --boot-from-volume 1 --delete-on-termination --nic none " + how + " " + name)
		holds(name, "lxcboot")
	}
	s.try("virsh -q -c lxc:/// destroy l1")
	s.until(`test "$(lxcboot show l1 -f value -c status)" = SHUTOFF`)
	s.run("virsh -q -c lxc:/// start l1")
	holds("l1", "virsh")
	before := s.init("l1")
	s.try("lxcboot exec l1 -- reboot") // which the init may end first
	s.until(`pid=$(lxcboot show l1 -f value -c init_pid); test "$pid" != 0 && test "$pid" != ` + before)
	holds("l1", "libvirt, after a reboot from inside")
	s.run("lxcboot delete -q l1 l2; ! find /sys/fs/cgroup -name 'machine-lxcboot-*' | grep .; ! systemctl list-units --all --plain --no-legend 'machine-lxcboot-*' | grep .")
}
