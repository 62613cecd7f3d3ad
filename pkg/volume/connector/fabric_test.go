package connector

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

func TestKernelNVMe(t *testing.T) {
	w, h := newWorld(t)
	put(t, w.root, "etc/nvme/hostnqn", "nqn.2014-08.org.nvmexpress:uuid:host\n")
	req := recorded(t, "nvmeof")
	nqn := req.Connection.Data["target_nqn"].(string)
	subsystem := "sys/class/nvme-subsystem/nvme-subsys4"
	put(t, w.root, "sys/class/nvme-subsystem/nvme-subsys0/subsysnqn", "nqn.other\n")
	put(t, w.root, "sys/class/nvme-subsystem/nvme-subsys0/nvme0n1/uuid", "81f0b6a4-5b0c-4b3e-8f7c-3a1d2e4f5a6b\n")
	// The kernel has not taken away yet what was left before.
	put(t, w.root, subsystem+"/subsysnqn", nqn+"\n")
	put(t, w.root, subsystem+"/nvme3/state", "deleting (no IO)\n")
	w.tool = func(argv []string) error {
		if argv[1] == "disconnect" && argv[2] == "-d" {
			return os.RemoveAll(filepath.Join(w.root, "sys/class/nvme", argv[3]))
		}
		if argv[1] == "disconnect" {
			return os.RemoveAll(filepath.Join(w.root, subsystem))
		}
		if slices.Contains(argv, "10.1.0.6") { // its controller goes on trying
			put(t, w.root, "sys/class/nvme/nvme7/subsysnqn", nqn+"\n")
			return &CommandError{Argv: argv, Code: 1, Stderr: "Failed to write to /dev/nvme-fabrics: Connection refused"}
		}
		put(t, w.root, subsystem+"/subsysnqn", nqn+"\n")
		put(t, w.root, subsystem+"/nvme4/address", "traddr=10.1.0.7\n")
		put(t, w.root, subsystem+"/nvme4/state", "live\n")
		put(t, w.root, subsystem+"/nvme4/nvme4c4n1/uuid", "81f0b6a4-5b0c-4b3e-8f7c-3a1d2e4f5a6b\n") // a path
		put(t, w.root, subsystem+"/nvme4n2/uuid", "81f0b6a4-5b0c-4b3e-8f7c-3a1d2e4f5a6b\n")
		put(t, w.root, "dev/nvme4n2", "")
		return nil
	}
	dev, err := h.Connect(t.Context(), req, prepare(t, nvmeDriver{h}, req))
	if err != nil {
		t.Fatal(err)
	}
	if dev.Path != w.root+"/dev/nvme4n2" {
		t.Errorf("path %s", dev.Path)
	}
	line := "nvme connect -t tcp -n " + nqn + " -a 10.1.0.%s -s 4420 -q nqn.2014-08.org.nvmexpress:uuid:host"
	expect(t, "connect", w.commands(), []string{strings.ReplaceAll(line, "%s", "6"), "nvme disconnect -d nvme7", strings.ReplaceAll(line, "%s", "7")})
	inUse(t, w, h, dev)
	// The target shows another host's namespace too. While an attachment has it, or another
	// program uses it, the subsystem stays connected.
	put(t, w.root, subsystem+"/nvme4n3/uuid", "11111111-5b0c-4b3e-8f7c-3a1d2e4f5a6b\n")
	put(t, w.root, "dev/nvme4n3", "")
	second := recorded(t, "nvmeof")
	second.AttachmentID = "second"
	second.Connection.Data["vol_uuid"] = "11111111-5b0c-4b3e-8f7c-3a1d2e4f5a6b"
	other, err := h.Connect(t.Context(), second, prepare(t, nvmeDriver{h}, second))
	if err != nil || other.Path != w.root+"/dev/nvme4n3" {
		t.Fatalf("the second is %s: %v", other.Path, err)
	}
	letGo := func(what string, dev Device, commands ...string) {
		t.Helper()
		if err := h.Disconnect(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		expect(t, what, w.commands(), commands)
	}
	letGo("disconnect of one of two attachments", dev)
	put(t, w.root, "sys/block/loop9/loop/backing_file", "/dev/nvme4n2\n")
	letGo("disconnect beside another program's", other)
	os.RemoveAll(filepath.Join(w.root, "sys/block/loop9"))
	letGo("disconnect beside one that nobody uses", dev, "nvme disconnect -n "+nqn)
	letGo("disconnect twice", dev)
	if left, _ := os.ReadDir(filepath.Join(h.stateDir(), "subsystems")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	// The older form, without and with what tells the namespace.
	data := map[string]any{"nqn": "nqn.x:y", "target_portal": "10.1.0.6", "target_port": 4420, "transport_type": "rdma"}
	if _, err := (nvmeDriver{h}).prepare(t.Context(), request("n2", "nvmeof", data), Device{}); !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), "guessed") {
		t.Errorf("got %v", err)
	}
	data["ns_id"] = 1
	if _, err := (nvmeDriver{h}).prepare(t.Context(), request("n2", "nvmeof", data), Device{}); err != nil {
		t.Error(err)
	}
}

