//go:build stockvm

package connector

import (
	"strings"
	"testing"
	"time"
)

// fcoe makes a fibre channel over a pair of virtual network cards, with this host's port
// at one end and the kernel's target at the other, and gives the target's name. The ports
// find each other by themselves (VN2VN).
func fcoe(t *testing.T) (wwn string) {
	t.Helper()
	run(t, "modprobe", "-a", "fcoe", "tcm_fc", "target_core_file")
	t.Cleanup(func() {
		shell(t, `cd /sys/kernel/config/target
for f in fc/*/tpgt_1/acls/*/lun_7/disk fc/*/tpgt_1/lun/lun_7/disk; do test ! -L "$f" || rm "$f"; done
for d in fc/*/tpgt_1/acls/*/lun_7 fc/*/tpgt_1/acls/* fc/*/tpgt_1/lun/lun_7 fc/*/tpgt_1 fc/*:* fc core/fileio_0/disk7 core/fileio_0; do
	test ! -d "$d" || rmdir "$d"
done
for card in lxcfc0 lxcfc1; do echo $card >/sys/bus/fcoe/ctlr_destroy || :; done
ip link delete lxcfc0`)
	})
	run(t, "ip", "link", "add", "lxcfc0", "mtu", "2500", "type", "veth", "peer", "name", "lxcfc1", "mtu", "2500")
	// The cards stay down until both ports are made: a frame that comes amid it crashes
	// Linux 6.1.
	shell(t, `cd /sys/bus/fcoe
for card in lxcfc0 lxcfc1; do
	before=$(ls devices)
	echo $card >ctlr_create
	made=$(ls devices | grep -vxF "$before")
	echo vn2vn >devices/$made/mode
	echo 1 >devices/$made/enabled
done`)
	backstore(t, sparse(t, t.TempDir()+"/disk", 64*MiB), "7")
	wwn = strings.TrimPrefix(shell(t, `port() { # CARD: its port's name
	for host in /sys/class/fc_host/*; do
		case $(cat "$host/symbolic_name") in *" over $1") cat "$host/port_name" ;; esac
	done
}
colons() { echo "$1" | sed 's/^0x//; s/../&:/g; s/:$//'; }
target=$(port lxcfc1) initiator=$(port lxcfc0)
cd /sys/kernel/config/target
mkdir fc
mkdir -p "fc/$(colons $target)/tpgt_1/lun/lun_7"
cd "fc/$(colons $target)/tpgt_1"
ln -s /sys/kernel/config/target/core/fileio_0/disk7 lun/lun_7/disk
mkdir "acls/$(colons $initiator)"
mkdir "acls/$(colons $initiator)/lun_7"
ln -s "$PWD/lun/lun_7" "acls/$(colons $initiator)/lun_7/disk"
echo $target`), "0x")
	// Last, since a port asks the other one just once whether it is a target.
	run(t, "ip", "link", "set", "lxcfc0", "up")
	run(t, "ip", "link", "set", "lxcfc1", "up")
	return wwn
}

func fcData(wwn string, lun int) map[string]any {
	return map[string]any{"target_wwn": []any{wwn}, "target_lun": lun}
}

func TestRealFibreChannel(t *testing.T) {
	wwn := fcoe(t)
	h := newHost(t, Auto)
	good := request("fc", "fibre_channel", fcData(wwn, 7))
	for until := time.Now().Add(time.Minute); len(fcDriver{h}.paths(fcState{WWNs: []string{wwn}, LUNs: []int{7}})) == 0; time.Sleep(time.Second) {
		if time.Now().After(until) {
			t.Fatalf("no port sees %s", wwn)
		}
	}
	wholeWay(t, h, good, byLoop, byMount)
	refused(t, h, request("no-lun", "fibre_channel", fcData(wwn, 9)), deviceLimit+10*time.Second, "LUN")
	refused(t, h, request("no-port", "fibre_channel", fcData("2100000000000001", 7)), 5*time.Second, "2100000000000001")
	dev := connect(t, h, good)
	dies(t, h, dev, func() { run(t, "ip", "link", "set", "lxcfc1", "down") }, func() { run(t, "ip", "link", "set", "lxcfc1", "up") })
	noneOf(t, "/sys/bus/scsi/devices/*:*:*:7")
}
