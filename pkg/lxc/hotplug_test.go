package lxc

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirt"
)

// loopDevice makes a loop device whose first bytes are a word.
func loopDevice(t *testing.T, word string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, append([]byte(word+"\n"), make([]byte, 1<<20)...), 0o600))
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	must(t, err)
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return dev
}

// disks gives the disks of the definition that runs, and of the one that is kept.
func disks(t *testing.T, h *Host, id string) (live, kept []Disk) {
	t.Helper()
	must(t, h.domain(limited(t), id, func(dom *libvirt.Domain) error {
		for _, def := range []struct {
			flags libvirt.DomainXMLFlags
			to    *[]Disk
		}{{0, &live}, {libvirt.DOMAIN_XML_INACTIVE, &kept}} {
			text, err := dom.GetXMLDesc(def.flags)
			must(t, err)
			d, err := ParseDomain(text)
			must(t, err)
			*def.to = d.Disks
		}
		return nil
	}))
	return live, kept
}

// A disk's source is a link, and what it leads to may change from one start to the next:
// libvirt looks where it leads at each start and attach, and refuses one that leads
// nowhere.
func TestDisksByLink(t *testing.T) {
	h := open(t)
	one, two, three := loopDevice(t, "one"), loopDevice(t, "two"), loopDevice(t, "three")
	dir := t.TempDir()
	link := func(name, dev string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		must(t, os.Symlink(dev, path+".new"))
		must(t, os.Rename(path+".new", path))
		return path
	}
	vdb := Disk{Source: link("vdb", one), Target: "/dev/vdb"}
	vdc := Disk{Source: link("vdc", two), Target: "vdc", ReadOnly: true}
	wantB, wantC := Disk{vdb.Source, "vdb", false}, Disk{vdc.Source, "vdc", true}
	cfg := config(t, "")
	cfg.Disks = []Disk{vdb}
	same := func(when string, want ...Disk) {
		t.Helper()
		live, kept := disks(t, h, cfg.UUID)
		if diff := cmp.Diff([][]Disk{want, want}, [][]Disk{live, kept}); diff != "" {
			t.Errorf("%s: -want +live, kept:\n%s", when, diff)
		}
	}
	c := start(t, h, cfg)
	reads := func(dev, want string) {
		t.Helper()
		if _, out, errs := c.run(t, ExecOptions{}, "head", "-n", "1", "/dev/"+dev); out != want {
			t.Errorf("%s reads %q instead of %q (%s)", dev, out, want, errs)
		}
	}
	reads("vdb", "one\n")
	for range 2 { // again is no error, and changes nothing
		must(t, h.AttachDisk(limited(t), cfg.UUID, vdc))
		same("attached", wantB, wantC)
	}
	reads("vdc", "two\n")

	// What libvirt keeps is what the next start has, by where the links lead then.
	must(t, h.Destroy(limited(t), cfg.UUID))
	link("vdb", three)
	link("vdc", one)
	up(t, h, cfg)
	reads("vdb", "three\n")
	reads("vdc", "one\n")

	for range 2 {
		must(t, h.DetachDisk(limited(t), cfg.UUID, vdc))
		same("detached", wantB)
	}
	if code, _, _ := c.run(t, ExecOptions{}, "head", "-n", "1", "/dev/vdc"); code == 0 {
		t.Error("vdc is there still")
	}

	link("vdd", "/dev/lxcboot-none")
	err := h.AttachDisk(limited(t), cfg.UUID, Disk{Source: dir + "/vdd", Target: "vdd"})
	if err == nil || !strings.Contains(err.Error(), "/vdd") {
		t.Errorf("a link to nowhere was attached: %v", err)
	}
	same("refused", wantB)

	// One that was attached to what runs alone is attached to what is kept too, and
	// one that is in one of the two is detached from that.
	device := vdc.device()
	text, err := device.Marshal()
	must(t, err)
	must(t, h.domain(limited(t), cfg.UUID, func(dom *libvirt.Domain) error {
		return dom.AttachDeviceFlags(text, libvirt.DOMAIN_DEVICE_MODIFY_LIVE)
	}))
	must(t, h.AttachDisk(limited(t), cfg.UUID, vdc))
	same("attached to the other", wantB, wantC)
	must(t, h.domain(limited(t), cfg.UUID, func(dom *libvirt.Domain) error {
		return dom.DetachDeviceFlags(text, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG)
	}))
	must(t, h.DetachDisk(limited(t), cfg.UUID, vdc))
	same("detached from the other", wantB)

	// While it does not run, its definition alone is changed.
	must(t, h.Destroy(limited(t), cfg.UUID))
	must(t, h.AttachDisk(limited(t), cfg.UUID, vdc))
	same("attached while off", wantB, wantC)
	must(t, h.DetachDisk(limited(t), cfg.UUID, vdc))
	same("detached while off", wantB)

	link("vdb", "/dev/lxcboot-none")
	err = tryUp(t, h, cfg)
	var failed *StartError
	if !errors.As(err, &failed) || !strings.Contains(failed.Reason, vdb.Source) {
		t.Errorf("started with a link to nowhere: %v", err)
	}
}

