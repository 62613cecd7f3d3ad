package blockdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// fake is a host's /sys and /dev in a directory, with nodes that are real.
type fake struct {
	*testing.T
	Host
}

func newFake(t *testing.T) fake { return fake{t, Host{Root: t.TempDir()}} }

// disk adds a device of the kernel: its directory below devices, number, and files.
func (f fake) disk(dir string, major, minor uint32, files map[string]string) {
	f.Helper()
	at := f.path("sys/devices", dir)
	all := map[string]string{"dev": fmt.Sprintf("%d:%d", major, minor), "size": "2048", "ro": "0"}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		f.write(filepath.Join(at, name), text)
	}
	f.link(f.path("sys/dev/block", all["dev"]), at)
	node := f.path("dev", filepath.Base(dir))
	f.check(os.MkdirAll(filepath.Dir(node), 0o755))
	f.check(unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))))
}

func (f fake) write(path, text string) {
	f.Helper()
	f.check(os.MkdirAll(filepath.Dir(path), 0o755))
	f.check(os.WriteFile(path, []byte(text+"\n"), 0o644))
}

func (f fake) link(path, to string) {
	f.Helper()
	f.check(os.MkdirAll(filepath.Dir(path), 0o755))
	f.check(os.Symlink(to, path))
}

func (f fake) check(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f fake) at(name string) Device {
	f.Helper()
	dev, err := f.At(f.path("dev", name))
	f.check(err)
	return dev
}

const lv = "LVM-zTxEvaN1m3ZbmTjJmVEjoMqHDXBVj9QbXk3pNvfVhDZYkqQqk1QdKJmPqV2Fr0dB"

// host is a host with one device of each kind. Its numbers are from n on.
func host(t *testing.T, n uint32) fake {
	f := newFake(t)
	f.write(f.path("proc/sys/kernel/random/boot_id"), fmt.Sprint("boot-", n))
	f.disk(fmt.Sprint("virtual/block/dm-", n), 252, n, map[string]string{"dm/uuid": lv, "dm/name": "vg0-web1"})
	f.disk(fmt.Sprint("pci/block/sd", string(rune('a'+n))), 8, 16*n, map[string]string{"device/wwid": "naa.5000c500a1b2c3d4", "diskseq": "7"})
	f.disk(fmt.Sprintf("pci/block/sd%c/sd%[1]c3", 'a'+n), 8, 16*n+3, map[string]string{"partition": "3", "uevent": "DEVNAME=x\nPARTUUID=AB12CD34-03"})
	f.disk(fmt.Sprint("pci/block/nvme", n, "n1"), 259, n, map[string]string{"wwid": "eui.0025385b21404321"})
	f.disk(fmt.Sprint("pci/block/vd", string(rune('a'+n))), 253, 16*n, map[string]string{"serial": "data-1"})
	f.disk(fmt.Sprint("virtual/block/zd", 16*n), 230, 16*n, nil)
	f.disk(fmt.Sprint("virtual/block/zram", n), 251, n, map[string]string{"diskseq": "9"})
	f.disk(fmt.Sprint("virtual/block/md", n), 9, n, nil)
	f.link(f.path("dev/zvol/tank/web1"), f.path("dev", fmt.Sprint("zd", 16*n)))
	f.link(f.path("dev/vg0/web1"), f.path("dev", fmt.Sprint("dm-", n)))
	f.link(f.path("dev/disk/by-id/dm-name-vg0-web1"), f.path("dev", fmt.Sprint("dm-", n)))
	f.link(f.path("dev/disk/by-id/dm-uuid-"+lv), f.path("dev", fmt.Sprint("dm-", n)))
	f.link(f.path("dev/disk/by-id/md-uuid-1:2:3:4"), f.path("dev", fmt.Sprint("md", n)))
	f.link(f.path("dev/disk/by-id/lvm-pv-uuid-x"), f.path("dev", fmt.Sprint("md", n)))
	f.link(f.path("dev/disk/by-id/wwn-0x5000c500a1b2c3d4"), f.path("dev", fmt.Sprintf("sd%c", 'a'+n)))
	return f
}

