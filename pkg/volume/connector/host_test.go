package connector

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// MiB is a mebibyte in bytes.
const MiB = 1 << 20

// run runs a program of the test's world.
func run(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// background starts a server and kills it when the test ends.
func background(t testing.TB, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s wrote: %s", argv[0], out.String())
		}
	})
	return cmd
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func waitPort(t testing.TB, addr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := poll(ctx, addr, func() (bool, error) { return dialAny(ctx, []string{addr}) == nil, nil }); err != nil {
		t.Fatal(err)
	}
}

func sparse(t testing.TB, path string, size int64) string {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

// newHost returns a Host with a state directory of its own, and sees in the end
// that nothing of it is left on this host.
func newHost(t testing.TB, transport string) *Host {
	t.Helper()
	h := New(Options{StateDir: t.TempDir(), Transport: transport, Timeout: time.Minute})
	t.Cleanup(func() {
		b, _ := os.ReadFile("/proc/self/mountinfo")
		if strings.Contains(string(b), h.o.StateDir) {
			t.Errorf("mounts are left below %s", h.o.StateDir)
		}
		if left, _ := filepath.Glob(h.o.StateDir + "/attachments/[a-z]*"); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if left, _ := filepath.Glob(h.o.StateDir + "/mounts/*/*"); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if out, _ := exec.Command("pgrep", "-af", h.o.StateDir).Output(); len(out) > 0 {
			t.Errorf("processes are left: %s", out)
		}
	})
	return h
}

// connect prepares and connects, the way a boot does, with the device saved as
// JSON in between; it disconnects when the test ends.
func connect(t testing.TB, h *Host, req Request) Device {
	t.Helper()
	dev, err := h.Prepare(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	dev = saved(t, dev, req)
	t.Cleanup(func() {
		if err := h.Disconnect(context.Background(), dev); err != nil {
			t.Error(err)
		}
	})
	made, err := h.Connect(t.Context(), req, dev)
	if err != nil {
		t.Fatal(err)
	}
	return saved(t, made, req)
}

// saved is what a record gives back, which must hold no secret.
func saved(t testing.TB, dev Device, req Request) Device {
	t.Helper()
	b, err := json.Marshal(dev)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range secretsOf(req.Connection.Data) {
		if bytes.Contains(b, []byte(s)) {
			t.Fatalf("a secret is saved: %s", b)
		}
	}
	var out Device
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func request(id, driver string, data map[string]any) Request {
	return Request{AttachmentID: id, VolumeID: "vol-" + id, Connection: volume.Connection{Driver: driver, Data: data}}
}

// losetup attaches a loop device that frees itself, and returns its path and the
// open file that keeps it.
func losetup(t testing.TB, path string) string {
	t.Helper()
	dev := run(t, "losetup", "--find", "--show", path)
	t.Cleanup(func() { exec.Command("losetup", "-d", dev).Run() })
	return dev
}

// useVolume puts a filesystem on the device and a file of random bytes in it,
// through a loop device and a mount, and reads it back after mounting again.
func useVolume(t testing.TB, path string) {
	t.Helper()
	want := make([]byte, 3*MiB)
	rand.Read(want)
	dir := t.TempDir()
	dev := losetup(t, path)
	run(t, "mkfs.ext4", "-q", dev)
	for _, write := range []bool{true, false} {
		run(t, "mount", dev, dir)
		if write {
			if err := os.WriteFile(dir+"/file", want, 0o600); err != nil {
				t.Error(err)
			}
		} else if got, err := os.ReadFile(dir + "/file"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("read back %d bytes, %v", len(got), err)
		}
		run(t, "umount", dir)
	}
	run(t, "e2fsck", "-fn", dev)
	run(t, "losetup", "-d", dev)
}

// contains says whether the file of raw content holds the ext4 of useVolume.
func hasExt4(t testing.TB, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var magic [2]byte
	f.ReadAt(magic[:], 1024+56)
	return magic == [2]byte{0x53, 0xef}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	file := sparse(t, dir+"/file", MiB)
	for name, c := range map[string]struct {
		transport string
		id        string
		driver    string
		data      map[string]any
		is        error
		says      string
	}{
		"unknown driver":     {driver: "sheepdog", is: volume.ErrUnsupported, says: "known are fibre_channel, iscsi, local, nbd, nfs, nvmeof, rbd"},
		"unknown transport":  {transport: "carrier-pigeon", driver: "local", data: map[string]any{"device_path": file}, is: failure.ErrInvalid, says: "use auto, kernel or userspace"},
		"encrypted":          {driver: "local", data: map[string]any{"device_path": file, "encrypted": true}, is: volume.ErrUnsupported, says: "is encrypted"},
		"attachment id":      {driver: "local", id: "../x", data: map[string]any{"device_path": file}, is: failure.ErrInvalid, says: "attachment id"},
		"kernel iscsi":       {transport: Kernel, driver: "iscsi", data: map[string]any{}, is: volume.ErrUnsupported, says: "lacks the kernel module iscsi_tcp"},
		"kernel rbd":         {transport: Kernel, driver: "rbd", data: map[string]any{}, is: volume.ErrUnsupported, says: "lacks the kernel module rbd"},
		"nvmeof":             {driver: "nvmeof", data: map[string]any{}, is: volume.ErrUnsupported, says: "lacks the kernel module nvme_fabrics"},
		"fibre channel":      {driver: "fibre_channel", data: map[string]any{}, is: volume.ErrUnsupported, says: "lacks the kernel module"},
		"local without path": {driver: "local", data: map[string]any{}, is: failure.ErrInvalid, says: "device_path"},
		"local not there":    {driver: "local", data: map[string]any{"device_path": dir + "/none"}, is: volume.ErrNotFound, says: "none"},
		"local directory":    {driver: "local", data: map[string]any{"device_path": dir}, is: failure.ErrInvalid, says: "neither a block device nor a regular file"},
		"local tty":          {driver: "local", data: map[string]any{"device_path": "/dev/null"}, is: failure.ErrInvalid, says: "neither a block device nor a regular file"},
		"local relative":     {driver: "local", data: map[string]any{"device_path": "file"}, is: failure.ErrInvalid, says: "not absolute"},
		"local qcow2":        {driver: "local", data: map[string]any{"device_path": file, "format": "qcow2"}, is: volume.ErrUnsupported, says: "must be raw"},
		"nfs format guessed": {driver: "nfs", data: map[string]any{"export": "h:/e", "name": "v"}, is: failure.ErrInvalid, says: "does not guess"},
		"nfs vmdk":           {driver: "nfs", data: map[string]any{"export": "h:/e", "name": "v", "format": "vmdk"}, is: volume.ErrUnsupported, says: "raw and qcow2"},
		"nfs name":           {driver: "nfs", data: map[string]any{"export": "h:/e", "name": "../v", "format": "raw"}, is: failure.ErrInvalid, says: "plain name"},
		"nfs export":         {driver: "nfs", data: map[string]any{"export": "-oexec:/e", "name": "v", "format": "raw"}, is: failure.ErrInvalid, says: "HOST:/PATH"},
		"nfs dot dot":        {driver: "nfs", data: map[string]any{"export": "h:/e/../f", "name": "v", "format": "raw"}, is: failure.ErrInvalid, says: "HOST:/PATH"},
		"nfs option":         {driver: "nfs", data: map[string]any{"export": "h:/e", "name": "v", "format": "raw", "options": "-o bind"}, is: failure.ErrInvalid, says: `"bind" is not one of NFS`},
		"nfs option value":   {driver: "nfs", data: map[string]any{"export": "h:/e", "name": "v", "format": "raw", "options": "vers=4 --make-shared"}, is: failure.ErrInvalid, says: "is not one of NFS"},
		"iscsi no portal":    {driver: "iscsi", data: map[string]any{"target_iqn": "iqn.x"}, is: failure.ErrInvalid, says: "target_portal"},
		"iscsi no target":    {driver: "iscsi", data: map[string]any{"target_portal": "1.2.3.4:3260"}, is: failure.ErrInvalid, says: "target_iqn"},
		"iscsi bad target":   {driver: "iscsi", data: map[string]any{"target_portal": "1.2.3.4:3260", "target_iqn": "--logout"}, is: failure.ErrInvalid, says: "no iSCSI name"},
		"iscsi auth":         {driver: "iscsi", data: map[string]any{"target_portal": "1.2.3.4:3260", "target_iqn": "iqn.x:y", "auth_method": "SRP"}, is: volume.ErrUnsupported, says: "only CHAP"},
		"iscsi half CHAP":    {driver: "iscsi", data: map[string]any{"target_portal": "1.2.3.4:3260", "target_iqn": "iqn.x:y", "auth_method": "CHAP", "auth_username": "u"}, is: failure.ErrInvalid, says: "auth_password"},
		"iscsi lists":        {driver: "iscsi", data: map[string]any{"target_portals": []any{"a:1", "b:1"}, "target_iqns": []any{"iqn.x:y"}}, is: failure.ErrInvalid, says: "do not go together"},
		"rbd name":           {driver: "rbd", data: map[string]any{"name": "--pool"}, is: failure.ErrInvalid, says: "POOL/IMAGE"},
		"rbd ports":          {driver: "rbd", data: map[string]any{"name": "p/i", "hosts": []any{"a"}}, is: failure.ErrInvalid, says: "do not go together"},
		"rbd no key":         {driver: "rbd", data: map[string]any{"name": "p/i", "hosts": []any{"a"}, "ports": []any{"1"}, "auth_username": "nobody-here", "auth_enabled": true}, is: volume.ErrAuth, says: "/etc/ceph/ceph.client.nobody-here.keyring"},
		"nbd no host":        {driver: "nbd", data: map[string]any{}, is: failure.ErrInvalid, says: "host"},
		"nbd port":           {driver: "nbd", data: map[string]any{"host": "a", "port": "http"}, is: failure.ErrInvalid, says: "no address"},
	} {
		t.Run(name, func(t *testing.T) {
			h := New(Options{StateDir: t.TempDir(), Transport: c.transport})
			id := c.id
			if id == "" {
				id = "a1"
			}
			_, err := h.Prepare(t.Context(), request(id, c.driver, c.data))
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v; want %v saying %q", err, c.is, c.says)
			}
			if left, _ := filepath.Glob(h.o.StateDir + "/[a-h,j-z]*"); len(left) > 0 {
				t.Errorf("a refusal made %v", left)
			}
		})
	}
}

func TestLocal(t *testing.T) {
	h := newHost(t, Auto)
	file := sparse(t, t.TempDir()+"/volume", 64*MiB)
	for _, path := range []string{file, losetup(t, file)} {
		req := request("l1", "local", map[string]any{"device_path": path, "access_mode": "ro"})
		dev := connect(t, h, req)
		if dev.Path != path || !dev.ReadOnly {
			t.Errorf("got %+v", dev)
		}
		req.Connection.Data["access_mode"] = "rw"
		dev = connect(t, h, req)
		if dev.ReadOnly {
			t.Errorf("got %+v", dev)
		}
		if path == file {
			useVolume(t, dev.Path)
		}
	}
	// A device that is gone is disconnected.
	dev, err := h.Prepare(t.Context(), request("l2", "local", map[string]any{"device_path": sparse(t, t.TempDir()+"/gone", MiB)}))
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(dev.Path)
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Error(err)
	}
}

// TestLocalPart makes a loop device of a part of a file, once, and takes that one away, and
// no other, also where what is known of it is its plan alone.
func TestLocalPart(t *testing.T) {
	h := newHost(t, Auto)
	file := sparse(t, t.TempDir()+"/disk", 64*MiB)
	user, f, err := loop.Attach(t.Context(), file, loop.Options{Offset: 16 * MiB, SizeLimit: 32 * MiB})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	t.Cleanup(func() { _ = loop.Detach(user) })
	req := request("part1", "local", map[string]any{"device_path": file, "offset": int64(16 * MiB), "limit": int64(32 * MiB)})
	plan, err := h.Prepare(t.Context(), req)
	if err != nil || plan.Path != "" || !plan.Acquires() {
		t.Fatalf("%+v, %v", plan, err)
	}
	dev, err := h.Connect(t.Context(), req, plan)
	if err != nil {
		t.Fatal(err)
	}
	if dev.Path == user.Path {
		t.Error("it is the user's loop device")
	}
	if again, err := h.Connect(t.Context(), req, dev); err != nil || again.Path != dev.Path {
		t.Errorf("connected again: %+v, %v", again, err)
	}
	if st, err := os.Stat(dev.Path); err != nil || st.Mode()&os.ModeDevice == 0 {
		t.Errorf("%v, %v", st, err)
	}
	found, err := loop.Marked("part1")
	if err != nil || len(found) != 1 || found[0].Offset != 16*MiB || found[0].SizeLimit != 32*MiB || found[0].Autoclear {
		t.Errorf("%+v, %v", found, err)
	}
	if err := os.Rename(file, file+".away"); err != nil { // it is found all the same
		t.Fatal(err)
	}
	for range 2 {
		if err := h.Disconnect(t.Context(), plan); err != nil {
			t.Error(err)
		}
	}
	if left, err := loop.Find(file + ".away"); err != nil || len(left) != 1 || left[0].Path != user.Path {
		t.Errorf("left: %+v, %v", left, err)
	}
	if _, err := h.Connect(t.Context(), req, dev); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("without its file: %v", err)
	}
}

