package connector

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// world is a fake kernel: a tree with /sys, /dev and /etc, tools that are
// recorded and change that tree, and the sysfs attributes that act when written.
type world struct {
	t       *testing.T
	root    string
	mu      sync.Mutex
	ran     []string
	flushed []string                  // what sync was run for
	says    string                    // what each tool writes
	tool    func(argv []string) error // what a tool does
	// What multipathd and multipath do; nil: the daemon does not run.
	multipathd func(argv []string) (says string, err error)
	acts       map[string]func(value string) // by path: what a write does
}

func newWorld(t *testing.T) (*world, *Host) {
	w := &world{t: t, root: t.TempDir(), acts: map[string]func(string){}}
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				w.act()
			}
		}
	})
	t.Cleanup(func() { close(stop); done.Wait() })
	h := New(Options{StateDir: t.TempDir(), Root: w.root, Run: w.run, Timeout: 5 * time.Second})
	return w, h
}

func (w *world) run(_ context.Context, argv ...string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if argv[0] == "sync" {
		w.flushed = append(w.flushed, argv[2])
		return "", nil
	}
	if w.multipathd == nil && argv[0] == "multipathd" {
		return "", &CommandError{Argv: argv, Code: 1}
	}
	w.ran = append(w.ran, strings.Join(argv, " "))
	if w.multipathd != nil && strings.HasPrefix(argv[0], "multipath") {
		return w.multipathd(argv)
	}
	return w.says, w.tool(argv)
}

// act does what was written to the attributes.
func (w *world) act() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for path, f := range w.acts {
		if b, err := os.ReadFile(filepath.Join(w.root, path)); err == nil && len(b) > 0 {
			os.Truncate(filepath.Join(w.root, path), 0)
			f(string(b))
		}
	}
}

func (w *world) commands() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.ran
	w.ran = nil
	return out
}

// disk makes a SCSI disk appear in dir, with an attribute that removes it.
func (w *world) disk(dir, address, name, wwid string) {
	put(w.t, w.root, filepath.Join(dir, "wwid"), wwid+"\n")
	put(w.t, w.root, filepath.Join(dir, "delete"), "")
	put(w.t, w.root, filepath.Join(dir, "block", name, "size"), "2097152\n")
	put(w.t, w.root, "dev/"+name, "")
	link := filepath.Join(w.root, "sys/bus/scsi/devices", address)
	os.MkdirAll(filepath.Dir(link), 0o755)
	if err := os.Symlink(filepath.Join(w.root, dir), link); err != nil {
		w.t.Error(err)
	}
	w.acts[filepath.Join(dir, "delete")] = func(string) {
		// The link goes before what it names, and after the node: once it is
		// gone the disk counts as removed, and a test may look.
		os.Remove(filepath.Join(w.root, "dev", name))
		os.Remove(link)
		os.RemoveAll(filepath.Join(w.root, dir))
	}
}

