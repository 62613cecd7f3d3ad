//go:build openstack

package connector

import (
	"bytes"
	"encoding/base64"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// labImage makes an image in the lab's Ceph cluster, and returns a connection to
// it in the form of Cinder's.
func labImage(t *testing.T, name string, mib string) (conf string, req Request) {
	t.Helper()
	lab := os.Getenv("LAB_DIR")
	if lab == "" {
		t.Fatal("LAB_DIR does not say where the OpenStack lab is; bring it up with the backend rbd first")
	}
	conf = filepath.Join(lab, "etc/ceph.conf")
	rbd := func(argv ...string) string {
		return run(t, append([]string{"rbd", "--conf", conf, "--id", "cinder"}, argv...)...)
	}
	rbd("create", "--size", mib, "volumes/"+name)
	t.Cleanup(func() {
		// A client that was killed counts as a user of the image for half a minute.
		for range 40 {
			if exec.Command("rbd", "--conf", conf, "--id", "cinder", "rm", "--no-progress", "volumes/"+name).Run() == nil {
				return
			}
			time.Sleep(time.Second)
		}
		t.Errorf("image %s is left", name)
	})
	b, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`v1:([^,\]]+)`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("%s names no monitor", conf)
	}
	host, port, err := net.SplitHostPort(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	req = recorded(t, "rbd")
	req.Connection.Data["name"] = "volumes/" + name
	req.Connection.Data["hosts"], req.Connection.Data["ports"] = []any{host}, []any{port}
	return conf, req
}

func TestLabRBD(t *testing.T) {
	conf, req := labImage(t, "connector-test", "64")
	keyring, err := os.ReadFile(filepath.Join(os.Getenv("LAB_DIR"), "state/ceph/cinder.keyring"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := keyOf(string(keyring), "cinder")
	if err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string]func(t *testing.T, h *Host, data map[string]any){
		"key named by ceph.conf": func(t *testing.T, h *Host, data map[string]any) { t.Setenv("CEPH_CONF", conf) },
		"key in /etc/ceph": func(t *testing.T, h *Host, data map[string]any) {
			h.o.Root = t.TempDir()
			put(t, h.o.Root, "etc/ceph/ceph.client.cinder.keyring", string(keyring))
		},
		"key in the connection": func(t *testing.T, h *Host, data map[string]any) {
			h.o.Root = t.TempDir()
			data["keyring"] = string(keyring)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, Userspace)
			set(t, h, req.Connection.Data)
			defer delete(req.Connection.Data, "keyring")
			dev := connect(t, h, req)
			useVolume(t, dev.Path)
			pid := daemonPID(t, dev)
			cmdline, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
			log, _ := os.ReadFile(filepath.Dir(dev.Path) + "/log")
			if bytes.Contains(append(cmdline, log...), []byte(key)) {
				t.Error("the key is to be seen")
			}
			if err := h.Disconnect(t.Context(), dev); err != nil {
				t.Fatal(err)
			}
			// What was written is in the cluster.
			dev = connect(t, h, req)
			if !hasExt4(t, dev.Path) {
				t.Error("what was written is not there after connecting again")
			}
			unix.Kill(daemonPID(t, dev), unix.SIGKILL)
			if err := h.Disconnect(t.Context(), dev); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLabRBDRefused holds that a wrong key is an error within the time allowed.
func TestLabRBDRefused(t *testing.T) {
	_, req := labImage(t, "connector-refused", "16")
	// The form of a key (type 1, a time, 16 bytes), but not the cluster's.
	wrong := append([]byte{1, 0, 1, 2, 3, 4, 0, 0, 0, 0, 16, 0}, "0123456789abcdef"...)
	req.Connection.Data["keyring"] = base64.StdEncoding.EncodeToString(wrong)
	h := newHost(t, Userspace)
	h.o.Root, h.o.Timeout = t.TempDir(), 20*time.Second
	dev, err := h.Prepare(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = h.Connect(t.Context(), req, dev)
	if err == nil || !strings.Contains(err.Error(), "the key of client.cinder may not be") {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("it took %v", d)
	}
	t.Logf("after %v: %v", time.Since(start), err)
}
