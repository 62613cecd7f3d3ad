//go:build stockvm

package connector

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const realIQN = "iqn.2026-01.org.example:volume-1"

// tgt serves two disks by iSCSI with a login, in user space, at a port of this host's, by
// IPv4 and IPv6.
func tgt(t *testing.T) (port string) {
	t.Helper()
	port = freePort(t)
	dir := t.TempDir()
	background(t, "tgtd", "-f", "--iscsi", "portal=127.0.0.1:"+port+",portal=[::1]:"+port)
	waitPort(t, "127.0.0.1:"+port)
	for _, words := range []string{
		"--op new --mode target --tid 1 -T " + realIQN,
		"--op new --mode logicalunit --tid 1 --lun 1 -b " + sparse(t, dir+"/1", 64*MiB),
		"--op new --mode logicalunit --tid 1 --lun 2 -b " + sparse(t, dir+"/2", 64*MiB),
		"--op bind --mode target --tid 1 -I ALL",
		"--op new --mode account --user name --password " + realPassword,
		"--op bind --mode account --tid 1 --user name",
	} {
		run(t, append([]string{"tgtadm", "--lld", "iscsi"}, strings.Fields(words)...)...)
	}
	return port
}

// lio serves the same by the kernel's own target.
func lio(t *testing.T) (port string) {
	t.Helper()
	port = freePort(t)
	dir := t.TempDir()
	run(t, "modprobe", "-a", "target_core_file", "iscsi_target_mod")
	t.Cleanup(func() {
		shell(t, `cd /sys/kernel/config/target
echo 0 >"iscsi/$1/tpgt_1/enable"
rm iscsi/$1/tpgt_1/lun/lun_*/disk
rmdir iscsi/$1/tpgt_1/lun/lun_* iscsi/$1/tpgt_1/np/* iscsi/$1/tpgt_1 iscsi/$1 iscsi
rmdir core/fileio_0/disk* core/fileio_0`, realIQN)
	})
	for _, lun := range []string{"1", "2"} {
		backstore(t, sparse(t, filepath.Join(dir, lun), 64*MiB), lun)
	}
	shell(t, `cd /sys/kernel/config/target
mkdir -p "iscsi/$1/tpgt_1" && cd "iscsi/$1/tpgt_1"
for lun in 1 2; do mkdir lun/lun_$lun; ln -s /sys/kernel/config/target/core/fileio_0/disk$lun lun/lun_$lun/disk; done
mkdir "np/127.0.0.1:$2" "np/[::1]:$2"
for a in generate_node_acls cache_dynamic_acls authentication; do echo 1 >attrib/$a; done
echo 0 >attrib/demo_mode_write_protect
printf name >auth/userid; printf %s "$3" >auth/password
echo 1 >enable`, realIQN, port, realPassword)
	return port
}

// backstore is a disk of the kernel's target, with a serial number of its own.
func backstore(t *testing.T, file, number string) {
	t.Helper()
	shell(t, `mkdir -p /sys/kernel/config/target/core/fileio_0/disk$2
cd /sys/kernel/config/target/core/fileio_0/disk$2
printf %s "fd_dev_name=$1,fd_dev_size=$(stat -c %s "$1")" >control
printf %s "5f1b7c1e-0000-4000-8000-00000000000$2" >wwn/vpd_unit_serial
echo 1 >enable`, file, number)
}

func iscsiData(password string, lun int, portals ...string) map[string]any {
	data := map[string]any{"auth_method": "CHAP", "auth_username": "name", "auth_password": password}
	var iqns, luns, all []any
	for _, p := range portals {
		all, iqns, luns = append(all, p), append(iqns, realIQN), append(luns, lun)
	}
	data["target_portals"], data["target_iqns"], data["target_luns"] = all, iqns, luns
	return data
}

// nothingOfISCSI sees that neither a session nor a login is left.
func nothingOfISCSI(t *testing.T) {
	t.Helper()
	noneOf(t, "/sys/class/iscsi_session/*", "/etc/iscsi/nodes/*/*", "/var/lib/iscsi/nodes/*/*")
	noSecret(t, "/etc/iscsi", "/var/lib/iscsi")
}

