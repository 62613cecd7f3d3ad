package proc

import (
	"errors"
	"os"
	"os/exec"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestInMounts: what it runs sees another's mounts, and nothing else of this process ever
// does, the thread that /proc/self is of least.
func TestInMounts(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("unshare", "--mount", "sh", "-ec", `mount -t tmpfs none "$1"; touch "$1/theirs"; echo; exec sleep 1000`, "sh", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	defer end()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	pidfd, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				err := InMounts(pidfd, func() error { return unix.Access(dir+"/theirs", unix.F_OK) })
				if err != nil {
					t.Errorf("theirs cannot be seen: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
	if now, err := os.Readlink("/proc/self/ns/mnt"); now != own {
		t.Errorf("this process is in %s, and was in %s: %v", now, own, err)
	}
	if _, err := os.Lstat(dir + "/theirs"); err == nil {
		t.Error("theirs is here")
	}
	want := errors.New("why")
	if err := InMounts(pidfd, func() error { return want }); err != want {
		t.Error(err)
	}
	end()
	if err := InMounts(pidfd, func() error { return nil }); err != os.ErrProcessDone {
		t.Errorf("of a process that has ended: %v", err)
	}
}
