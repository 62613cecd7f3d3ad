//go:build stockvm

package stockvm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// debians are three containers with systemd, which stay for the other tests.
var debians = []string{"d1", "d2", "d3"}

// debians makes the three containers where they are not there, starts them where they do
// not run, and waits until all are well.
func (s stock) debians() {
	s.Helper()
	s.run(`all=$(lxcboot list -f value -c Name -c Status)
for name in ` + strings.Join(debians, " ") + `; do
case $(echo "$all" | sed -n "s/^$name //p") in
ACTIVE) ;;
SHUTOFF) lxcboot start -q $name ;;
*) lxcboot boot -q --flavor m1.tiny --image debian --boot-from-volume 1 --delete-on-termination --nic net-name=default $name -f value -c status ;;
esac
done`)
	s.well(debians...)
}

// well waits until these of the containers of debians are up, with an address, and nothing
// in them has failed.
func (s stock) well(names ...string) {
	s.Helper()
	for _, name := range names {
		out := s.until(fmt.Sprintf(`out=$(lxcboot exec %s -- sh -c 'systemctl is-system-running || systemctl --failed --no-legend --plain; ip -4 -brief address show dev eth0' 2>&1)
echo "$out"
echo "$out" | grep -E '^(running|degraded)$' && echo "$out" | grep -F ' 192.168.122.'`, name))
		if !strings.HasPrefix(out, "running\n") {
			s.Errorf("%s is %s", name, out)
		}
	}
}

// init is the pid of a container's init.
func (s stock) init(name string) string {
	s.Helper()
	return s.run("lxcboot show " + name + " -f value -c init_pid")
}

// TestSystemd boots three containers with systemd side by side.
func TestSystemd(t *testing.T) {
	s := machine(t, 20*time.Minute)
	s.debians()
	addresses := map[string]bool{}
	for _, name := range debians {
		addresses[s.run("lxcboot exec "+name+" -- ip -4 -brief address show dev eth0")] = true
		if got := s.run("lxcboot exec " + name + " -- hostname"); got != name {
			t.Errorf("the host name of %s is %s", name, got)
		}
	}
	if len(addresses) != len(debians) {
		t.Errorf("they have the addresses %v", addresses)
	}
	s.run("lxcboot exec d1 -- networkctl --no-pager status eth0")
}

// TestGroups: of the host's control groups a container sees its own, as if it were all.
func TestGroups(t *testing.T) {
	s := machine(t, 20*time.Minute)
	s.debians()
	for line := range strings.Lines(s.run("lxcboot exec d1 -- cat /proc/1/cgroup /proc/self/cgroup")) {
		if strings.TrimSpace(line) != "0::/init.scope" {
			t.Errorf("it is in %s", line)
		}
	}
	seen := s.run("lxcboot exec d1 -- find /sys/fs/cgroup -type d; lxcboot exec d1 -- grep cgroup /proc/self/mountinfo")
	for _, of := range []string{"libvirt", "lxc", "ssh", "machine.slice", "udisks", "d1", "d2", "d3"} {
		if strings.Contains(seen, of) {
			t.Errorf("it sees %q: %s", of, seen)
		}
	}
	if !strings.Contains(seen, "/sys/fs/cgroup/system.slice/systemd-journald.service") {
		t.Errorf("it does not see its own services: %s", seen)
	}
}

// TestVirsh starts a container with virsh that virsh has ended, and reboots it from inside.
func TestVirsh(t *testing.T) {
	s := machine(t, 20*time.Minute)
	s.debians()
	s.run("lxcboot exec d1 -- sh -c 'echo kept >/root/kept && sync'")
	// systemd may remove the container's scope before libvirt has looked into it once more,
	// and virsh says then that it failed.
	s.try("virsh -q -c lxc:/// destroy d1")
	s.until(`test "$(lxcboot show d1 -f value -c status)" = SHUTOFF`)
	s.run("virsh -q -c lxc:/// start d1")
	s.well("d1")
	init := s.init("d1")
	s.run("lxcboot exec d1 -- systemctl reboot")
	s.until(`pid=$(lxcboot show d1 -f value -c init_pid); echo "$pid"; test "$pid" != 0 && test "$pid" != ` + init)
	s.well("d1")
	if kept := s.run("lxcboot exec d1 -- cat /root/kept"); kept != "kept" {
		t.Errorf("its file has %q", kept)
	}
	told, has := s.addresses("d1")
	if told != has {
		t.Errorf("show says %s, and after a reboot from inside it has %s", told, has)
	}
}

