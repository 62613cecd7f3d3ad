//go:build stockvm

package connector

import (
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// nfsd exports a directory by the kernel's server to this host itself.
func nfsd(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	run(t, "systemctl", "start", "nfs-server")
	run(t, "exportfs", "-o", "rw,sync,no_root_squash,no_subtree_check,fsid=7", "127.0.0.1:"+dir)
	t.Cleanup(func() {
		run(t, "exportfs", "-u", "127.0.0.1:"+dir)
		run(t, "exportfs", "-f")
	})
	sparse(t, dir+"/raw", 64*MiB)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", dir+"/qcow2", "64M")
	return dir
}

func realNFS(dir, name, options string) map[string]any {
	format := name
	if format != "qcow2" {
		format = "raw"
	}
	return map[string]any{"export": "127.0.0.1:" + dir, "name": name, "format": format, "options": options}
}

func nothingOfNFS(t *testing.T) {
	t.Helper()
	if out, _ := exec.Command("findmnt", "--noheadings", "--types", "nfs,nfs4").Output(); len(out) > 0 {
		t.Errorf("mounted: %s", out)
	}
}

func TestRealNFS(t *testing.T) {
	dir := nfsd(t)
	h := newHost(t, Auto)
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			wholeWay(t, h, request("n-"+format, "nfs", realNFS(dir, format, "-o vers=4.2")), byLoop)
			nothingOfNFS(t)
		})
	}
	run(t, "qemu-img", "check", "-q", "-f", "qcow2", dir+"/qcow2")

	// Two volumes share the mount, and each is looked at for its own users.
	raw := connect(t, h, request("s-raw", "nfs", realNFS(dir, "raw", "-o vers=4.2")))
	qcow := connect(t, h, request("s-qcow2", "nfs", realNFS(dir, "qcow2", "-o vers=4.2")))
	if out := run(t, "findmnt", "--noheadings", "--types", "nfs4", "--output", "OPTIONS"); strings.Count(out, "vers=4.2") != 1 {
		t.Errorf("mounted: %s", out)
	}
	by, letGo := byLoop(t, raw.Path)
	if err := h.Disconnect(t.Context(), raw); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), by) {
		t.Errorf("used by %s, on a mount that another volume has too: %v", by, err)
	}
	letGo()
	disconnect(t, h, raw)
	useVolume(t, qcow.Path)
	disconnect(t, h, qcow)
	nothingOfNFS(t)

	refused(t, h, request("f-file", "nfs", realNFS(dir, "none", "")), 20*time.Second, "none")
	refused(t, h, request("f-export", "nfs", realNFS(dir+"/none", "raw", "")), 40*time.Second, dir+"/none")
	nothingOfNFS(t)
}

func TestRealNFSDead(t *testing.T) {
	dir := nfsd(t)
	h := newHost(t, Auto)
	_, port, _ := net.SplitHostPort(silent(t))
	for name, port := range map[string]string{"refuses": "9", "silent": port} {
		t.Run(name, func(t *testing.T) {
			refused(t, h, request("f-"+name, "nfs", realNFS(dir, "raw", "-o vers=4.2,port="+port)), mountLimit+15*time.Second, "127.0.0.1")
			nothingOfNFS(t)
		})
	}
	for _, format := range []string{"raw", "qcow2"} {
		t.Run("dies under "+format, func(t *testing.T) {
			dev := connect(t, h, request("d-"+format, "nfs", realNFS(dir, format, "-o vers=4.2")))
			dies(t, h, dev, func() { block(t, "2049") }, func() { unblock(t, "2049") })
			nothingOfNFS(t)
		})
	}
}
