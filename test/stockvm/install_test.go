//go:build stockvm

package stockvm_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestDoctor: a host on which lxcboot was installed as README says lacks nothing, once its
// LVM, which looks at every disk by itself, is told which are the host's.
func TestDoctor(t *testing.T) {
	s := machine(t, 3*time.Minute)
	if out := s.run("lxcboot doctor -f value | grep '^lvm warning'"); !strings.Contains(out, "global_filter") {
		t.Errorf("of LVM it says %q", out)
	}
	s.run(`echo 'devices { global_filter = [ "a|^/dev/vda|", "r|.*|" ] }' >/etc/lvm/lvmlocal.conf`)
	defer s.run("rm /etc/lvm/lvmlocal.conf") // before the context of the test ends
	var checks []struct{ Check, Status, Detail string }
	if err := json.Unmarshal([]byte(s.run("lxcboot doctor -f json")), &checks); err != nil {
		t.Fatal(err)
	}
	for _, c := range checks {
		// The programs of other volumes' transports are not installed.
		if c.Status != "ok" && !strings.HasPrefix(c.Check, "transport ") {
			t.Errorf("%s: %s: %s", c.Check, c.Status, c.Detail)
		}
	}
}

// TestSetup: what the package installed is in use; what setup installs for other settings
// goes before it, and is gone after it is removed.
func TestSetup(t *testing.T) {
	s := machine(t, 10*time.Minute)
	const files = "/etc/systemd/system/lxcboot.service /etc/systemd/system/lxcboot-trim.service /etc/systemd/system/lxcfs.service.d/lxcboot.conf"
	s.run("systemd-analyze verify --man=no lxcboot.service lxcboot-trim.timer; systemctl is-enabled lxcboot.service lxcboot-trim.timer; systemctl is-active lxcboot.service lxcboot-trim.timer")
	s.run("test $(cat /proc/sys/fs/inotify/max_user_instances) = 65536; systemctl show -P ExecStopPost lxcfs.service | grep lxcboot")
	s.run("systemctl start lxcboot-trim.service; lxcboot setup; ! ls " + files)
	s.run("lxcboot setup --state-dir /srv/other; ls " + files + "; ! lxcboot setup --check; lxcboot setup --remove; ! ls " + files + "; systemctl daemon-reload; lxcboot setup --check")
	s.run("mv /etc/libvirt/hooks/lxc.d/lxcboot moved; rm /usr/lib/systemd/system/lxcfs.service.d/lxcboot.conf")
	if out := s.run("lxcboot doctor -f json"); strings.Count(out, `"lxcboot setup"`) != 2 { // the hook and lxcfs
		t.Errorf("doctor does not miss what setup installs: %s", out)
	}
	s.run("mv moved /etc/libvirt/hooks/lxc.d/lxcboot; " + apt + "/srv/share/deb/lxcboot_*.deb; lxcboot setup --check")
	s.run("systemctl disable lxcboot-trim.timer; " + apt + "/srv/share/deb/lxcboot_*.deb; ! systemctl is-enabled lxcboot-trim.timer; systemctl enable --now lxcboot-trim.timer")
}

var commands = regexp.MustCompile("(?s)## Commands\n\n```\n(.*?)```")

// TestReadme types the commands that README begins with.
func TestReadme(t *testing.T) {
	s := machine(t, 15*time.Minute)
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := commands.FindSubmatch(text)
	if block == nil {
		t.Fatal("README has no block of commands")
	}
	s.run(before + "; lxcboot image delete -q busybox; mkdir -p readme; cp /srv/share/busybox.raw readme/disk.raw")
	for line := range strings.Lines(string(block[1])) {
		if strings.Contains(line, "VOLUME") {
			volume := s.run("lxcboot volume list -f value -c id -c status | sed -n 's/ available$//p'")
			line = strings.ReplaceAll(line, "VOLUME", volume)
		}
		t.Logf("%s%s", line, s.run("cd readme\n"+line))
	}
	s.run(same)
}