func TestFibreChannel(t *testing.T) {
	w, h := newWorld(t)
	req := recorded(t, "fibre_channel")
	rport := func(name, port, target, state string) {
		put(t, w.root, "sys/class/fc_remote_ports/"+name+"/port_name", "0x"+port+"\n")
		put(t, w.root, "sys/class/fc_remote_ports/"+name+"/scsi_target_id", target+"\n")
		put(t, w.root, "sys/class/fc_remote_ports/"+name+"/port_state", state+"\n")
	}
	dev := prepare(t, fcDriver{h}, req)
	if _, err := h.Connect(t.Context(), req, dev); !errors.Is(err, volume.ErrUnreachable) {
		t.Errorf("without a port that sees the target: %v", err)
	}
	rport("rport-5:0-0", "2100000000000000", "0", "Online") // not a target port of ours
	rport("rport-5:0-1", "50014380186b3f65", "3", "Blocked")
	rport("rport-6:0-2", "50014380186b3f67", "4", "Online")
	put(t, w.root, "sys/class/scsi_host/host6/scan", "")
	w.mu.Lock()
	w.acts["sys/class/scsi_host/host6/scan"] = func(v string) {
		if v == "0 4 7" {
			w.disk("sys/devices/fc/6:0:4:7", "6:0:4:7", "sdq", "naa.fc")
		}
	}
	w.mu.Unlock()
	dev, err := h.Connect(t.Context(), req, dev)
	if err != nil {
		t.Fatal(err)
	}
	if dev.Path != w.root+"/dev/sdq" {
		t.Errorf("path %s", dev.Path)
	}
	for range 2 {
		if err := h.Disconnect(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
	}
	if exists(w.root + "/dev/sdq") {
		t.Error("the disk is left")
	}
}

// TestAuto holds that the kernel's driver is taken when module and tool are both
// there, and user space otherwise.
func TestAuto(t *testing.T) {
	tools := t.TempDir()
	put(t, tools, "iscsiadm", "")
	os.Chmod(tools+"/iscsiadm", 0o755)
	t.Setenv("PATH", tools+":"+os.Getenv("PATH"))
	data := map[string]any{"target_portal": "10.0.0.1:3260", "target_iqn": "iqn.x:y", "target_lun": 1}
	for name, c := range map[string]struct {
		transport string
		module    string // the file that shows it
		want      string
	}{
		"none":                {Auto, "", Userspace},
		"loaded":              {Auto, "sys/module/iscsi_tcp/refcnt", Kernel},
		"loadable":            {Auto, "lib/modules/6.1.0/modules.dep", Kernel},
		"built in":            {Auto, "lib/modules/6.1.0/modules.builtin", Kernel},
		"user space asked":    {Userspace, "sys/module/iscsi_tcp/refcnt", Userspace},
		"kernel asked":        {Kernel, "sys/module/iscsi_tcp/refcnt", Kernel},
		"default is auto":     {"", "sys/module/iscsi_tcp/refcnt", Kernel},
		"another is loadable": {Auto, "lib/modules/6.1.0/modules.other", Userspace},
	} {
		root := t.TempDir()
		put(t, root, "proc/sys/kernel/osrelease", "6.1.0\n")
		if c.module != "" {
			put(t, root, c.module, "kernel/drivers/scsi/libiscsi.ko: \nkernel/drivers/scsi/iscsi_tcp.ko.xz: kernel/drivers/scsi/libiscsi.ko.xz\n")
		}
		h := New(Options{StateDir: t.TempDir(), Transport: c.transport, Root: root})
		dev, err := h.Prepare(t.Context(), request("t1", "iscsi", data))
		if err != nil || dev.Transport != c.want {
			t.Errorf("%s: %q, %v; want %s", name, dev.Transport, err, c.want)
		}
	}
}