// TestIDs looks at each kind of device, and finds it again where all have other numbers.
func TestIDs(t *testing.T) {
	f, later := host(t, 1), host(t, 4)
	for _, c := range []struct {
		name, then string
		ids        []string
	}{
		{"dm-1", "dm-4", []string{"dm-uuid-" + lv}},
		{"sdb", "sde", []string{"wwid-naa.5000c500a1b2c3d4", "wwn-0x5000c500a1b2c3d4"}},
		{"sdb3", "sde3", []string{"wwid-naa.5000c500a1b2c3d4-part3", "wwn-0x5000c500a1b2c3d4-part3", "partuuid-ab12cd34-03"}},
		{"nvme1n1", "nvme4n1", []string{"wwid-eui.0025385b21404321"}},
		{"vdb", "vde", []string{"virtio-data-1"}},
		{"zd16", "zd64", []string{"/dev/zvol/tank/web1"}},
		{"md1", "md4", []string{"md-uuid-1:2:3:4"}},
		{"zram1", "", nil},
	} {
		dev := f.at(c.name)
		if !slices.Equal(dev.IDs, c.ids) || dev.Bytes != 1<<20 {
			t.Errorf("%s: %+v, not %q", c.name, dev, c.ids)
		}
		found := later.Find(dev.IDs)
		switch {
		case c.then == "" && len(found) == 0:
		case len(found) != 1 || found[0].Path != later.path("dev", c.then):
			t.Errorf("%s is found as %+v", c.name, found)
		}
	}
	// Until the host restarts there is more; and not what is given anew.
	if a, b := f.at("zram1").Seen, later.at("zram4").Seen; a != "boot-1/9" || b != "boot-4/9" {
		t.Errorf("seen %q and %q", a, b)
	}
	if seen := f.at("sdb3").Seen; seen != "boot-1/7/3" {
		t.Errorf("a partition is seen as %q", seen)
	}
	// A partition of the same number with another UUID is another.
	if Same([]string{"wwid-x-part3", "partuuid-a"}, []string{"wwid-x-part3", "partuuid-b"}) || !Same([]string{"x"}, []string{"x", "partuuid-b"}) {
		t.Error("partitions are told apart wrongly")
	}
}

func TestAt(t *testing.T) {
	f := host(t, 1)
	if _, err := f.At(f.path("dev/nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	if _, err := f.At(f.path("sys/dev/block/8:16/size")); !errors.Is(err, ErrNotBlock) {
		t.Errorf("a file: %v", err)
	}
	node := f.path("dev/odd") // of no device
	f.check(unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(8, 200))))
	if _, err := f.At(node); err == nil {
		t.Error("a node without a device")
	}
	dev := f.at("dm-1")
	for given, want := range map[string]string{
		f.path("dev/vg0/web1"): f.path("dev/vg0/web1"),
		f.path("dev/dm-1"):     f.path("dev/disk/by-id/dm-uuid-" + lv),
		f.path("dev/sdb"):      f.path("dev/disk/by-id/dm-uuid-" + lv), // another's by now
	} {
		if got := f.Stable(dev, given); got != want {
			t.Errorf("%s stays as %s, not %s", given, got, want)
		}
	}
	if z := f.at("zram1"); f.Stable(z, z.Path) != z.Path {
		t.Error("what has no other name has one")
	}
}

func TestOverlap(t *testing.T) {
	f := host(t, 1)
	disk, part, other := f.at("sdb").Number, f.at("sdb3").Number, f.at("vdb").Number
	if !f.Overlap(disk, part) || !f.Overlap(part, disk) || !f.Overlap(disk, disk) || f.Overlap(part, other) {
		t.Error("what overlaps is told wrongly")
	}
	// An LV on a partition lies on it, and on its disk.
	f.link(f.path("sys/devices/virtual/block/dm-1/slaves/sdb3"), f.path("sys/devices/pci/block/sdb/sdb3"))
	dm := f.at("dm-1").Number
	if !f.liesOn(dm, disk, 0) || !f.liesOn(dm, part, 0) || f.liesOn(dm, other, 0) || f.liesOn(part, dm, 0) {
		t.Error("what lies on what is told wrongly")
	}
	// The disk of this very host.
	if st := (unix.Stat_t{}); unix.Stat("/", &st) == nil && unix.Major(st.Dev) != 0 && !(Host{}).UnderSystem(st.Dev) {
		t.Error("the root's own device is not under the system")
	}
}
