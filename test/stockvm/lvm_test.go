//go:build stockvm

package stockvm_test

import (
	"strings"
	"testing"
	"time"
)

// TestLVM: a store on a thin pool. What its tests and those of lvm2's commands want is run on
// the real one; and a container boots from a logical volume, is copied while it runs, grows,
// and leaves nothing. With -short the store's conformance is left out.
func TestLVM(t *testing.T) {
	s := machine(t, 40*time.Minute)
	for _, run := range []string{"lvm.test", "local.test -test.run TestLVM"} {
		if run != "lvm.test" && !testing.Short() {
			run = "local.test -test.run LVM"
		}
		out, err := s.try("cd $(mktemp -d) && LXCBOOT_LVM_RECORD=$PWD/said /srv/share/" + run + " -test.v")
		if err != nil {
			t.Errorf("%s: %v\n%s", run, err, out)
		}
	}
	s.run(`set -e; mkdir /srv/lvm; cd /srv/lvm; truncate -s 3G disk; vgcreate -q lxcboot $(losetup --find --show disk)
lvcreate -q --type thin-pool --extents 90%FREE --name pool lxcboot
printf 'volume-group: lxcboot\nthin-pool: pool\nstate-dir: /srv/lvm/state\n' >config
lxcboot --config config image import /srv/share/busybox.raw --name busybox`)
	defer s.run(`cd /; lxcboot --config /srv/lvm/config delete -q lv || true; lvs lxcboot; vgremove -q --yes lxcboot; pv=$(losetup --noheadings --list --output NAME --associated /srv/lvm/disk); pvremove -q $pv; losetup --detach $pv; rm -r /srv/lvm`)
	const lxcboot = "lxcboot --config /srv/lvm/config "
	s.run(lxcboot + "boot --flavor m1.tiny --nic none --block-device source=image,id=busybox,dest=volume,size=1,bootindex=0,shutdown=remove lv")
	root := s.run(lxcboot + "exec lv -- cat /proc/mounts")
	if !strings.Contains(root, "/dev/mapper/lxcboot-lxcboot") && !strings.Contains(root, "/dev/dm-") {
		t.Errorf("its root is not on a logical volume:\n%s", root)
	}
	s.run(lxcboot + "exec lv -- sh -c 'echo kept >/kept; sync'")
	s.run(lxcboot + "snapshot create --volume $(" + lxcboot + "show lv -f value -c volumes_attached) while-it-runs")
	s.run(lxcboot + "volume extend --size 2 $(" + lxcboot + "show lv -f value -c volumes_attached)")
	if size := s.run(lxcboot + "exec lv -- df -m / | tail -n 1"); !strings.Contains(size, " 19") {
		t.Errorf("after it was extended: %s", size)
	}
	s.run(lxcboot + "stop lv")
	s.run(lxcboot + "start lv")
	s.run(lxcboot + "exec lv -- grep kept /kept")
	s.run(lxcboot + "boot --flavor m1.tiny --nic none --snapshot while-it-runs copy")
	s.run(lxcboot + "exec copy -- grep kept /kept")
	s.run(lxcboot + "delete lv copy; " + lxcboot + "volume list -f value -c ID | xargs -r " + lxcboot + "volume delete; " + lxcboot + "snapshot delete while-it-runs; " + lxcboot + "image delete busybox")
	if left := s.run("lvs --noheadings --options lv_name --select pool_lv=pool lxcboot"); strings.TrimSpace(left) != "" {
		t.Errorf("left over:\n%s", left)
	}
}
