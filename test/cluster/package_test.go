//go:build cluster

package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackage upgrades, removes and purges Debian's package beside a running container: it
// goes on, is stopped in order, and leaves its volume alone.
func TestPackage(t *testing.T) {
	c := Up(t, 1, "libvirtd")
	h := c.Hosts[0]
	for _, version := range []string{"0.1.0", "0.2.0"} {
		cmd := exec.Command("../../share/deb/build", version, c.Shared())
		cmd.Env = append(os.Environ(), "DPKG_DEB_COMPRESSOR_TYPE=gzip")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("the package: %v\n%s", err, out)
		}
	}
	debs, _ := filepath.Glob(c.Shared() + "/lxcboot_*.deb")
	if len(debs) != 2 {
		t.Fatalf("the packages: %q", debs)
	}
	sh := func(script string) string { t.Helper(); return h.Must("sh", "-euc", script) }
	// Not what make install has installed on these hosts, nor this machine's triggers.
	sh(`rm -rf /usr/local/bin/lxcboot /usr/local/libexec/lxcboot /usr/local/lib/systemd /etc/libvirt/hooks/lxc.d /var/lib/man-db/auto-update /etc/systemd/system/*lxcboot*`)
	install := func(version string) string {
		t.Helper()
		return sh("dpkg --force-unsafe-io -i /srv/shared/lxcboot_" + version + "-1_*.deb 2>&1")
	}
	if out := install("0.1.0"); !strings.Contains(out, "libvirtd has to be restarted") {
		t.Errorf("it does not say that its hook is to be noticed: %s", out)
	}
	sh("lxcboot setup --check; lxcboot version | grep 0.1.0")
	c.Image()
	sh("lxcboot image import /srv/shared/busybox.raw --name busybox; lxcboot boot --flavor m1.tiny --nic none --image busybox --boot-from-volume 1 one")
	init := sh("lxcboot show one -f value -c init_pid")
	install("0.2.0")
	sh("lxcboot version | grep 0.2.0; lxcboot setup --check")
	if now := sh("lxcboot show one -f value -c init_pid"); now != init {
		t.Errorf("the upgrade has restarted the container: its init was %s, and is %s", init, now)
	}
	sh("lxcboot exec one -- sh -c 'echo said after >/dev/console; echo kept >/kept'")
	c.Wait("the console is kept", func() (bool, string) {
		out := sh("lxcboot logs one")
		return strings.Contains(out, "said after"), out
	})
	if out := sh("dpkg -r lxcboot 2>&1"); !strings.Contains(out, "stopped one") {
		t.Errorf("the removal does not say that it stops the container: %s", out)
	}
	sh("! command -v lxcboot; ! pgrep -x libvirt_lxc; virsh -q -c lxc:/// list --all --name | grep -x one; /etc/libvirt/hooks/lxc.d/lxcboot other prepare begin - </dev/null")
	install("0.2.0")
	sh("lxcboot repair; lxcboot autostart") // as the unit does
	if got := sh("lxcboot exec one -- cat /kept"); got != "kept" {
		t.Errorf("installed again, it has the file %q", got)
	}
	if out := sh("dpkg -P lxcboot 2>&1"); !strings.Contains(out, "volumes and their snapshots stay in /var/lib/lxcboot") {
		t.Errorf("the purge does not say what stays: %s", out)
	}
	left := sh("ls -A /var/lib/lxcboot; ls -d /etc/lxcboot /etc/libvirt/hooks/lxc.d /run/lxcboot* 2>/dev/null || true; virsh -q -c lxc:/// list --all --name; losetup --noheadings --list --output BACK-FILE | grep " + c.dir + " || true")
	if strings.TrimSpace(left) != "volumes" {
		t.Errorf("after the purge there is left: %s", left)
	}
	sh("test $(ls /var/lib/lxcboot/volumes | wc -l) = 1; rm -r /var/lib/lxcboot/volumes")
}