// What a hook reads is what was defined.
func TestParseDomain(t *testing.T) {
	cfg := full()
	text, err := cfg.XML()
	must(t, err)
	got, err := ParseDomain(text)
	must(t, err)
	want := Domain{
		ID: cfg.UUID, Name: cfg.Name, Init: launchTarget + "/" + programName, IDMap: cfg.IDMap,
		Disks:       []Disk{{"/dev/loop7", "vdb", false}, {"/dev/loop8", "vdc", true}},
		Filesystems: []Filesystem{{cfg.Root, "/", true}, {"/srv/a", "/data", false}, {"/srv/b", "/data/b", true}, {cfg.Launch, launchTarget, true}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	got, err = ParseDomain("<domain type='lxc' id='42'><name>x</name><devices><disk type='network'/><filesystem type='ram'/></devices></domain>")
	if diff := cmp.Diff(Domain{Name: "x", Controller: 42, Disks: []Disk{{}}, Filesystems: []Filesystem{{}}}, got); diff != "" || err != nil {
		t.Errorf("%v: -want +got:\n%s", err, diff)
	}
	if _, err := ParseDomain("<domain"); err == nil {
		t.Error("what is cut off is read")
	}
}

// A device is given to a container that has just started, of whose init libvirt hears a
// moment later: until then it looks for the init of the life before.
func TestAttachAtOnce(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	start(t, h, cfg)
	link := filepath.Join(t.TempDir(), "vdb")
	must(t, os.Symlink(loopDevice(t, "one"), link))
	for range 20 {
		must(t, h.Destroy(limited(t), cfg.UUID))
		up(t, h, cfg)
		must(t, h.AttachDisk(limited(t), cfg.UUID, Disk{Source: link, Target: "vdb"}))
		must(t, h.DetachDisk(limited(t), cfg.UUID, Disk{Source: link, Target: "vdb"}))
	}
}

// TestInitUnknown: libvirt's words for that are told from others, and what to do follows
// from the kind.
func TestInitUnknown(t *testing.T) {
	for message, c := range map[string]struct {
		code libvirt.ErrorNumber
		want bool
	}{
		"Cannot attach disk until init PID is known":                             {libvirt.ERR_OPERATION_INVALID, true},
		"Kernel does not provide mount namespace: No such file or directory":     {libvirt.ERR_SYSTEM_ERROR, true},
		"Unable to open /dev/loop5: No such file or directory":                   {libvirt.ERR_SYSTEM_ERROR, false},
		"target vdb already exists":                                              {libvirt.ERR_OPERATION_FAILED, false},
		"mount namespace words of an error that is of another kind than the one": {libvirt.ERR_INTERNAL_ERROR, false},
	} {
		err := initUnknown(libvirt.Error{Code: c.code, Message: message})
		if got := errors.Is(err, ErrInitUnknown); got != c.want {
			t.Errorf("%s: %v", message, got)
		}
	}
}
