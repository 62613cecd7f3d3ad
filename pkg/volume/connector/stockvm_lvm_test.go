//go:build stockvm

package connector

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Volumes that are logical volumes of this host's, of both kinds.
func TestRealLVM(t *testing.T) {
	pv := losetup(t, sparse(t, filepath.Join(t.TempDir(), "disk"), 512*MiB))
	t.Cleanup(func() { shell(t, `vgremove -qq -f lxcboot-test; losetup -d "$1"`, pv) })
	shell(t, `vgcreate -qq lxcboot-test "$1"
lvcreate -qq -y -L 64M -n linear lxcboot-test
lvcreate -qq -y -L 128M -T lxcboot-test/pool
lvcreate -qq -y -V 64M -T lxcboot-test/pool -n thin`, pv)
	h := newHost(t, Auto)
	for _, name := range []string{"linear", "thin"} {
		path := "/dev/lxcboot-test/" + name
		wholeWay(t, h, request(name, "local", map[string]any{"device_path": path}))
		if _, err := os.Stat(path); err != nil {
			t.Error("it is not this host's any more: ", err)
		}
	}
	none := request("none", "local", map[string]any{"device_path": "/dev/lxcboot-test/none"})
	if _, err := h.Prepare(t.Context(), none); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// A volume group that a container made on its volume is activated by this host as soon as
// it sees the disk, and let go with it; unless it is used here.
func TestRealLVMActivates(t *testing.T) {
	port := lio(t)
	h := newHost(t, Kernel)
	req := request("vg", "iscsi", iscsiData(realPassword, 1, "127.0.0.1:"+port))
	dev := connect(t, h, req)
	shell(t, `vgcreate -qq inside "$1"
lvcreate -qq -y -L 32M -n root inside
mkfs.ext4 -q /dev/inside/root
udevadm settle`, dev.Path)
	disconnect(t, h, dev)
	noneOf(t, "/dev/mapper/inside-*", "/dev/inside")

	dev = connect(t, h, req)
	waitFile(t, "/dev/mapper/inside-root")
	at := t.TempDir()
	run(t, "mount", "/dev/mapper/inside-root", at)
	var busy *BusyError
	if err := h.Disconnect(t.Context(), dev); !errors.As(err, &busy) || !strings.HasSuffix(busy.By, "/inside-root") {
		t.Errorf("while it is mounted here: %v", err)
	}
	run(t, "umount", at)
	disconnect(t, h, dev)
	noneOf(t, "/dev/mapper/inside-*", "/dev/inside")
	nothingOfISCSI(t)
}

func waitFile(t *testing.T, path string) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !exists(path); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("there is no %s", path)
		}
	}
}
