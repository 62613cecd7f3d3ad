package console

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
)

const freeze, thaw = 0xc0045877, 0xc0045878 // FIFREEZE, FITHAW

// freezeGuarded is the other program of TestMain: it freezes a filesystem, says so, and waits.
func freezeGuarded(socket, pid, path string) error {
	var number int
	if _, err := fmt.Sscan(pid, &number); err != nil {
		return err
	}
	p, err := proc.Of(number)
	if err != nil {
		return err
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	if _, err := Guard(context.Background(), socket, p, dir); err != nil {
		return err
	}
	if err := unix.IoctlSetInt(int(dir.Fd()), freeze, 0); err != nil {
		return err
	}
	fmt.Println("frozen")
	select {}
}

// A filesystem that somebody froze and left so is thawed: when they are killed, when the
// container ends, and after ten seconds at the latest.
func TestGuard(t *testing.T) {
	for what, end := range map[string]struct {
		do     func(w *world, froze *exec.Cmd)
		within time.Duration
	}{
		"killed":              {func(_ *world, froze *exec.Cmd) { froze.Process.Kill() }, 5 * time.Second},
		"the container ended": {func(w *world, _ *exec.Cmd) { w.end() }, 5 * time.Second},
		"stopped":             {func(_ *world, froze *exec.Cmd) { froze.Process.Signal(unix.SIGSTOP) }, FreezeLimit + 5*time.Second},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			disk := smallDisk(t, "ext4")
			w := newWorld(t, "sleep 1000")
			w.start(t)
			froze := exec.Command(os.Args[0], "freeze", w.SocketPath, fmt.Sprint(w.process.PID), disk)
			out, err := froze.StdoutPipe()
			must(t, err)
			froze.Stderr = os.Stderr
			must(t, froze.Start())
			t.Cleanup(func() { froze.Process.Kill(); froze.Wait() })
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "frozen\n" {
				t.Fatalf("it says %q, %v", line, err)
			}
			begun, written := time.Now(), make(chan error, 1)
			go func() { written <- os.WriteFile(filepath.Join(disk, "file"), []byte("content"), 0o600) }()
			// What the container says is nothing to the guard, however much it is.
			w.print(t, strings.Repeat("said meanwhile\n", 100_000))
			select {
			case err := <-written:
				t.Fatalf("it is not frozen: %v", err)
			case <-time.After(500 * time.Millisecond):
			}
			end.do(w, froze)
			select {
			case err := <-written:
				must(t, err)
				t.Logf("thawed after %v", time.Since(begun))
			case <-time.After(end.within):
				dir, err := os.Open(disk)
				must(t, err)
				unix.IoctlSetInt(int(dir.Fd()), thaw, 0)
				dir.Close()
				t.Fatal("it is still frozen")
			}
		})
	}
}

// Who thaws it by themselves ends the guard, which leaves nothing open; and a process that
// does not know of it is found out.
func TestGuardReleased(t *testing.T) {
	disk := smallDisk(t, "ext4")
	w := newWorld(t, "sleep 1000")
	w.start(t)
	dir, err := os.Open(disk)
	must(t, err)
	defer dir.Close()
	release, err := Guard(t.Context(), w.SocketPath, w.process, dir)
	must(t, err)
	if !hasOpen(w.process, dir) {
		t.Error("the process does not have it")
	}
	must(t, unix.IoctlSetInt(int(dir.Fd()), freeze, 0))
	must(t, unix.IoctlSetInt(int(dir.Fd()), thaw, 0))
	release()
	if hasOpen(w.process, dir) {
		t.Error("the process has it still")
	}
	self, err := proc.Of(os.Getppid()) // it is no such process
	must(t, err)
	if _, err := Guard(t.Context(), w.SocketPath, self, dir); err == nil || !strings.Contains(err.Error(), "reboot the instance") {
		t.Errorf("one that does not do it: %v", err)
	}
	if _, err := Guard(t.Context(), w.SocketPath+"-none", w.process, dir); err == nil {
		t.Error("without a socket it passes")
	}
}
