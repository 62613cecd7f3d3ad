//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// viewed is a world with an lxcfs of its own.
type viewed struct {
	*world
	dir   string
	lxcfs *exec.Cmd
	began time.Time
}

func (v *viewed) start() {
	v.t.Helper()
	v.lxcfs = exec.Command("lxcfs", "-f", "-l", "-p", v.dir+".pid", v.dir)
	if err := v.lxcfs.Start(); err != nil {
		v.t.Fatal(err)
	}
	for until := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(v.dir + "/proc/meminfo"); err == nil {
			return
		}
		if time.Now().After(until) {
			v.t.Fatal("lxcfs does not come up")
		}
	}
}

// end ends lxcfs, which unmounts what it has, unless it is killed.
func (v *viewed) end(sig os.Signal) {
	_ = v.lxcfs.Process.Signal(sig)
	_ = v.lxcfs.Wait()
}

func (v *viewed) do(args ...string) string {
	v.t.Helper()
	code, out := v.command("lxcboot", []string{"LXCBOOT_LXCFS=" + v.dir}, args...)
	if code != 0 {
		v.t.Fatalf("%s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// memory is the first line of what the container sees of its memory, which must be able
// to seek: Debian 12's tools do.
func (v *viewed) memory() string {
	v.t.Helper()
	init := strings.TrimSpace(v.do("show", "NAME", "-f", "value", "-c", "init_pid"))
	f, err := os.Open(filepath.Join("/proc", init, "root/proc/meminfo"))
	if err != nil {
		v.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		v.t.Errorf("its meminfo: %v", err)
	}
	line, _, _ := strings.Cut(v.do("exec", "NAME", "--", "cat", "/proc/meminfo"), "\n")
	return line
}

const own = "MemTotal:         524288 kB" // m1.tiny

func (v *viewed) seesOwn() {
	v.t.Helper()
	if got := v.memory(); got != own {
		v.t.Errorf("of its memory it sees %q", got)
	}
	var up float64
	if _, err := fmt.Sscan(v.do("exec", "NAME", "--", "cat", "/proc/uptime"), &up); err != nil || up > time.Since(v.began).Seconds()+1 {
		v.t.Errorf("it is up for %v seconds: %v", up, err)
	}
}

func (v *viewed) seesHosts() {
	v.t.Helper()
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		v.t.Fatal(err)
	}
	if line, _, _ := strings.Cut(string(data), "\n"); v.memory() != line {
		v.t.Errorf("it sees %q, and the host %q", v.memory(), line)
	}
}

// repaired says, once, that it has changed what the container sees.
func (v *viewed) repaired() {
	v.t.Helper()
	if out := v.do("repair"); !strings.Contains(out, "lxcfs") {
		v.t.Errorf("repair says %q", out)
	}
	if out := v.do("repair"); out != "" {
		v.t.Errorf("repair says once more %q", out)
	}
}

// TestViews: a container sees its own memory, load and uptime where lxcfs runs, and the
// host's elsewhere; an lxcfs that ends, is killed, restarts or stands still leaves no
// container with files that cannot be read.
func TestViews(t *testing.T) {
	t.Parallel()
	count := newTally(t, "ends of lxcfs")
	v := &viewed{world: newWorld(t, "views", count), began: time.Now()}
	v.dir = filepath.Join(v.work, "lxcfs")
	if err := os.Mkdir(v.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	v.do(smallArgs...)
	v.seesHosts()
	v.do("delete", "NAME")

	v.start()
	t.Cleanup(func() {
		v.end(unix.SIGKILL)
		_ = unix.Unmount(v.dir, unix.MNT_DETACH)
	})
	v.do(smallArgs...)
	v.seesOwn()
	init := strings.TrimSpace(v.do("show", "NAME", "-f", "value", "-c", "init_pid"))
	mounts, err := os.ReadFile("/proc/" + init + "/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for line := range strings.Lines(string(mounts)) {
		if !strings.Contains(line, "fuse.lxcfs") {
			continue
		}
		shown++
		if strings.Contains(line, "shared:") || !strings.Contains(line, " ro,nosuid,nodev,noexec") {
			t.Errorf("a mount that the container could do harm with: %s", line)
		}
	}
	if shown < 7 {
		t.Errorf("the container has %d files of lxcfs", shown)
	}

	count.fault()
	v.end(unix.SIGTERM)
	if code, out := v.run("exec", "NAME", "--", "cat", "/proc/meminfo"); code == 0 {
		t.Errorf("an lxcfs that has ended answers: %s", out)
	}
	// The unit says that lxcfs is started before that has mounted anything; the list gives
	// one that would not wait for it the time to be wrong.
	started := make(chan int)
	go func() {
		code, _ := v.command("lxcboot", []string{"LXCBOOT_LXCFS=" + v.dir}, "views", "--started")
		started <- code
	}()
	v.do("list")
	v.start()
	if code := <-started; code != 0 {
		t.Errorf("views --started ends with %d", code)
	}
	v.seesOwn()

	count.fault()
	v.end(unix.SIGKILL)
	v.repaired()
	v.seesHosts()
	if err := unix.Unmount(v.dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	v.start()
	v.repaired()
	v.seesOwn()
	v.do("delete", "NAME")

	count.fault()
	_ = v.lxcfs.Process.Signal(unix.SIGSTOP)
	if out := v.do(smallArgs...); !strings.Contains(out, "does not answer") {
		t.Errorf("nothing is said of an lxcfs that stands still: %s", out)
	}
	v.seesHosts()
	_, out := v.command("lxcboot", []string{"LXCBOOT_LXCFS=" + v.dir}, "doctor", "-f", "value")
	if !strings.Contains(out, "does not answer") || !strings.Contains(out, "restart lxcfs") {
		t.Errorf("doctor says nothing of it: %s", out)
	}
	_ = v.lxcfs.Process.Signal(unix.SIGCONT)
	v.repaired()
	v.seesOwn()
	v.do("delete", "NAME")
	v.end(unix.SIGTERM)
	v.asBefore()
}
