package connector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

func TestNBD(t *testing.T) {
	for _, kind := range []string{"tcp", "unix"} {
		t.Run(kind, func(t *testing.T) {
			h := newHost(t, Auto)
			img := sparse(t, t.TempDir()+"/img", 64*MiB)
			data := map[string]any{"export": "vol,1"}
			argv := []string{"qemu-nbd", "--persistent", "--format=raw", "--export-name=vol,1", img}
			if kind == "tcp" {
				port := freePort(t)
				data["host"], data["port"] = "127.0.0.1", port
				background(t, append(argv, "--bind=127.0.0.1", "--port="+port)...)
				waitPort(t, "127.0.0.1:"+port)
			} else {
				dir, err := os.MkdirTemp("", "nbd")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { os.RemoveAll(dir) })
				data["path"] = dir + "/s"
				background(t, append(argv, "--socket="+dir+"/s")...)
				for range 3000 {
					if _, err := os.Stat(dir + "/s"); err == nil {
						break
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
			req := request("n-"+kind, "nbd", data)
			dev := connect(t, h, req)
			if dev.Transport != Userspace {
				t.Errorf("transport %s", dev.Transport)
			}
			useVolume(t, dev.Path)
			if err := h.Disconnect(t.Context(), dev); err != nil {
				t.Fatal(err)
			}
			if !hasExt4(t, img) {
				t.Error("what was written is not on the server")
			}
			// Read-only: the same content, which nobody can write.
			req.Connection.ReadOnly = true
			dev = connect(t, h, req)
			if !hasExt4(t, dev.Path) {
				t.Error("what was written is not there after connecting again")
			}
			if f, err := os.OpenFile(dev.Path, os.O_RDWR, 0); err == nil {
				if _, err := f.WriteAt([]byte("x"), 0); err == nil {
					t.Error("a read-only volume was written")
				}
				f.Close()
			}
			if err := h.Disconnect(t.Context(), dev); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// nbdVolume serves a new volume by an nbd server of the test.
func nbdVolume(t testing.TB, size int64) (data map[string]any, img string) {
	t.Helper()
	img = sparse(t, t.TempDir()+"/img", size)
	port := freePort(t)
	background(t, "qemu-nbd", "--persistent", "--format=raw", "--bind=127.0.0.1", "--port="+port, img)
	waitPort(t, "127.0.0.1:"+port)
	return map[string]any{"host": "127.0.0.1", "port": port}, img
}

// daemonPID finds the daemon that serves the device.
func daemonPID(t testing.TB, dev Device) int {
	t.Helper()
	pid, pidfd, err := daemon{dir: filepath.Dir(dev.Path)}.process()
	if err != nil || pidfd == nil {
		t.Fatalf("no daemon of %s: %v", dev.Path, err)
	}
	defer pidfd.Close()
	return pid
}

func TestConnectAgain(t *testing.T) {
	h := newHost(t, Userspace)
	data, _ := nbdVolume(t, 16*MiB)
	req := request("c1", "nbd", data)
	dev := connect(t, h, req)
	pid := daemonPID(t, dev)
	var st userspaceState
	if err := decode(dev, &st); err != nil || st.PID != pid {
		t.Errorf("recorded %d, running %d, %v", st.PID, pid, err)
	}
	// It is in a session of its own, so that it outlives the command's terminal.
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d, %v", sid, err)
	}
	again, err := h.Connect(t.Context(), req, dev)
	if err != nil || again.Path != dev.Path || daemonPID(t, again) != pid {
		t.Errorf("connecting again gave %+v, %v", again, err)
	}
	// Dead: made anew.
	unix.Kill(pid, unix.SIGKILL)
	again, err = h.Connect(t.Context(), req, dev)
	if err != nil {
		t.Fatal(err)
	}
	if daemonPID(t, again) == pid {
		t.Error("no new daemon")
	}
	if err := os.WriteFile(again.Path, []byte("x"), 0); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := h.Disconnect(t.Context(), again); err != nil {
			t.Error(err)
		}
	}
}

// TestDaemonKilled holds that a killed daemon means I/O errors, and no hang, and
// that all can be taken away after it.
func TestDaemonKilled(t *testing.T) {
	h := newHost(t, Userspace)
	data, _ := nbdVolume(t, 64*MiB)
	dev := connect(t, h, request("k1", "nbd", data))
	loop := losetup(t, dev.Path)
	run(t, "mkfs.ext4", "-q", loop)
	dir := t.TempDir()
	run(t, "mount", loop, dir)
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	unix.Kill(daemonPID(t, dev), unix.SIGKILL)
	start := time.Now()
	f, err := os.Create(dir + "/file")
	if err == nil {
		f.Write(make([]byte, MiB))
		err = f.Sync()
		f.Close()
	}
	if err == nil {
		t.Error("writing to a dead volume succeeded")
	}
	unix.Unmount(dir, 0) // its error does not matter: it must come back
	exec.Command("losetup", "-d", loop).Run()
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestBusy(t *testing.T) {
	h := newHost(t, Userspace)
	data, _ := nbdVolume(t, 16*MiB)
	dev := connect(t, h, request("b1", "nbd", data))
	loop := losetup(t, dev.Path)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := h.Disconnect(ctx, dev)
	if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), loop) {
		t.Errorf("got %v", err)
	}
	// A loop device that goes in a moment is waited for.
	go func() {
		time.Sleep(300 * time.Millisecond)
		exec.Command("losetup", "-d", loop).Run()
	}()
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Error(err)
	}
}

// TestHalfMade holds that Disconnect cleans up whatever a crash leaves.
func TestHalfMade(t *testing.T) {
	h := newHost(t, Userspace)
	data, _ := nbdVolume(t, 16*MiB)
	for _, stage := range []string{"prepared", "directory", "started", "no pid file"} {
		t.Run(stage, func(t *testing.T) {
			req := request("h1", "nbd", data)
			dev, err := h.Prepare(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			d := h.daemon("h1")
			if stage != "prepared" {
				os.MkdirAll(d.dir, 0o700)
				os.WriteFile(d.path(), nil, 0o600)
			}
			if stage == "started" || stage == "no pid file" {
				_, q, err := d.start(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				q.Close()
			}
			if stage == "no pid file" {
				os.Remove(filepath.Join(d.dir, pidFile))
			}
			if err := h.Disconnect(t.Context(), dev); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(d.dir); err == nil {
				t.Error("the directory is left")
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	h := newHost(t, Userspace)
	addr := "127.0.0.1:" + freePort(t)
	host, port, _ := net.SplitHostPort(addr)
	for name, req := range map[string]Request{
		"nbd":   request("u1", "nbd", map[string]any{"host": host, "port": port}),
		"iscsi": request("u2", "iscsi", map[string]any{"target_portal": addr, "target_iqn": "iqn.2026-01.x:y", "target_lun": 1}),
		"rbd":   request("u3", "rbd", map[string]any{"name": "p/i", "hosts": []any{host}, "ports": []any{port}, "keyring": testKey}),
	} {
		dev, err := h.Prepare(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.Connect(t.Context(), req, dev)
		if !errors.Is(err, volume.ErrUnreachable) || !strings.Contains(err.Error(), addr) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Under systemd a daemon has a scope of its own, named by the attachment and the start, and
// stopped after the unit that ends the containers: it serves what they have mounted. The test
// runs once more where there seems to be one.
func TestDaemonScope(t *testing.T) {
	const again = "LXCBOOT_TEST_SYSTEMD"
	dir := os.Getenv(again)
	if dir == "" {
		dir = t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "systemd-run"), []byte(`#!/bin/sh
printf '%s\n' "$@" >"$0.args"
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
`), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec "$0" -test.run '^TestDaemonScope$'`, os.Args[0])
		cmd.Env = append(os.Environ(), again+"="+dir, "PATH="+dir+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	h := newHost(t, Auto)
	h.o.Warn = func(err error) { t.Errorf("a warning: %v", err) }
	data, _ := nbdVolume(t, 64*MiB)
	dev := connect(t, h, request("scoped", "nbd", data))
	args, err := os.ReadFile(filepath.Join(dir, "systemd-run.args"))
	if err != nil {
		t.Fatal(err)
	}
	unit := regexp.MustCompile(`(?m)^--unit=lxcboot-volume-` + regexp.QuoteMeta(filepath.Base(filepath.Dir(dev.Path))) + `-\d+\.scope$`)
	if !unit.Match(args) || !strings.Contains(string(args), "\n--property=Before=lxcboot.service\n") {
		t.Errorf("systemd-run is given\n%s", args)
	}
}

// A daemon has no descriptor and no control group of the command that started it.
func TestDaemonIsApart(t *testing.T) {
	h := newHost(t, Auto)
	h.o.Warn = func(err error) { t.Errorf("a warning: %v", err) }
	lock, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := unix.FcntlInt(lock.Fd(), unix.F_SETFD, 0); err != nil { // as a shell's 9> is
		t.Fatal(err)
	}
	if err := host.CloseOnExec(); err != nil { // as each command does at first
		t.Fatal(err)
	}
	data, _ := nbdVolume(t, 64*MiB)
	dev := connect(t, h, request("apart", "nbd", data))
	pid, pidfd, err := daemon{dir: filepath.Dir(dev.Path)}.process()
	if err != nil || pidfd == nil {
		t.Fatal(pid, err)
	}
	defer pidfd.Close()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(links) == 0 {
		t.Fatal(links, err)
	}
	for _, l := range links {
		if to, _ := os.Readlink(l); to == lock.Name() {
			t.Error("the daemon holds what its caller had open")
		}
	}
	its, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	tops, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(ours)) {
		path := strings.TrimSpace(line[strings.LastIndexByte(line, ':')+1:])
		top := slices.ContainsFunc(tops, func(m *mountinfo.Info) bool { return m.Root == path })
		if !top && strings.Contains(string(its), line) {
			t.Errorf("the daemon is in its caller's group %s", line)
		}
	}
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
}
