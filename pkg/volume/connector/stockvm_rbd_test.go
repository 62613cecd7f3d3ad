//go:build stockvm

package connector

import (
	"encoding/base64"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cluster is a Ceph of one monitor and one store in memory.
type cluster struct {
	conf, key string
	port1     string // of the monitor's older protocol, which Cinder names
	port2     string
	osd       *exec.Cmd
}

func ceph(t *testing.T) cluster {
	t.Helper()
	dir := t.TempDir()
	c := cluster{conf: dir + "/conf", port1: freePort(t), port2: freePort(t)}
	shell(t, `cd "$1"
fsid=$(cat /proc/sys/kernel/random/uuid)
cat >conf <<END
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$3,v1:127.0.0.1:$2]
public addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
run dir = $1
admin socket = $1/\$name.asok
crash dir = $1
log file = $1/\$name.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
auth allow insecure global id reclaim = false
mon data = $1/mon
mon data avail crit = 1
mon data avail warn = 2
osd data = $1/osd
osd objectstore = memstore
osd class update on start = false
[client.admin]
keyring = $1/admin
END
mkdir mon osd
ceph-authtool -C mon.keyring --gen-key -n mon. --cap mon 'allow *'
ceph-authtool -C admin --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
ceph-authtool mon.keyring --import-keyring admin
monmaptool --create --clobber --fsid "$fsid" --addv a "[v2:127.0.0.1:$3,v1:127.0.0.1:$2]" monmap
ceph-mon -c conf --mkfs -i a --monmap monmap --keyring mon.keyring`, dir, c.port1, c.port2)
	background(t, "ceph-mon", "-c", c.conf, "-i", "a", "-f")
	shell(t, `cd "$1"

id=$(cat /proc/sys/kernel/random/uuid)
test "$(ceph -c conf osd new $id)" = 0
ceph -c conf auth get-or-create osd.0 mon 'allow profile osd' osd 'allow *' -o osd/keyring
ceph-osd -c conf -i 0 --mkfs --osd-uuid $id`, dir)
	c.osd = background(t, "ceph-osd", "-c", c.conf, "-i", "0", "-f")
	c.key = shell(t, `cd "$1"
until ceph -c conf osd stat | grep -q '1 up'; do sleep 1; done
ceph -c conf osd pool create volumes 8 >&2
rbd -c conf pool init volumes
for image in 1 2; do rbd -c conf create --size 64 volumes/volume-$image; done
ceph -c conf auth get-or-create-key client.cinder mon 'profile rbd' osd 'profile rbd pool=volumes'`, dir)
	c.key = c.key[strings.LastIndex(c.key, "\n")+1:]
	return c
}

// data is a connection of Cinder's form.
func (c cluster) data(image, port string) map[string]any {
	return map[string]any{
		"name": "volumes/" + image, "hosts": []any{"127.0.0.1"}, "ports": []any{port}, "cluster_name": "ceph",
		"auth_enabled": true, "auth_username": "cinder", "keyring": c.key,
	}
}

func nothingOfRBD(t *testing.T) {
	t.Helper()
	noneOf(t, "/sys/bus/rbd/devices/*")
}

func TestRealRBD(t *testing.T) {
	c := ceph(t)
	h := newHost(t, Kernel)
	wholeWay(t, h, request("r-1", "rbd", c.data("volume-1", c.port1)), byLoop, byMount)
	nothingOfRBD(t)
	dev := connect(t, h, request("r-2", "rbd", c.data("volume-2", c.port2)))
	useVolume(t, dev.Path)
	disconnect(t, h, dev)
	nothingOfRBD(t)

	wrong := c.data("volume-1", c.port1)
	wrong["keyring"] = base64.StdEncoding.EncodeToString(append([]byte{1, 0, 1, 2, 3, 4, 0, 0, 0, 0, 16, 0}, "0123456789abcdef"...))
	for name, f := range map[string]struct {
		data  map[string]any
		limit time.Duration
		says  string
	}{
		"wrong-key": {wrong, deviceLimit + 15*time.Second, "the key of client.cinder may not be"},
		"no-image":  {c.data("none", c.port1), 20 * time.Second, "none"},
		"refuses":   {c.data("volume-1", "9"), 10 * time.Second, "127.0.0.1:9"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, h, request("f-"+name, "rbd", f.data), f.limit, f.says)
			nothingOfRBD(t)
		})
	}
	if out, _ := exec.Command("grep", "-rl", c.key, h.o.StateDir).Output(); len(out) > 0 {
		t.Errorf("the key is left in %s", out)
	}

	dev = connect(t, h, request("dies", "rbd", c.data("volume-1", c.port1)))
	signal := func(s os.Signal) func() { return func() { c.osd.Process.Signal(s) } }
	dies(t, h, dev, signal(unix.SIGSTOP), signal(unix.SIGCONT))
	nothingOfRBD(t)
}