// addresses are the hardware address that show says, and the one that a container has.
func (s stock) addresses(name string) (told, has string) {
	s.Helper()
	out := s.run(fmt.Sprintf("lxcboot show %[1]s -f value -c networks | grep -o '[^ ]*$'; lxcboot exec %[1]s -- cat /sys/class/net/eth0/address", name))
	told, has, _ = strings.Cut(out, "\n")
	return told, has
}

// TestHardwareAddress boots with a card: each container has the address that show says. So
// it has, without -short, where the link file that keeps udev's hands off is gone.
func TestHardwareAddress(t *testing.T) {
	type how struct {
		name, before, after string
		boots               int
	}
	const link = "/usr/lib/systemd/network/98-lxcboot.link"
	hows := []how{{"installed", ":", ":", 8}}
	if !testing.Short() {
		hows = append(hows, how{"without the link file", "mv " + link + " moved.link", "mv moved.link " + link, 4})
	}
	for _, how := range hows {
		t.Run(how.name, func(t *testing.T) {
			s := machine(t, 20*time.Minute)
			s.run(how.before + fmt.Sprintf("; lxcboot boot -q --min-count %d --flavor m1.tiny --image busybox --boot-from-volume 1 --delete-on-termination --nic net-name=default m", how.boots))
			for i := range how.boots {
				name := fmt.Sprint("m-", i+1)
				if told, has := s.addresses(name); told != has || !strings.HasPrefix(told, "52:54:00:") {
					t.Errorf("%s: show says %q, and it has %q", name, told, has)
				}
			}
			s.run("lxcboot list -f value -c name | grep ^m- | xargs lxcboot delete -q; " + how.after)
		})
	}
}

// TestCycles boots and deletes while udisks looks at each device that comes.
func TestCycles(t *testing.T) {
	s := machine(t, 20*time.Minute)
	s.run("systemctl start udisks2; udisksctl status >/dev/null; " + before)
	s.run("lxcboot volume create --image busybox --size 1 cycles -f value -c id")
	cycles := 50
	if testing.Short() {
		cycles = 5
	}
	s.run(fmt.Sprintf(`for cycle in $(seq %d); do
lxcboot boot -q --flavor m1.tiny --boot-volume cycles --nic none --block-device source=blank,dest=volume,size=1,shutdown=remove cycle
lsblk --fs >/dev/null
lxcboot delete -q cycle
done`, cycles))
	s.run("lxcboot volume delete cycles; systemctl is-active udisks2; " + same)
}

// TestNewPrograms installs another version of the package beside running containers.
func TestNewPrograms(t *testing.T) {
	s := machine(t, 20*time.Minute)
	s.debians()
	init := s.init("d1")
	started := s.run("systemctl show -P ActiveEnterTimestampMonotonic lxcboot.service")
	s.run(apt + `/srv/share/next/lxcboot_*.deb
lxcboot version | grep v0.2.0
lxcboot setup --check; systemctl is-active lxcboot.service; ` + restart)
	if now := s.run("systemctl show -P ActiveEnterTimestampMonotonic lxcboot.service"); now != started {
		t.Errorf("the upgrade has restarted lxcboot.service: %s, %s", started, now)
	}
	if now := s.init("d1"); now != init {
		t.Errorf("its init was %s and is %s", init, now)
	}
	s.run("lxcboot exec d1 -- sh -c 'echo said after >/dev/console'")
	s.until("lxcboot logs d1 | grep 'said after'")
	// The keeper of its console is of the program before. ^] leaves it.
	s.run(`rm -f keys; mkfifo keys
lxcboot console d1 <keys >said & client=$!
exec 3>keys
until grep -q 'said to a client' said; do kill -0 $client; lxcboot exec d1 -- sh -c 'echo said to a client >/dev/console'; done
printf '\035' >&3
wait $client`)
	s.run("lxcboot stop -q d1; lxcboot start -q d1")
	s.well("d1")
}
