package lxc

import (
	"context"
	"github.com/lxcboot/lxcboot/pkg/wait"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// looks waits until Look says what ok wants.
func looks(t *testing.T, name string, ok func(Live) bool) Live {
	t.Helper()
	ctx, cancel := context.WithTimeout(limited(t), 20*time.Second)
	defer cancel()
	for {
		live, err := Look(name)
		must(t, err)
		if ok(live) {
			return live
		}
		if err := wait.For(ctx, time.Millisecond); err != nil {
			t.Fatalf("%s: %+v: %v", name, live, err)
		}
	}
}

func TestLook(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	define(t, h, cfg)
	none := func(when string) {
		t.Helper()
		if live, err := Look(cfg.Name); live != (Live{}) || err != nil {
			t.Errorf("%s: %+v, %v", when, live, err)
		}
	}
	none("defined")

	// While it is started: what is seen is what libvirt says after it.
	cfg.mount(t)
	started := make(chan error, 1)
	go func() { _, err := h.Start(limited(t), cfg.UUID); started <- err }()
	starting := looks(t, cfg.Name, func(l Live) bool { return l.Controller != 0 })
	must(t, <-started)
	info, err := h.State(limited(t), cfg.UUID)
	must(t, err)
	if live, err := Look(cfg.Name); err != nil || live != (Live{info.PID, info.InitPID}) || starting.Controller != live.Controller {
		t.Errorf("%+v while it started, %+v afterwards, and libvirt says %+v: %v", starting, live, info, err)
	}
	if live, err := Look(cfg.Name[1:]); live != (Live{}) || err != nil {
		t.Errorf("a name that ends like it: %+v, %v", live, err)
	}

	// Its init is gone, and its controller has not seen it.
	must(t, unix.Kill(info.PID, unix.SIGSTOP))
	must(t, unix.Kill(info.InitPID, unix.SIGKILL))
	looks(t, cfg.Name, func(l Live) bool { return l == Live{Controller: info.PID} })
	must(t, unix.Kill(info.PID, unix.SIGCONT)) // which it may never do, so soon after its start
	must(t, h.Destroy(limited(t), cfg.UUID))
	none("ended")

	// Killed, the controller leaves libvirtd to find that out.
	cfg.mount(t)
	again, err := h.Start(limited(t), cfg.UUID)
	must(t, err)
	must(t, unix.Kill(again.PID, unix.SIGKILL))
	looks(t, cfg.Name, func(l Live) bool { return l == Live{} })
	must(t, h.Destroy(limited(t), cfg.UUID))
	none("destroyed")
}

// The number in a pid file may be another process's by now.
func TestLookStalePidFile(t *testing.T) {
	h := open(t)
	other := config(t, "")
	define(t, h, other)
	other.mount(t)
	info, err := h.Start(limited(t), other.UUID)
	must(t, err)
	name := other.Name + "-stale"
	file := filepath.Join(pidDir, name+".pid")
	t.Cleanup(func() { os.Remove(file) })
	// It even calls itself what a controller is called.
	foreign := exec.Command("/bin/sh", "-c", "read x", "--name", name)
	foreign.Args[0] = "/usr/lib/libvirt/libvirt_lxc"
	in, err := foreign.StdinPipe()
	must(t, err)
	must(t, foreign.Start())
	defer func() { in.Close(); foreign.Wait() }()
	for what, pid := range map[string]int{"a foreign process": foreign.Process.Pid, "another container's controller": info.PID, "this process": os.Getpid(), "nobody": 0, "init": 1} {
		must(t, os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644))
		if live, err := Look(name); live != (Live{}) || err != nil {
			t.Errorf("%s: %+v, %v", what, live, err)
		}
	}
	if live, err := Look(other.Name); err != nil || live.Controller != info.PID || live.Init == 0 {
		t.Errorf("%+v, %v", live, err)
	}
}

// privateLibvirtd starts a libvirtd in a mount namespace of its own, and gives its pid.
func privateLibvirtd(t *testing.T) (*Host, int) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lxcboot-ut-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	tool := func(action string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "../../test/setup/private-libvirtd", action, dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", action, err, out)
		}
	}
	t.Cleanup(func() { tool("stop") })
	tool("start")
	text, err := os.ReadFile(dir + "/pid")
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(t, err)
	return dialTo(t, "lxc:///?socket="+dir+"/sock/libvirt-sock"), pid
}

// A libvirtd in a mount namespace of its own keeps its pid files where they are not seen.
func TestLookPrivateLibvirtd(t *testing.T) {
	h, _ := privateLibvirtd(t)
	cfg := config(t, "")
	define(t, h, cfg)
	up(t, h, cfg)
	info, err := h.State(limited(t), cfg.UUID)
	must(t, err)
	if _, err := os.Lstat(filepath.Join(pidDir, cfg.Name+".pid")); err == nil {
		t.Fatal("its pid file is seen here")
	}
	if live, err := Look(cfg.Name); err != nil || live != (Live{info.PID, info.InitPID}) {
		t.Errorf("%+v, %v, and libvirt says %+v", live, err, info)
	}
	must(t, h.Destroy(limited(t), cfg.UUID))
	if live, err := Look(cfg.Name); live != (Live{}) || err != nil {
		t.Errorf("destroyed: %+v, %v", live, err)
	}
}

func BenchmarkLook(b *testing.B) {
	for b.Loop() {
		if _, err := Look("lxcboot-none"); err != nil {
			b.Fatal(err)
		}
	}
}
