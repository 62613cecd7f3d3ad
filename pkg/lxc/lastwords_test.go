package lxc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// What an init prints right before it ends is in the log, also when libvirt's controller
// comes to read it after the end only, and when the process that keeps the console comes
// up after it.
func TestLastWords(t *testing.T) {
	h := open(t)
	for name, late := range map[string]bool{"slow controller": false, "late keeper": true} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, "")
			cfg.Init, cfg.InitArgs = "/bin/sh", []string{"-c", "until [ -e /go ]; do /bin/sleep 0.1; done; stty -echo olcuc ixon; /bin/seq 500; exit 3"}
			define(t, h, cfg)
			up(t, h, cfg)
			info, err := h.State(limited(t), cfg.UUID)
			must(t, err)
			terminal, err := console.Open(info.PID)
			must(t, err)
			defer terminal.Close()
			var init int
			must(t, h.withInit(limited(t), cfg.UUID, func(p *initProc) error {
				init = p.pid
				return terminal.HoldInit(p.pid)
			}))
			dir := t.TempDir()
			o := console.Options{
				LogPath: filepath.Join(dir, "log"), SocketPath: filepath.Join(dir, "sock"),
				Ended: []string{"/bin/sh", "-c", "echo $0 $* >" + dir + "/ended"},
			}
			ends := func() {
				must(t, unix.Kill(info.PID, unix.SIGSTOP))
				must(t, os.WriteFile(cfg.Root+"/go", nil, 0o644))
				for ended := false; !ended; {
					must(t, wait.For(limited(t), poll))
					stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", init))
					must(t, err)
					ended = strings.Contains(string(stat), ") Z ")
				}
				must(t, unix.Kill(info.PID, unix.SIGCONT))
			}
			if late {
				ends()
			}
			keeper, err := console.Start([]string{os.Args[0], "console-serve"}, terminal, o)
			must(t, err)
			if !late {
				for status := []byte("TracerPid:\t0\n"); bytes.Contains(status, []byte("TracerPid:\t0\n")); must(t, wait.For(limited(t), poll)) {
					status, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", info.PID))
					must(t, err)
				}
				ends()
			}
			for keeper.Alive() {
				must(t, wait.For(limited(t), poll))
			}
			var want, got strings.Builder
			for i := range 500 {
				fmt.Fprintf(&want, "%d\n", i+1)
			}
			must(t, console.ReadLog(o.LogPath, 0, &got))
			if said := strings.ReplaceAll(got.String(), "\r", ""); said != want.String() {
				t.Errorf("of %d bytes %d are in the log, the last are %q", want.Len(), len(said), said[max(0, len(said)-40):])
			}
			if said, err := os.ReadFile(filepath.Join(dir, "ended")); strings.TrimSpace(string(said)) != "--status 768" {
				t.Errorf("%q is handed on: %v", said, err)
			}
		})
	}
}
