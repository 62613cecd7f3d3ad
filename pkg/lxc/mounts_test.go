package lxc

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/inuse"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
)

// shelf is a file with a filesystem, mounted on the host for a container's ids.
type shelf struct {
	file, dir string
	ids       *rootfs.IDMap
}

func newShelf(t *testing.T, ids *IDMap) shelf {
	t.Helper()
	s := shelf{file: filepath.Join(t.TempDir(), "image"), dir: searchable(t, 0)}
	if ids != nil {
		s.ids = &rootfs.IDMap{HostID: ids.HostID, Count: ids.Count}
	}
	must(t, os.WriteFile(s.file, nil, 0o600))
	must(t, os.Truncate(s.file, 16<<20))
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", s.file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { must(t, rootfs.Unmount(s.dir)) })
	s.mount(t)
	return s
}

func (s shelf) mount(t *testing.T) {
	t.Helper()
	found, err := rootfs.Probe(s.file)
	must(t, err)
	must(t, rootfs.Mount(limited(t), s.file, found, s.dir, rootfs.MountOptions{IDMap: s.ids}))
}

// into mounts it in a container, of which only the mount there is left.
func (s shelf) into(t *testing.T, init int, dir string) error {
	t.Helper()
	mnt, err := rootfs.Copy(s.dir, s.ids)
	must(t, err)
	defer mnt.Close()
	if err := Mount(init, mnt, dir); err != nil {
		return err
	}
	return rootfs.Unmount(s.dir)
}

func (s shelf) used(t *testing.T, err error, how string) {
	t.Helper()
	if !errors.Is(err, inuse.ErrUsed) || !strings.Contains(err.Error(), how) {
		t.Errorf("%v, and not %q", err, how)
	}
}

func initOf(t *testing.T, h *Host, cfg box) int {
	t.Helper()
	info, err := h.State(limited(t), cfg.UUID)
	must(t, err)
	return info.InitPID
}

// TestMount: what is mounted in a running container is as what it was started with: of its
// ids, and with flags that it cannot change. It goes when nothing uses it.
func TestMount(t *testing.T) {
	h := open(t)
	for name, cfg := range map[string]box{"": config(t, ""), "privileged": privileged(t, "")} {
		t.Run(name, func(t *testing.T) {
			c := start(t, h, cfg)
			init := initOf(t, h, cfg)
			s := newShelf(t, cfg.IDMap)
			must(t, s.into(t, init, "/data"))
			code, out, errs := c.run(t, ExecOptions{}, "sh", "-c", "echo kept >/data/file && cat /data/file && cat /proc/mounts")
			if code != 0 || !strings.HasPrefix(out, "kept\n") || !strings.Contains(out, " /data ext4 rw,nodev") {
				t.Errorf("%d %s%s", code, out, errs)
			}
			if code, _, _ := c.run(t, ExecOptions{}, "mount", "-o", "remount,dev,bind", "/data"); (code == 0) != (cfg.IDMap == nil) {
				t.Errorf("to mount it without nodev ends with %d", code)
			}
			there, err := Mounted(init, s.file, "/data")
			if elsewhere, err2 := Mounted(init, s.file, "/tmp"); !there || elsewhere || err != nil || err2 != nil {
				t.Errorf("mounted: %v, elsewhere %v, %v, %v", there, elsewhere, err, err2)
			}
			must(t, CheckIdle(limited(t), init, s.file, "/data"))
			s.used(t, CheckIdle(limited(t), init, s.file, ""), "it is mounted at /data")
			// The kernel is asked also where nobody was found.
			if code, _, errs := c.run(t, ExecOptions{}, "sh", "-c", "mkdir /data/x && mount -t tmpfs none /data/x"); code != 0 {
				t.Fatal(errs)
			}
			s.used(t, Unmount(limited(t), init, s.file, "/data"), "mounted below /data")
			if code, _, errs := c.run(t, ExecOptions{}, "umount", "/data/x"); code != 0 {
				t.Fatal(errs)
			}
			if code, _, errs := c.run(t, ExecOptions{}, "mount", "-t", "tmpfs", "none", "/data"); code != 0 {
				t.Fatal(errs)
			}
			s.used(t, Unmount(limited(t), init, s.file, "/data"), "something is mounted")
			if _, out, _ := c.run(t, ExecOptions{}, "cat", "/proc/mounts"); !strings.Contains(out, "none /data tmpfs") {
				t.Errorf("what was mounted over it is gone:\n%s", out)
			}
			if code, _, errs := c.run(t, ExecOptions{}, "umount", "/data"); code != 0 {
				t.Fatal(errs)
			}
			for range 2 { // what is gone is done
				must(t, Unmount(limited(t), init, s.file, "/data"))
			}
			if v, err := inuse.Of(s.file); err != nil || v.Carrier() != "" {
				t.Errorf("after the last mount %q holds it, %v", v.Carrier(), err)
			}
			if code, out, _ := c.run(t, ExecOptions{}, "ls", "/data"); code != 0 || out != "" {
				t.Errorf("left in /data: %q", out)
			}
		})
	}
}

