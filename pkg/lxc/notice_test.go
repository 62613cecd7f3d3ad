package lxc

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// A container has ended when its init has, whether libvirt noticed or not.
func TestEndUnnoticed(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	define(t, h, cfg)
	up(t, h, cfg)
	info, err := h.State(limited(t), cfg.UUID)
	must(t, err)
	if !watched(cfg.Name) {
		t.Error("libvirtd is not connected to the controller")
	}
	must(t, unix.Kill(info.PID, unix.SIGSTOP)) // now it notices nothing
	init, err := findInit(info.PID)
	must(t, err)
	defer init.Close()
	must(t, init.signal(unix.SIGKILL))
	for proc.Alive(init.pidfd) {
		must(t, wait.For(limited(t), poll))
	}
	ended := func(now Info, err error) {
		t.Helper()
		must(t, err)
		if now.State != Shutoff || now.Reason != Unnoticed || now.Active() || now.ID != info.ID || now.Name != info.Name {
			t.Errorf("ended without notice: %+v", now)
		}
	}
	ended(h.State(limited(t), cfg.UUID))
	ended(h.ByName(limited(t), cfg.Name))
	up(t, h, cfg)
	now, err := h.State(limited(t), cfg.UUID)
	must(t, err)
	if now.State != Running || now.InitPID == 0 || now.InitPID == info.InitPID || !watched(cfg.Name) {
		t.Errorf("started again: %+v", now)
	}
}

// Containers that start at the same time are all watched by libvirtd.
func TestStartsAtOnce(t *testing.T) {
	h := open(t)
	var all sync.WaitGroup
	for range 4 {
		cfg := config(t, "")
		define(t, h, cfg)
		all.Go(func() {
			for range 8 {
				if err := tryUp(t, h, cfg); err != nil {
					t.Error(err)
				}
				if !watched(cfg.Name) {
					t.Errorf("%s runs unwatched", cfg.Name)
				}
				if info, err := h.State(limited(t), cfg.UUID); err != nil || !heard(limited(t), info) {
					t.Errorf("libvirtd does not know the init of %s: %v", cfg.Name, err)
				}
				if err := h.Destroy(limited(t), cfg.UUID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// A container whose init libvirtd does not come to know is started anew.
func TestInitUnheard(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	define(t, h, cfg)
	cfg.mount(t)
	dir := t.TempDir()
	writeFile(t, dir+"/"+cfg.Name+".xml", "<domstatus>\n  <init pid='0'/>\n</domstatus>\n")
	defer func(dir string, limit time.Duration) { statusDir, heardLimit = dir, limit }(statusDir, heardLimit)
	statusDir, heardLimit = dir, 200*time.Millisecond
	done := make(chan error, 1)
	go func() { _, err := h.Start(limited(t), cfg.UUID); done <- err }()
	lives := map[int]bool{}
	for ctx := limited(t); ; must(t, wait.For(ctx, time.Millisecond)) {
		if live, err := Look(cfg.Name); err == nil && live.Controller != 0 {
			lives[live.Controller] = true
		}
		select {
		case err := <-done:
			if err != nil || len(lives) != startTries {
				t.Errorf("it was started %d times: %v", len(lives), err)
			}
			// One that runs is left alone, whatever libvirt knows of it.
			info, err := h.Start(limited(t), cfg.UUID)
			if err != nil || !lives[info.PID] {
				t.Errorf("a running container was started anew: %+v, %v", info, err)
			}
			return
		default:
		}
	}
}

func TestConnected(t *testing.T) {
	const head = "Num       RefCount Protocol Flags    Type St Inode Path\n"
	const listen = "0000000091f6317b: 00000002 00000000 00010000 0001 01 3003134 /run/libvirt/lxc/web1.sock\n"
	const conn = "000000009cdf2abe: 00000003 00000000 00000000 0001 03 3004021 /run/libvirt/lxc/web1.sock\n"
	const other = "00000000b18bee67: 00000003 00000000 00000000 0001 03 3004303 /run/libvirt/lxc/my-web1.sock\n"
	const unnamed = "00000000b18bee68: 00000003 00000000 00000000 0001 03 3004304\n"
	for name, c := range map[string]struct {
		sockets string
		want    bool
	}{
		"nothing is seen":      {head + other + unnamed, true},
		"listening alone":      {head + listen + other + unnamed, false},
		"connected":            {head + conn + listen, true},
		"connected, listed so": {head + listen + conn, true},
		"empty":                {"", true},
	} {
		if got := connected(c.sockets, "/lxc/web1.sock"); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
