//go:build stockvm

package stockvm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// outer begins a script about the container $name, in the group of the host's root that
// holds it.
const outer = `name=%s
cd $(find /sys/fs/cgroup -type d -name "*$(lxcboot show $name -f value -c id | tr -d -)*")
`

// lift writes each file of each group that the container's root sees, limits with no limit
// and others with what they have, and prints those that could be written. What ends, stops
// or moves processes is left out. Before that it asks for controllers in the groups below.
const lift = outer + `limits() { grep -H . *.max *.high *.min *.low cpu.weight cpuset.cpus memory.oom.group; }
before=$(limits)
lxcboot exec $name -- sh -c 'cd /sys/fs/cgroup
for c in $(cat cgroup.controllers); do (echo +$c >cgroup.subtree_control) 2>/dev/null; done
find /sys/fs/cgroup -type f | while read -r f; do
case $f in
*.kill | *.freeze | *.procs | *.threads | *.type | *.subtree_control | *.pressure | *.reclaim) ;;
*.max | *.high | *.min | *.low) (echo max >$f || echo 0 >$f) 2>/dev/null && echo $f ;;
*) (v=$(head -c 4096 $f) && echo "$v" >$f) 2>/dev/null && echo $f ;;
esac
done; true'
after=$(limits)
test "$before" = "$after" || { echo "$before"; echo "has become"; echo "$after"; exit 1; }`

// hogs lets a memory hog, a fork bomb and a CPU hog loose in the container, and prints by
// what the outer group stopped each. The groups below have no limits, as if the container's
// root could lift them all. 16384 processes take more memory than such a container has, so
// the bomb meets a lower limit of the same group.
const hogs = outer + `for limit in $(find . -mindepth 2 -name '*.max'); do echo max >$limit 2>/dev/null || true; done
for limit in memory.max cpu.max pids.max; do find . -mindepth 2 -name $limit -exec grep -Hv ^max {} + && exit 1; done
count() { sed -n "s/^$1 //p" $2; }
was=$(count oom memory.events.local)
lxcboot exec $name -- tail /dev/zero || echo "memory: ends with $?"
test $(count oom memory.events.local) -gt $was

echo 100 >pids.max
lxcboot exec $name -- sh -c 'while sleep 1000 & do :; done' 2>/dev/null || true
test $(cat pids.current) -le 100
find . -name pids.events -exec grep -q 'max [1-9]' {} \; -print -quit | grep . >/dev/null # older kernels count below
echo "processes: held"
pkill -x sleep
echo 16384 >pids.max

was=$(count nr_throttled cpu.stat)
for hog in 1 2; do lxcboot exec $name -- timeout 120 md5sum /dev/zero >/dev/null 2>&1 & done
until [ $(count nr_throttled cpu.stat) -gt $was ]; do sleep 0.2; kill -0 $!; done
lxcboot exec $name -- killall md5sum
wait
echo "cpu: held"
`

// TestLimits: a container is held by limits that its root cannot lift, whoever starts it,
// and its swap is what was asked for.
func TestLimits(t *testing.T) {
	s := machine(t, 20*time.Minute)
	s.run(`printf 'flavors:\n- {name: small, ram: 64, vcpus: 1, disk: 1, swap: 32}\n' >limits.yaml`)
	holds := func(name, how string) {
		t.Helper()
		if limits, want := strings.Join(strings.Fields(s.run(fmt.Sprintf(outer, name)+"cat memory.max memory.swap.max cpu.max pids.max")), " "), "67108864 33554432 100000 100000 16384"; limits != want {
			t.Errorf("%s started by %s is held by %s instead of %s", name, how, limits, want)
		}
		t.Logf("%s started by %s: its root may write %q", name, how, strings.Fields(s.run(fmt.Sprintf(lift, name))))
	}
	for name, how := range map[string]string{"l1": "", "l2": "--privileged"} {
		s.run("LXCBOOT_CONFIG=limits.yaml lxcboot boot -q --flavor small --image busybox --boot-from-volume 1 --delete-on-termination --nic none " + how + " " + name)
		holds(name, "lxcboot")
		stopped := strings.Join(strings.Fields(s.run(fmt.Sprintf(hogs, name))), " ")
		if want := "memory: ends with 137 processes: held cpu: held"; stopped != want {
			t.Errorf("hogs in %s: %s\ninstead of %s", name, stopped, want)
		}
	}
	s.try("virsh -q -c lxc:/// destroy l1")
	s.until(`test "$(lxcboot show l1 -f value -c status)" = SHUTOFF`)
	s.run("virsh -q -c lxc:/// start l1")
	holds("l1", "virsh")
	before := s.init("l1")
	s.try("lxcboot exec l1 -- reboot") // which the init may end first
	s.until(`pid=$(lxcboot show l1 -f value -c init_pid); test "$pid" != 0 && test "$pid" != ` + before)
	holds("l1", "libvirt, after a reboot from inside")
	// Here the init makes groups of its own.
	s.debians()
	t.Logf("root in d1 may write %q", strings.Fields(s.run(fmt.Sprintf(lift, "d1"))))
	s.run(`ids=$(for name in l1 l2; do lxcboot show $name -f value -c id | tr -d -; done)
lxcboot delete -q l1 l2
left=$({ find /sys/fs/cgroup -type d; systemctl list-units --all --plain --no-legend; } | grep -F "$ids") || exit 0
echo "$left"; exit 1`)
}
