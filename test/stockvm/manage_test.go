//go:build stockvm

package stockvm_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// disks gives the machine further disks, in an order, from its next start on.
func (s stock) disks(serials ...string) {
	s.Helper()
	for _, serial := range []string{"parts", "group"} {
		old, _ := filepath.Glob(filepath.Join(files(), "more-*-"+serial+".raw"))
		for _, path := range old {
			if err := os.Rename(path, filepath.Join(files(), "away-"+serial)); err != nil {
				s.Fatal(err)
			}
		}
	}
	for i, serial := range serials {
		if err := os.Rename(filepath.Join(files(), "away-"+serial), filepath.Join(files(), fmt.Sprintf("more-%d-%s.raw", i, serial))); err != nil {
			s.Fatal(err)
		}
	}
}

// restarted is the machine after it went down in order, with other disks.
func (s stock) restarted(serials ...string) {
	s.Helper()
	s.verb("down")
	s.disks(serials...)
	s.verb("up")
	s.until(`state=$(systemctl show lxcboot.service -P ActiveState); echo "$state"; test "$state" != activating`)
}

// TestManagedLV boots from a logical volume, with a partition of another disk mounted: what
// is in use is refused; others of the host cannot have what the container has; and after the
// host restarts, with its disks under each other's names, each is found again by what stays
// of it, or missed by its name. What was left on them is there once they are unmanaged.
func TestManagedLV(t *testing.T) {
	s := machine(t, 40*time.Minute)
	for _, serial := range []string{"parts", "group"} {
		path := filepath.Join(files(), "away-"+serial)
		t.Cleanup(func() { os.Remove(path) })
		if out, err := exec.Command("truncate", "-s", "512M", path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	table := exec.Command("sfdisk", "-q", filepath.Join(files(), "away-parts"))
	table.Stdin = strings.NewReader("label: gpt\nstart=1MiB,size=128MiB\nstart=200MiB,size=128MiB\n")
	if out, err := table.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		s := stock{t, ctx}
		_, _ = s.try("lxcboot delete -q managed; lxcboot volume unmanage lv part; vgchange -qq -an stock; true")
		s.verb("down")
		s.disks()
		s.verb("up")
	})
	s.restarted("parts", "group")

	const link = "/dev/disk/by-id/virtio-"
	s.run(`test -b ` + link + `parts-part1 -a -b ` + link + `group
vgcreate -qq stock ` + link + `group
lvcreate -qq -y -L 64M -n web1 stock
dd if=/srv/share/busybox.raw of=/dev/stock/web1 bs=1M conv=fsync status=none
mke2fs -q -t ext4 ` + link + `parts-part1
udevadm settle`)
	disk := s.run("readlink -f " + link + "parts")

	// Refused, each with who has it.
	refused := func(code int, want, script string) {
		t.Helper()
		out, err := s.try(script)
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != code || !strings.Contains(out, want) {
			t.Errorf("%s: %v: %s\nis no exit code %d with %q", script, err, out, code, want)
		}
	}
	s.run("mount " + disk + "1 /mnt")
	refused(4, "is mounted at /mnt", "lxcboot volume manage "+disk+"1")
	refused(4, "is mounted at /mnt", "lxcboot volume manage "+disk)
	s.run("umount /mnt; mkswap -q " + disk + "2; swapon " + disk + "2")
	refused(4, "is used as swap", "lxcboot volume manage "+disk+"2")
	s.run("swapoff " + disk + "2")
	refused(4, "is used by /dev/dm-", "lxcboot volume manage "+link+"group")
	refused(4, "is what this system runs from", "lxcboot volume manage /dev/vda")
	s.run("exec 7<" + disk + "2; (sleep 30 <&7 >/dev/null 2>&1 &)")
	refused(4, "open", "lxcboot volume manage "+disk+"2")

	// Each by its kernel's name, and known by what stays.
	s.run("lxcboot volume manage -q " + disk + "1 --name part")
	refused(4, "is managed already: volume part", "lxcboot volume manage "+link+"parts-part1")
	refused(4, "is managed already: volume part", "lxcboot volume manage "+disk)
	s.run("lxcboot volume manage -q $(readlink -f /dev/stock/web1) --name lv --bootable")
	known := s.run("lxcboot volume show lv -f json; lxcboot volume show part -f json")
	for _, want := range []string{`"dm-uuid-LVM-`, `"virtio-parts-part1"`, `"partuuid-`, `"bytes": 67108864`, `"bytes": 134217728`} {
		if !strings.Contains(known, want) {
			t.Errorf("%s\nlacks %s", known, want)
		}
	}
	if strings.Contains(known, `"path": "`+disk) || strings.Contains(known, `"path": "/dev/dm-`) {
		t.Errorf("what is known is a name of the kernel's: %s", known)
	}

	s.run(`lxcboot boot -q --flavor m1.tiny --nic none --boot-volume lv --block-device source=volume,id=part,mount=/srv managed
lxcboot exec managed -- sh -c 'echo root >/root-mark; echo data >/srv/mark; sync'`)
	for _, device := range []string{"/dev/stock/web1", disk + "1"} {
		if out, err := s.try("wipefs --all " + device); err == nil {
			t.Errorf("what is on the container's %s was removed: %s", device, out)
		}
	}
	if out, err := s.try("lvremove -y stock/web1"); err == nil {
		t.Errorf("the container's LV was removed: %s", out)
	}
	// It grows under the container.
	s.run(`lvextend -qq -L 128M stock/web1
lxcboot volume extend -q lv
lxcboot volume show lv -f value -c bytes | grep -x 134217728
lxcboot exec managed -- df -m / | awk 'END { exit !($2 > 100) }'`)

	// The host restarts, and the disks have each other's names.
	s.restarted("group", "parts")
	if now := s.run("readlink -f " + link + "parts"); now == disk {
		t.Errorf("the disk is %s as before, and the test shows nothing", now)
	}
	s.until("lxcboot exec managed -- cat /root-mark /srv/mark | tr -d '\\n' | grep -x rootdata")
	s.run("lxcboot stop managed; lxcboot start managed; lxcboot exec managed -- cat /srv/mark")

	// Without the disk, start says what is missing; and it comes back.
	s.run("lxcboot stop managed")
	s.restarted("group")
	refused(3, "(virtio-parts-part1), and this host has no such device now", "lxcboot start managed")
	s.restarted("parts", "group")
	s.run("lxcboot start managed; lxcboot exec managed -- cat /srv/mark")

	s.run(`lxcboot delete -q managed
sums() { sha256sum /dev/stock/web1 ` + link + `parts-part1 | cut -c-64; }
was=$(sums)
lxcboot volume unmanage lv part
test "$(sums)" = "$was"
test -z "$(lxcboot volume list -f value -c Managed | grep .)"
mount -o ro ` + link + `parts-part1 /mnt; grep -x data /mnt/mark; umount /mnt`)
	// In one command.
	s.run(`lxcboot boot -q --flavor m1.tiny --nic none --block-device source=volume,id=/dev/stock/web1,bootindex=0,shutdown=remove managed
lxcboot exec managed -- cat /root-mark
lxcboot delete -q managed
test -z "$(lxcboot volume list -f value -c Managed | grep .)"`)
}
