package rootfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRestoreUntouched leaves alone what nobody wrote to, also where nothing could be
// written: a file with two names keeps them.
func TestRestoreUntouched(t *testing.T) {
	path, into := format(t, "ext4"), filepath.Join(t.TempDir(), "kept")
	target, _ := mountAt(t, path, MountOptions{})
	paths := furnish(t, target)
	if err := os.Link(filepath.Join(target, "etc/hostname"), filepath.Join(target, "etc/second")); err != nil {
		t.Fatal(err)
	}
	before := whole(t, target)
	unread(t, filepath.Join(target, "etc/setuid"))
	for _, p := range paths {
		if err := Keep(target, p, into, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
	if err := Restore(target, into); err != nil {
		t.Error(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(target, "etc/setuid"), &st); err != nil || st.Atim.Sec != 1 {
		t.Errorf("read at %d, %v", st.Atim.Sec, err)
	}
	same(t, before, whole(t, target))
	if err := unix.Lstat(filepath.Join(target, "etc/second"), &st); err != nil || st.Nlink != 2 {
		t.Errorf("%d names, %v", st.Nlink, err)
	}
}

// TestRestoreFails keeps what it cannot put back, until it can.
func TestRestoreFails(t *testing.T) {
	path, into := format(t, "ext4"), filepath.Join(t.TempDir(), "kept")
	other, _ := mountAt(t, path, MountOptions{})
	paths := append(furnish(t, other)[:1], "/a/b")
	before := whole(t, other)
	target, _ := mountAtDevice(t, infoAt(t, other).Source, MountOptions{IDMap: ids})
	if err := seedAll(target, into, paths, ids); err != nil {
		t.Fatal(err)
	}
	kept := whole(t, into)
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NODEV|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	if err := Restore(target, into); !errors.Is(err, unix.EROFS) {
		t.Errorf("read-only: %v", err)
	}
	same(t, kept, whole(t, into))
	remount(0)
	for name, root := range map[string]string{"not mounted": t.TempDir(), "not there": filepath.Join(t.TempDir(), "x")} {
		if err := Restore(root, into); err == nil || !strings.Contains(err.Error(), into) {
			t.Errorf("%s: %v", name, err)
		}
		same(t, kept, whole(t, into))
	}
	if err := Restore(other, into); err == nil || !strings.Contains(err.Error(), "not mounted as it was") {
		t.Errorf("mounted without a mapping: %v", err)
	}
	// Somebody else's file in a directory of ours stays, and so does the directory.
	mine := filepath.Join(other, "a/mine")
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Restore(target, into); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{mine, filepath.Dir(mine)} {
		if err := os.Remove(p); err != nil {
			t.Error(err)
		}
	}
	same(t, before, whole(t, other))
}

// TestRestoreFull puts back more than there is space for beside the seed.
func TestRestoreFull(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			path, into := format(t, fstype), filepath.Join(t.TempDir(), "kept")
			target, _ := mountAt(t, path, MountOptions{IDMap: ids})
			var st unix.Statfs_t
			if err := unix.Statfs(target, &st); err != nil {
				t.Fatal(err)
			}
			half := int64(st.Bavail) * st.Bsize / 2
			// Two files: each in its turn takes most of the space.
			large := bytes.Repeat([]byte("0123456789abcdef"), int(half*3/2/16))
			for _, f := range []File{{Path: "/b", Data: large, Mode: 0o640, UID: 7}, {Path: "/a", Data: []byte("small"), Mode: 0o600}} {
				if err := WriteFile(target, f, ids); err != nil {
					t.Fatal(err)
				}
			}
			before := whole(t, target)
			for _, f := range []File{{Path: "/b", Data: []byte("small")}, {Path: "/a", Data: large[:half]}, {Path: "/c", Data: large[:half/2]}} {
				if err := Keep(target, f.Path, into, ids); err != nil {
					t.Fatal(err)
				}
				if err := WriteFile(target, f, ids); err != nil {
					t.Fatal(err)
				}
				if fd, err := os.Open(target); err != nil || syncFS(fd) != nil || fd.Close() != nil {
					t.Fatal(err)
				}
			}
			if err := Restore(target, into); err != nil {
				t.Fatal(err)
			}
			same(t, before, whole(t, target))
		})
	}
}

// TestForgetMount: what is mounted in the way is refused, and not emptied.
func TestForgetMount(t *testing.T) {
	from := filepath.Join(t.TempDir(), "kept")
	at := filepath.Join(from, "mounted")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	word := filepath.Join(at, "word")
	if err := os.WriteFile(word, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Forget(from); err == nil {
		t.Error("a mount is forgotten")
	}
	if _, err := os.Stat(word); err != nil {
		t.Error(err)
	}
}