// recorded is a connection as Cinder gave it.
func recorded(t *testing.T, driver string) Request {
	t.Helper()
	b, err := os.ReadFile("testdata/" + driver + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Driver string         `json:"driver_volume_type"`
		Data   map[string]any `json:"data"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return request("k1", c.Driver, c.Data)
}

// prepare prepares by the kernel's driver, whatever tools this host has.
func prepare(t *testing.T, d driver, req Request) Device {
	t.Helper()
	dev, err := d.prepare(t.Context(), req, Device{Driver: req.Connection.Driver, Transport: Kernel})
	if err != nil {
		t.Fatal(err)
	}
	return saved(t, dev, req)
}

func expect(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", what, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

const testIQN = "iqn.2010-10.org.openstack:volume-1cc81791-8598-48f4-9189-d7add311bc56"

// openISCSI is a world with open-iscsi in it: a login makes session 3 on SCSI
// host 2, and a scan of it LUN 1, beside other sessions and disks.
func openISCSI(t *testing.T) (*world, *Host) {
	w, h := newWorld(t)
	node := "etc/iscsi/nodes/" + testIQN + "/10.1.0.5,3260"
	device := "sys/class/iscsi_host/host2/device/session3"
	// Another target's session, with the same LUN.
	put(t, w.root, "sys/class/iscsi_session/session1/targetname", "iqn.x:other\n")
	put(t, w.root, "sys/class/iscsi_connection/connection1:0/persistent_address", "10.1.0.5\n")
	put(t, w.root, "sys/class/iscsi_connection/connection1:0/persistent_port", "3260\n")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.disk("sys/class/iscsi_host/host1/device/session1/target1:0:0/1:0:0:1", "1:0:0:1", "sda", "naa.other")
	w.tool = func(argv []string) error {
		line := strings.Join(argv[7:], " ")
		loggedIn := exists(filepath.Join(w.root, "sys/class/iscsi_session/session3"))
		switch {
		case line == "":
			if !exists(filepath.Join(w.root, node)) {
				return &CommandError{Argv: argv, Code: iscsiNoObject, Stderr: "iscsiadm: No records found"}
			}
		case strings.HasSuffix(line, "--op new"):
			put(t, w.root, node, "# BEGIN RECORD 2.1.8\nnode.name = "+testIQN+"\nnode.session.auth.authmethod = None\n# END RECORD\n")
		case line == "--login" && loggedIn:
			return &CommandError{Argv: argv, Code: iscsiSessionExists}
		case line == "--login":
			b, _ := os.ReadFile(filepath.Join(w.root, node))
			if !strings.Contains(string(b), "authmethod = CHAP\nnode.session.auth.username = REDACTED-name\nnode.session.auth.password = REDACTED-password\n# END") {
				return &CommandError{Argv: argv, Code: 24, Stderr: "login failed due to authorization failure: " + string(b)}
			}
			put(t, w.root, "sys/class/iscsi_session/session3/targetname", testIQN+"\n")
			put(t, w.root, "sys/class/iscsi_connection/connection3:0/persistent_address", "10.1.0.5\n")
			put(t, w.root, "sys/class/iscsi_connection/connection3:0/persistent_port", "3260\n")
			os.MkdirAll(filepath.Join(w.root, device), 0o755)
			put(t, w.root, "sys/class/scsi_host/host2/scan", "")
			w.acts["sys/class/scsi_host/host2/scan"] = func(v string) {
				if v == "0 0 1" {
					w.disk(device+"/target2:0:0/2:0:0:1", "2:0:0:1", "sdb", "naa.6001405aaaa")
				}
			}
		case line == "--logout":
			if !loggedIn {
				return &CommandError{Argv: argv, Code: iscsiNoObject}
			}
			os.RemoveAll(filepath.Join(w.root, "sys/class/iscsi_session/session3"))
			os.RemoveAll(filepath.Join(w.root, device))
		case line == "--op delete":
			os.Remove(filepath.Join(w.root, node))
		}
		return nil
	}
	return w, h
}

func TestKernelISCSI(t *testing.T) {
	w, h := openISCSI(t)
	req := recorded(t, "iscsi")
	dev := prepare(t, kernelISCSI{h}, req)
	dev, err := h.Connect(t.Context(), req, dev)
	if err != nil {
		t.Fatal(err)
	}
	dev = saved(t, dev, req)
	if dev.Path != w.root+"/dev/sdb" {
		t.Errorf("path %s", dev.Path)
	}
	node := "iscsiadm -m node -T " + testIQN + " -p 10.1.0.5:3260"
	ran := w.commands()
	expect(t, "connect", ran, []string{
		node,
		node + " --interface default --op new",
		node + " --op update -n node.session.scan -v manual",
		node + " --op update -n node.startup -v manual",
		node + " --op update -n node.conn[0].timeo.login_timeout -v 5",
		node + " --op update -n node.session.initial_login_retry_max -v 1",
		node + " --login",
	})
	if strings.Contains(strings.Join(ran, " "), "REDACTED") {
		t.Error("the login is in the arguments")
	}
	// Again: the session and the disk are there already.
	again, err := h.Connect(t.Context(), req, dev)
	if err != nil || again.Path != dev.Path {
		t.Errorf("%+v, %v", again, err)
	}
	w.commands()
	inUse(t, w, h, dev)
	for range 2 {
		if err := h.Disconnect(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "disconnect twice", w.commands(), []string{node + " --logout", node + " --op delete", node + " --logout", node + " --op delete"})
	if exists(w.root+"/dev/sdb") || !exists(w.root+"/dev/sda") {
		t.Error("the wrong disk was removed")
	}
}

func TestKernelISCSISharedTarget(t *testing.T) {
	w, h := openISCSI(t)
	req := recorded(t, "iscsi")
	dev, err := h.Connect(t.Context(), req, prepare(t, kernelISCSI{h}, req))
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.disk("sys/class/iscsi_host/host2/device/session3/target2:0:0/2:0:0:2", "2:0:0:2", "sdc", "naa.2")
	w.mu.Unlock()
	w.commands()
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
	expect(t, "disconnect", w.commands(), nil)
	if exists(w.root+"/dev/sdb") || !exists(w.root+"/dev/sdc") {
		t.Error("the wrong disk was removed")
	}
}

// TestKernelISCSILost holds that a device whose name was lost in a crash is
// removed by the volume's address, and that an address that passed to another
// disk is left alone.
func TestKernelISCSILost(t *testing.T) {
	w, h := openISCSI(t)
	req := recorded(t, "iscsi")
	planned := prepare(t, kernelISCSI{h}, req)
	if err := h.Disconnect(t.Context(), planned); err != nil {
		t.Fatal(err)
	}
	dev, err := h.Connect(t.Context(), req, planned)
	if err != nil {
		t.Fatal(err)
	}
	put(t, w.root, "sys/bus/scsi/devices/2:0:0:1/wwid", "naa.somebody-else\n")
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
	if !exists(w.root + "/dev/sdb") {
		t.Error("another disk was removed")
	}
	if err := h.Disconnect(t.Context(), planned); err != nil {
		t.Fatal(err)
	}
	if exists(w.root + "/dev/sdb") {
		t.Error("the disk is left")
	}
}

func TestKernelISCSILoginFails(t *testing.T) {
	w, h := openISCSI(t)
	req := recorded(t, "iscsi")
	dev := prepare(t, kernelISCSI{h}, req)
	req.Connection.Data["auth_password"] = "not-the-password"
	_, err := h.Connect(t.Context(), req, dev)
	if err == nil || !strings.Contains(err.Error(), "authorization failure") || strings.Contains(err.Error(), "not-the-password") {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(w.root + "/etc/iscsi/nodes/*/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// The login stays nowhere: not in the record of a portal that failed before another one
// answered, either.
func TestKernelISCSISecondPortal(t *testing.T) {
	w, h := openISCSI(t)
	const dead = "10.9.9.9:3260"
	record := "etc/iscsi/nodes/" + testIQN + "/10.9.9.9,3260"
	alive := w.tool
	w.tool = func(argv []string) error {
		if argv[6] != dead {
			return alive(argv)
		}
		switch argv[len(argv)-1] {
		case dead:
			return &CommandError{Argv: argv, Code: iscsiNoObject}
		case "new":
			put(t, w.root, record, "# BEGIN RECORD 2.1.8\n# END RECORD\n")
		case "--login":
			return &CommandError{Argv: argv, Code: 8, Stderr: "connection timed out"}
		case "--logout":
			return &CommandError{Argv: argv, Code: iscsiNoObject}
		case "delete":
			os.Remove(filepath.Join(w.root, record))
		}
		return nil
	}
	req := recorded(t, "iscsi")
	delete(req.Connection.Data, "target_portal")
	req.Connection.Data["target_portals"] = []any{dead, "10.1.0.5:3260"}
	req.Connection.Data["target_iqns"] = []any{testIQN, testIQN}
	req.Connection.Data["target_luns"] = []any{1, 1}
	dev, err := h.Connect(t.Context(), req, prepare(t, kernelISCSI{h}, req))
	if err != nil || dev.Path != w.root+"/dev/sdb" {
		t.Fatalf("%+v, %v", dev, err)
	}
	if exists(filepath.Join(w.root, record)) {
		t.Error("the record of the portal that failed is left, with the login")
	}
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(w.root + "/etc/iscsi/nodes/*/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if !slices.Contains(w.flushed, w.root+"/dev/sdb") {
		t.Errorf("flushed: %q", w.flushed)
	}
}

func TestKernelRBD(t *testing.T) {
	w, h := newWorld(t)
	const key = testKey
	put(t, w.root, "etc/ceph/ceph.client.cinder.keyring", "[client.other]\n\tkey = "+otherKey+"\n[client.cinder]\n\tkey = "+key+"\n")
	image := func(id, name string) {
		for f, v := range map[string]string{"pool": "volumes", "name": name, "pool_ns": "", "current_snap": "-"} {
			put(t, w.root, "sys/bus/rbd/devices/"+id+"/"+f, v+"\n")
		}
		put(t, w.root, "dev/rbd"+id, "")
	}
	image("0", "volume-other")
	req := recorded(t, "rbd")
	name := strings.TrimPrefix(req.Connection.Data["name"].(string), "volumes/")
	w.tool = func(argv []string) error {
		if argv[1] == "unmap" {
			os.RemoveAll(w.root + "/sys/bus/rbd/devices/1")
			return nil
		}
		b, err := os.ReadFile(argv[len(argv)-1])
		if err != nil || string(b) != key {
			return &CommandError{Argv: argv, Code: 1, Stderr: "rbd: couldn't connect to the cluster!"}
		}
		image("1", name)
		return nil
	}
	dev := prepare(t, kernelRBD{h}, req)
	dev, err := h.Connect(t.Context(), req, dev)
	if err != nil {
		t.Fatal(err)
	}
	if dev.Path != w.root+"/dev/rbd1" {
		t.Errorf("path %s", dev.Path)
	}
	dir := h.o.StateDir + "/attachments/k1"
	expect(t, "connect", w.commands(), []string{
		"rbd map --pool volumes --image " + name + " --conf " + dir + "/conf --mon_host 10.1.0.8:6789 --id cinder --keyfile " + dir + "/key",
	})
	if exists(dir) {
		t.Error("the key's file is left")
	}
	if _, err := h.Connect(t.Context(), req, dev); err != nil || len(w.commands()) != 0 {
		t.Errorf("connecting again: %v", err)
	}
	inUse(t, w, h, dev)
	for range 2 {
		if err := h.Disconnect(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "disconnect twice", w.commands(), []string{"rbd unmap " + w.root + "/dev/rbd1"})
}
