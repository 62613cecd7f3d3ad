package connector

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const (
	chapUser     = "someone"
	chapPassword = "open,sesame=12"
)

// target is an iSCSI target of the test's own tgtd.
type target struct {
	cmd           *exec.Cmd
	iqn, img      string
	port, control string
}

// newTarget serves a new volume as LUN 1 by a tgtd with its own control number
// and port, on both loopback addresses, with CHAP.
func newTarget(t testing.TB, size int64) *target {
	t.Helper()
	tg := &target{
		iqn:  "iqn.2026-01.com.example:" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())),
		port: freePort(t),
		img:  sparse(t, t.TempDir()+"/img", size),
	}
	n, _ := strconv.Atoi(tg.port)
	tg.control = strconv.Itoa(n%32000 + 1) // tgtd takes no more than 15 bits
	tg.cmd = background(t, "tgtd", "-f", "-C", tg.control, "--iscsi", "portal=127.0.0.1:"+tg.port+",portal=[::1]:"+tg.port)
	t.Cleanup(func() {
		os.Remove("/var/run/tgtd/socket." + tg.control)
		os.Remove("/var/run/tgtd/socket." + tg.control + ".lock")
	})
	waitPort(t, "127.0.0.1:"+tg.port)
	tg.admin(t, "--op", "new", "--mode", "target", "--tid", "1", "-T", tg.iqn)
	tg.admin(t, "--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", tg.img)
	tg.admin(t, "--op", "new", "--mode", "account", "--user", chapUser, "--password", chapPassword)
	tg.admin(t, "--op", "bind", "--mode", "account", "--tid", "1", "--user", chapUser)
	tg.admin(t, "--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
	return tg
}

func (tg *target) admin(t testing.TB, argv ...string) {
	t.Helper()
	run(t, append([]string{"tgtadm", "-C", tg.control, "--lld", "iscsi"}, argv...)...)
}

// data is what Cinder's iSCSI drivers say.
func (tg *target) data() map[string]any {
	return map[string]any{
		"target_discovered": false,
		"target_portal":     "127.0.0.1:" + tg.port,
		"target_iqn":        tg.iqn,
		"target_lun":        float64(1),
		"auth_method":       "CHAP",
		"auth_username":     chapUser,
		"auth_password":     chapPassword,
		"access_mode":       "rw",
		"encrypted":         false,
	}
}

func TestISCSI(t *testing.T) {
	h := newHost(t, Userspace)
	tg := newTarget(t, 64*MiB)
	req := request("i1", "iscsi", tg.data())
	dev := connect(t, h, req)
	useVolume(t, dev.Path)
	// Nobody on this host can read the password.
	pid := daemonPID(t, dev)
	for _, f := range []string{fmt.Sprintf("/proc/%d/cmdline", pid), fmt.Sprintf("/proc/%d/environ", pid), filepath.Dir(dev.Path) + "/log"} {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), "sesame") {
			t.Errorf("the password is in %s", f)
		}
	}
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
	if !hasExt4(t, tg.img) {
		t.Error("what was written is not on the target")
	}
}