// TestLocalHold: the path is the one that the volume has now, whatever is on record.
func TestLocalHold(t *testing.T) {
	h := newHost(t, Auto)
	dir := t.TempDir()
	a, b := losetup(t, sparse(t, dir+"/a", MiB)), losetup(t, sparse(t, dir+"/b", MiB))
	req := request("h1", "local", map[string]any{"device_path": a, "hold": true})
	dev := connect(t, h, req)
	if dev.Path != a || !dev.Hold || dev.Acquires() {
		t.Errorf("%+v", dev)
	}
	req.Connection.Data["device_path"] = b
	if dev, err := h.Connect(t.Context(), req, dev); err != nil || dev.Path != b || !dev.Hold {
		t.Errorf("%+v, %v", dev, err)
	}
}

func TestProperties(t *testing.T) {
	h := newHost(t, Auto)
	p, err := h.Properties(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	name, _ := os.Hostname()
	if p["host"] != name || p["os_type"] != "linux" || p["multipath"] != false || p["do_local_attach"] != false {
		t.Errorf("got %v", p)
	}
	if net.ParseIP(p["ip"].(string)) == nil {
		t.Errorf("ip %v", p["ip"])
	}
	again, err := New(Options{StateDir: h.o.StateDir, IP: "192.0.2.1"}).Properties(t.Context())
	if err != nil || again["initiator"] != p["initiator"] || again["ip"] != "192.0.2.1" {
		t.Errorf("got %v, %v", again, err)
	}
	// What the kernel's initiator and adapters are called.
	root := t.TempDir()
	for path, text := range map[string]string{
		"etc/iscsi/initiatorname.iscsi":       "## comment\nInitiatorName=iqn.1993-08.org.debian:01:abc\n",
		"etc/nvme/hostnqn":                    "nqn.2014-08.org.nvmexpress:uuid:1\n",
		"sys/class/fc_host/host5/port_name":   "0x50014380186b3f65\n",
		"sys/class/fc_host/host5/node_name":   "0x50014380186b3f64\n",
		"sys/class/fc_host/host5/port_state":  "Online\n",
		"sys/class/fc_host/host6/port_name":   "0x50014380186b3f67\n",
		"sys/class/fc_host/host6/port_state":  "Linkdown\n",
		"sys/class/dmi/id/product_uuid":       "b1946ac9-2f4b-4c5d-9a53-1c2f1c5c4f00\n",
		"sys/class/fc_host/host6/unused_file": "",
	} {
		put(t, root, path, text)
	}
	p, err = New(Options{StateDir: t.TempDir(), Root: root}).Properties(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(p["initiator"], p["nqn"], p["wwpns"], p["wwnns"], p["system uuid"])
	want := "iqn.1993-08.org.debian:01:abc nqn.2014-08.org.nvmexpress:uuid:1 [50014380186b3f65] [50014380186b3f64] b1946ac9-2f4b-4c5d-9a53-1c2f1c5c4f00"
	if strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// put writes a file of a fake host.
func put(t testing.TB, root, path, text string) {
	t.Helper()
	full := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
