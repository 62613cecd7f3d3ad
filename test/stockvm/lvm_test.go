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

// TestManagedThin: a snapshot of a thin logical volume that is managed is one in its own pool,
// while a container writes to it, though the store keeps volumes as files; a copy of that
// boots, and everything of ours goes.
func TestManagedThin(t *testing.T) {
	s := machine(t, 20*time.Minute)
	s.run(`set -e; mkdir /srv/thin; truncate -s 512M /srv/thin/disk; vgcreate -q thin $(losetup --find --show /srv/thin/disk)
lvcreate -q --type thin-pool --size 256M --poolmetadatasize 4M --name pool thin
lvcreate -q --type thin --thinpool thin/pool --virtualsize 100M --name web1 thin
dd if=/srv/share/busybox.raw of=/dev/thin/web1 bs=1M conv=fsync status=none`)
	defer s.run(`lxcboot delete -q thin thin-copy || true; lxcboot volume unmanage web1 || true; lvs thin; vgremove -q --yes thin
pv=$(losetup --noheadings --list --output NAME --associated /srv/thin/disk); pvremove -q $pv; losetup --detach $pv; rm -r /srv/thin`)
	s.run(`set -e; lxcboot volume manage -q /dev/thin/web1 --name web1 --bootable
lxcboot boot -q --flavor m1.tiny --nic none --boot-volume web1 thin
lxcboot exec thin -- sh -c 'echo kept >/kept; sync'
lxcboot snapshot create -q --volume web1 thin
lxcboot exec thin -- rm /kept
lxcboot boot -q --flavor m1.tiny --nic none --snapshot thin thin-copy
lxcboot exec thin-copy -- grep kept /kept`)
	if lvs := s.run("lvs --noheadings --options lv_name --select lv_tags=lxcboot thin"); !strings.Contains(lvs, "lxcboot-") {
		t.Errorf("the snapshot is no logical volume: %q", lvs)
	}
	s.run(`set -e; copy=$(lxcboot show thin-copy -f value -c volumes_attached); lxcboot delete -q thin thin-copy; lxcboot volume delete -q $copy 2>/dev/null || true
lxcboot snapshot delete -q thin; lxcboot volume unmanage web1`)
	if left := strings.Fields(s.run("lvs --noheadings --options lv_name --select pool_lv=pool thin")); len(left) != 1 || left[0] != "web1" {
		t.Errorf("left in the pool: %q", left)
	}
}
