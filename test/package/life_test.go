package package_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// chroot runs a script in a copy of this host, of which nothing is left afterwards. It has
// neither systemd nor libvirtd, and nothing of an lxcboot. The arguments are $1 and so on.
func chroot(t *testing.T, script string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	const enter = `set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" overlay "$1/root"
cd "$1/root"
shift
mount --rbind /dev dev
mount -t proc proc proc
mount -t tmpfs tmpfs run
mkdir run/lock
rm -rf var/lib/lxcboot etc/lxcboot etc/libvirt/hooks etc/systemd/system/*lxcboot* etc/systemd/system/*/*lxcboot* usr/local/bin/lxcboot* usr/local/lib/systemd
rm -f var/lib/man-db/auto-update # it takes long, and is not of this package
exec chroot . sh "$@"`
	file := filepath.Join(work, "script")
	if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", append([]string{"--mount", "--pid", "--fork", "--kill-child", "sh", "-c", enter, "sh", dir, file}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

const life = `set -eu
v1=$1 v2=$2
dpkg() { command dpkg --force-unsafe-io "$@" 2>&1; }
said() { if ! echo "$out" | grep -q -e "$1"; then echo "it did not say: $1: $out"; exit 1; fi; }
rc() { want=$1; shift; got=0; "$@" || got=$?; if [ "$got" != "$want" ]; then echo "exit code $got: $*"; exit 1; fi; }
# This host's files may change meanwhile.
listed() { find /etc /usr /var/lib /run -xdev '(' -name '*lxcboot*' -o -path '*/lxcboot/*' -o -path '/etc/libvirt/hooks*' ')' ! -path '/etc/libvirt/lxc/*' ! -path '/var/lib/dpkg/info/*' | sort; }
if command -v lxcboot; then dpkg --purge lxcboot; fi
listed >/before

echo == install
out=$(dpkg -i $v1)
said 'libvirtd has to be restarted'
lxcboot version | grep -q v0.1.0
rc 0 lxcboot setup --check
ls -l /etc/systemd/system/multi-user.target.wants/lxcboot.service /etc/systemd/system/timers.target.wants/lxcboot-trim.timer
lxcboot boot --help | grep -q 'in /usr/share/doc/lxcboot/bdm.md'
lxcboot boot --help | grep -q 'man lxcboot-boot'
man lxcboot-boot | grep -q 'EXIT STATUS'
bash -c '. /usr/share/bash-completion/completions/lxcboot; complete -p lxcboot' | grep -q lxcboot
lxcboot doctor -f value | grep '^init ok /usr/libexec/lxcboot/lxcboot-init'
# what is there and right is left alone
lxcboot setup 2>&1 | grep '/usr/lib/systemd/system/lxcboot.service is there'
test ! -e /etc/systemd/system/lxcboot.service
# settings of one's own go before it, and away again
lxcboot setup --state-dir /srv/lxcboot
grep -q 'state-dir /srv/lxcboot' /etc/systemd/system/lxcboot.service /etc/libvirt/hooks/lxc.d/lxcboot
out=$(dpkg -i $v1); said "lxcboot setup --remove"
rc 6 lxcboot setup --check
lxcboot setup --remove
rc 0 lxcboot setup --check
dpkg --verify lxcboot

echo == upgrade
echo 'timeout: 5m' >>/etc/lxcboot/config.yaml
systemctl --quiet disable lxcboot-trim.timer
lxcboot volume create --size 1 kept >/dev/null
dpkg -i $v2 </dev/null
lxcboot version | grep v0.1.0 # the same program, in a package of another version
command dpkg-query -W lxcboot | grep 0.2.0
grep 'timeout: 5m' /etc/lxcboot/config.yaml
test ! -e /etc/systemd/system/timers.target.wants/lxcboot-trim.timer
rc 0 lxcboot setup --check

echo == remove
dpkg -r lxcboot
test ! -e /usr/bin/lxcboot
grep 'timeout: 5m' /etc/lxcboot/config.yaml
# libvirt starts others' containers still
/etc/libvirt/hooks/lxc.d/lxcboot other prepare begin - </dev/null
ls /var/lib/lxcboot/volumes/*/*

echo == purge
mkdir -p /var/lib/lxcboot/instances/x /run/lxcboot-ids
out=$(dpkg -P lxcboot); said 'volumes and their snapshots stay in /var/lib/lxcboot'
listed >/after
diff /before /after | grep '^[<>]' | grep -v '^> /var/lib/lxcboot$\|^> /var/lib/lxcboot/volumes' && exit 1

echo == and without volumes
dpkg -i $v2 >/dev/null
lxcboot volume list -f value | grep kept
lxcboot volume delete kept
out=$(dpkg -P lxcboot)
listed >/after
diff /before /after
`

// TestLife installs the package, upgrades, removes and purges it, with dpkg.
func TestLife(t *testing.T) {
	next := unpacked(t)
	must(t, "sed", "-i", "s/^Version: .*/Version: 0.2.0-1/", next+"/DEBIAN/control")
	must(t, "dpkg-deb", "-Zgzip", "-b", next, work+"/next.deb")
	out := chroot(t, life, deb(t), work+"/next.deb")
	if !strings.Contains(out, "== and without volumes") {
		t.Error(out)
	}
}
