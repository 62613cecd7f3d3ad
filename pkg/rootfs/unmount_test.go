package rootfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// TestLastUser keeps a mount alive in another mount namespace: the loop device goes
// with that.
func TestLastUser(t *testing.T) {
	path := format(t, "ext4")
	target, _ := mountAt(t, path, MountOptions{})
	user := exec.Command("unshare", "--mount", "--propagation", "private", "cat")
	stdin, err := user.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = user.Process.Kill(); _ = user.Wait() })
	inside := fmt.Sprintf("/proc/%d/mountinfo", user.Process.Pid)
	own, _ := os.Readlink("/proc/self/ns/mnt")
	for range 500 { // until it has its namespace
		if ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", user.Process.Pid)); ns != own && ns != "" && !strings.Contains(readText(inside), " master:") && !strings.Contains(readText(inside), " shared:") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := Unmount(target); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(readText(inside), target) {
		t.Fatal("the other namespace has no mount")
	}
	time.Sleep(100 * time.Millisecond)
	if found, _ := loopsOf(path); len(found) != 1 {
		t.Errorf("while it is mounted elsewhere there are %+v", found)
	}
	stdin.Close()
	if err := user.Wait(); err != nil {
		t.Error(err)
	}
	gone(t, path)
}

func readText(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// TestPropagation mounts below a shared parent: a namespace that is a slave of it
// sees the mount and its end, and nothing that is mounted on it later.
func TestPropagation(t *testing.T) {
	base := t.TempDir()
	if err := unix.Mount(base, base, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(base); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", base, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	slave := exec.Command("unshare", "--mount", "--propagation", "slave", "sh", "-c", "echo ready; exec cat")
	stdin, _ := slave.StdinPipe()
	stdout, _ := slave.StdoutPipe()
	if err := slave.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = slave.Process.Kill(); _ = slave.Wait() })
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	seen := func() bool {
		f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", slave.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		infos, err := mountinfo.GetMountsFromReader(f, mountinfo.SingleEntryFilter(filepath.Join(base, "root")))
		if err != nil {
			t.Fatal(err)
		}
		return len(infos) == 1
	}
	path := format(t, "ext4")
	noLoops(t, path)
	fsys, err := Probe(path)
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(base, "root")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Mount(context.Background(), path, fsys, target, MountOptions{IDMap: ids}); err != nil {
		t.Fatal(err)
	}
	if !seen() {
		t.Error("the mount did not reach the slave")
	}
	if info := infoAt(t, target); info.Optional != "" {
		t.Errorf("the mount is not private: %s", info.Optional)
	}
	if err := Unmount(target); err != nil {
		t.Fatal(err)
	}
	if seen() {
		t.Error("the mount's end did not reach the slave")
	}
}

// TestUnmount unmounts what is stacked, at a path with every character that
// mountinfo escapes.
func TestUnmount(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b\tc\\d\ne#f\\040g")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, link} {
		if ok, err := mounted(d); !ok || err != nil {
			t.Errorf("%q mounted: %v, %v", d, ok, err)
		}
	}
	if err := Unmount(link); err != nil {
		t.Error(err)
	}
	if ok, err := mounted(dir); ok || err != nil {
		t.Errorf("still mounted: %v, %v", ok, err)
	}
	for _, d := range []string{dir, filepath.Join(dir, "missing"), "/missing/path"} {
		if err := Unmount(d); err != nil {
			t.Error(err)
		}
	}
	if err := Unmount("/"); err == nil {
		t.Error("the host's root was to be unmounted")
	}
}

// TestUnmountBusy waits for a user that goes, and not for one that stays.
func TestUnmountBusy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "x"))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(300 * time.Millisecond)
		f.Close()
	}()
	if err := Unmount(dir); err != nil {
		t.Error(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	stays, err := os.Create(filepath.Join(dir, "x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Unmount(dir); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
	if ok, _ := mounted(dir); !ok {
		t.Error("a busy mount was let go")
	}
	stays.Close()
	if err := Unmount(dir); err != nil {
		t.Error(err)
	}
}

// mounted says whether anything is mounted at the directory.
func mounted(target string) (bool, error) {
	_, n, _, err := mountsAt(target)
	return n > 0, err
}