// TestMountInside: no link leads a mount, or its end, anywhere else.
func TestMountInside(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	c := start(t, h, cfg)
	init := initOf(t, h, cfg)
	host := t.TempDir()
	s := newShelf(t, cfg.IDMap)
	if code, _, errs := c.run(t, ExecOptions{}, "sh", "-c", "mkdir /data/sub && cd /tmp && /bin/busybox ln -s "+host+" link && /bin/busybox ln -s /data inside && echo >/tmp/file"); code != 0 {
		t.Fatal(errs)
	}
	root, err := OpenDir(init, "/")
	must(t, err)
	defer root.Close()
	for dir, want := range map[string]error{"/tmp/link": unix.ELOOP, "/tmp/inside": unix.ELOOP, "/tmp/inside/sub": unix.ELOOP, "/tmp/file": unix.ENOTDIR, "/nothing": unix.ENOENT} {
		if err := s.into(t, init, dir); !errors.Is(err, want) {
			t.Errorf("%s: %v instead of %v", dir, err, want)
		}
		made := rootfs.MakeMountpoint(root, dir, s.ids)
		if (made == nil) != (want == unix.ENOENT) {
			t.Errorf("the mountpoint %s: %v", dir, made)
		}
	}
	if code, out, _ := c.run(t, ExecOptions{}, "sh", "-c", "stat -c %u:%g:%a /nothing || ls -ldn /nothing"); code != 0 || !strings.Contains(out, "0") || strings.Contains(out, "65534") {
		t.Errorf("what was made is %s", out)
	}
	must(t, s.into(t, init, "/data/sub"))
	// It is moved away, and a link to another directory put in its parent's place.
	if code, _, errs := c.run(t, ExecOptions{}, "sh", "-c", "mkdir /tmp/other && mount -o bind /data/sub /tmp/other"); code != 0 {
		t.Fatal(errs)
	}
	s.used(t, Unmount(limited(t), init, s.file, "/data/sub"), "it is mounted at /tmp/other too")
	if code, _, errs := c.run(t, ExecOptions{}, "umount", "/data/sub"); code != 0 {
		t.Fatal(errs)
	}
	s.used(t, Unmount(limited(t), init, s.file, "/data/sub"), "it is mounted at /tmp/other")
	if code, _, errs := c.run(t, ExecOptions{}, "umount", "/tmp/other"); code != 0 {
		t.Fatal(errs)
	}
	must(t, Unmount(limited(t), init, s.file, "/data/sub"))
	if entries, err := os.ReadDir(host); err != nil || len(entries) > 0 {
		t.Errorf("on the host: %v %v", entries, err)
	}
}

// TestArrange: what is mounted where it does not belong goes, and what is missing is named.
func TestArrange(t *testing.T) {
	h := open(t)
	cfg := config(t, "")
	stale, right, moved := newShelf(t, cfg.IDMap), newShelf(t, cfg.IDMap), newShelf(t, cfg.IDMap)
	empty, missing := searchable(t, testIDs), newShelf(t, cfg.IDMap)
	for dir, target := range map[string]string{stale.dir: "/a", right.dir: "/b", moved.dir: "/c", empty: "/c/d"} {
		cfg.Filesystems = append(cfg.Filesystems, Filesystem{Source: dir, Target: target})
	}
	c := start(t, h, cfg)
	init := initOf(t, h, cfg)
	got, err := Arrange(init, map[string]string{stale.dir: "", right.dir: "/b", moved.dir: "/e", empty: "", missing.dir: "/f"})
	must(t, err)
	if !slices.Equal(got, []string{moved.dir, missing.dir}) {
		t.Errorf("missing are %q", got)
	}
	_, out, _ := c.run(t, ExecOptions{}, "cat", "/proc/mounts")
	for dir, want := range map[string]bool{"/a": false, "/b": true, "/c": false, "/c/d": false} {
		if strings.Contains(out, " "+dir+" ") != want {
			t.Errorf("%s is not as it belongs:\n%s", dir, out)
		}
	}
	if got, err := Arrange(init, map[string]string{right.dir: "/b"}); err != nil || len(got) > 0 {
		t.Errorf("once more: %q, %v", got, err)
	}
	for _, s := range []shelf{stale, right, moved} {
		must(t, rootfs.Unmount(s.dir))
	}
}