func TestISCSIWrongPassword(t *testing.T) {
	h := newHost(t, Userspace)
	tg := newTarget(t, 16*MiB)
	data := tg.data()
	data["auth_password"] = "wrong-and-secret"
	req := request("i2", "iscsi", data)
	dev, err := h.Prepare(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Connect(t.Context(), req, dev)
	if err == nil || !strings.Contains(err.Error(), tg.iqn) || strings.Contains(err.Error(), "wrong-and-secret") {
		t.Errorf("got %v", err)
	}
}

// TestISCSIMultipath holds that the first portal that answers is taken, an IPv6
// one too.
func TestISCSIMultipath(t *testing.T) {
	h := newHost(t, Userspace)
	tg := newTarget(t, 16*MiB)
	data := tg.data()
	data["target_portals"] = []any{"127.0.0.1:" + freePort(t), "[::1]:" + tg.port}
	data["target_iqns"] = []any{tg.iqn, tg.iqn}
	data["target_luns"] = []any{1, 1}
	dev := connect(t, h, request("i3", "iscsi", data))
	if fi, err := os.Stat(dev.Path); err != nil || fi.Size() != 16*MiB {
		t.Errorf("%v, %v", fi, err)
	}
}

// TestISCSISilent holds that a target that stops to answer neither hangs the
// disconnect nor loses what was written.
func TestISCSISilent(t *testing.T) {
	h := newHost(t, Userspace)
	tg := newTarget(t, 16*MiB)
	dev := connect(t, h, request("i4", "iscsi", tg.data()))
	f, err := os.OpenFile(dev.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("precious"), 4096); err != nil {
		t.Fatal(err)
	}
	defer f.Close() // not before, as closing flushes
	if err := tg.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	err = h.Disconnect(ctx, dev)
	if err == nil || !strings.Contains(err.Error(), "bring the storage back") {
		t.Errorf("got %v", err)
	}
	// A program that is started closes what it inherits, and waits there for the storage: so
	// that the command can go on, it holds no file of the volume's itself.
	open := 0
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); to == dev.Path {
			open++
		}
	}
	if open != 1 {
		t.Errorf("the volume is open %d times, and not just here", open)
	}
	tg.cmd.Process.Signal(unix.SIGCONT)
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(tg.img)
	if err != nil || string(b[4096:4104]) != "precious" {
		t.Errorf("read back %q, %v", b[4096:4104], err)
	}
}

func TestISCSITargets(t *testing.T) {
	for name, c := range map[string]struct {
		data map[string]any
		want []iscsiTarget
	}{
		"single":        {map[string]any{"target_portal": "10.0.0.1:3260", "target_iqn": "iqn.x:y", "target_lun": 2.0}, []iscsiTarget{{"10.0.0.1:3260", "iqn.x:y", 2}}},
		"default port":  {map[string]any{"target_portal": "10.0.0.1", "target_iqn": "iqn.x:y", "target_lun": "3"}, []iscsiTarget{{"10.0.0.1:3260", "iqn.x:y", 3}}},
		"ipv6":          {map[string]any{"target_portal": "[fd00::1]:3261", "target_iqn": "iqn.x:y"}, []iscsiTarget{{"[fd00::1]:3261", "iqn.x:y", 0}}},
		"ipv6, no port": {map[string]any{"target_portal": "[fd00::1]", "target_iqn": "iqn.x:y"}, []iscsiTarget{{"[fd00::1]:3260", "iqn.x:y", 0}}},
		"lists win": {map[string]any{
			"target_portal": "10.0.0.9:1", "target_iqn": "iqn.x:z", "target_lun": 9,
			"target_portals": []any{"10.0.0.1:1", "10.0.0.2:2"}, "target_iqns": []any{"iqn.x:a", "iqn.x:b"}, "target_luns": []any{1.0, 2.0},
		}, []iscsiTarget{{"10.0.0.1:1", "iqn.x:a", 1}, {"10.0.0.2:2", "iqn.x:b", 2}}},
		"lists with one lun": {map[string]any{
			"target_lun": 4, "target_portals": []any{"10.0.0.1:1", "10.0.0.2:2"}, "target_iqns": []any{"iqn.x:a", "iqn.x:a"},
		}, []iscsiTarget{{"10.0.0.1:1", "iqn.x:a", 4}, {"10.0.0.2:2", "iqn.x:a", 4}}},
	} {
		got, err := iscsiTargets(c.data)
		if err != nil || cmp.Diff(c.want, got) != "" {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func FuzzISCSITargets(f *testing.F) {
	f.Add("10.0.0.1:3260", "iqn.2010-10.org.openstack:volume-1", "1")
	f.Add("[fd00::1]", "-T", "-1")
	f.Fuzz(func(t *testing.T, portal, iqn, lun string) {
		got, err := iscsiTargets(map[string]any{"target_portal": portal, "target_iqn": iqn, "target_lun": lun})
		if err != nil {
			return
		}
		g := got[0]
		if strings.HasPrefix(g.Portal, "-") || strings.HasPrefix(g.IQN, "-") || strings.Contains(g.IQN, "/") || g.LUN < 0 {
			t.Errorf("let through %+v", g)
		}
		if _, _, err := net.SplitHostPort(g.Portal); err != nil {
			t.Error(err)
		}
	})
}