// Each kind of target, from the first connect to the last disconnect.
func TestRealISCSI(t *testing.T) {
	kinds, uses := map[string]func(*testing.T) string{"LIO": lio}, []use{byMount}
	if !testing.Short() {
		kinds["tgt"], uses = tgt, []use{byLoop, byMount}
	}
	for name, serve := range kinds {
		t.Run(name, func(t *testing.T) {
			port := serve(t)
			h := newHost(t, Kernel)
			wholeWay(t, h, request("i-4", "iscsi", iscsiData(realPassword, 1, "127.0.0.1:"+port)), uses...)
			nothingOfISCSI(t)
			wholeWay(t, h, request("i-6", "iscsi", iscsiData(realPassword, 2, "[::1]:"+port)))
			nothingOfISCSI(t)
			refused(t, h, request("i-wrong", "iscsi", iscsiData("not "+realPassword, 1, "127.0.0.1:"+port)), 20*time.Second)
			nothingOfISCSI(t)
		})
	}
}

// Two volumes of one target share its session, and the first that goes leaves it to the
// other.
func TestRealISCSITwoLUNs(t *testing.T) {
	for name, serve := range map[string]func(*testing.T) string{"tgt": tgt, "LIO": lio} {
		t.Run(name, func(t *testing.T) {
			port := serve(t)
			h := newHost(t, Kernel)
			first := connect(t, h, request("l-1", "iscsi", iscsiData(realPassword, 1, "127.0.0.1:"+port)))
			second := connect(t, h, request("l-2", "iscsi", iscsiData(realPassword, 2, "127.0.0.1:"+port)))
			if first.Path == second.Path {
				t.Errorf("both are %s", first.Path)
			}
			if all, _ := filepath.Glob("/sys/class/iscsi_session/*"); len(all) != 1 {
				t.Errorf("sessions: %v", all)
			}
			useVolume(t, first.Path)
			disconnect(t, h, first)
			if hasExt4(t, second.Path) {
				t.Error("the second holds what was written to the first")
			}
			useVolume(t, second.Path)
			disconnect(t, h, second)
			nothingOfISCSI(t)
		})
	}
}

func TestRealISCSIPortals(t *testing.T) {
	port := lio(t)
	h := newHost(t, Kernel)
	good := "127.0.0.1:" + port
	for name, portals := range map[string][]string{"silent": {silent(t), good}, "refuses": {"127.0.0.1:9", good}} {
		t.Run("first "+name, func(t *testing.T) {
			began := time.Now()
			dev := connect(t, h, request("p-"+name, "iscsi", iscsiData(realPassword, 1, portals...)))
			t.Logf("connected after %v", time.Since(began))
			useVolume(t, dev.Path)
			disconnect(t, h, dev)
			nothingOfISCSI(t)
		})
	}
	for name, data := range map[string]map[string]any{
		"silent":  iscsiData(realPassword, 1, silent(t)),
		"refuses": iscsiData(realPassword, 1, "127.0.0.1:9"),
		"no-lun":  iscsiData(realPassword, 9, good),
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, h, request("f-"+name, "iscsi", data), 45*time.Second, "127.0.0.1")
			nothingOfISCSI(t)
		})
	}
}

// What was written and cannot be brought to a target that is gone ends the wait, and the
// disk stays.
func TestRealISCSITargetDies(t *testing.T) {
	for name, c := range map[string]struct {
		serve       func(*testing.T) string
		still, back func(port string)
	}{
		"tgt": {tgt, func(string) { run(t, "pkill", "-STOP", "tgtd") }, func(string) { run(t, "pkill", "-CONT", "tgtd") }},
		"LIO": {lio, func(port string) { block(t, port) }, func(port string) { unblock(t, port) }},
	} {
		t.Run(name, func(t *testing.T) {
			port := c.serve(t)
			h := newHost(t, Kernel)
			dev := connect(t, h, request("dies", "iscsi", iscsiData(realPassword, 1, "127.0.0.1:"+port)))
			dies(t, h, dev, func() { c.still(port) }, func() { c.back(port) })
			nothingOfISCSI(t)
		})
	}
}

// block has nothing reach a port of this host's, or come from it, as if its cable was out.
func block(t *testing.T, port string) { filter(t, "-I", port) }

func unblock(t *testing.T, port string) { filter(t, "-D", port) }

func filter(t *testing.T, op, port string) {
	t.Helper()
	for _, side := range []string{"--dport", "--sport"} {
		for _, tables := range []string{"iptables", "ip6tables"} {
			run(t, tables, "-w", op, "INPUT", "-p", "tcp", side, port, "-j", "DROP")
		}
	}
}
