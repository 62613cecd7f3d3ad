package rootfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// acl is an access list that lets one more user read: its form as an extended attribute.
func acl(user uint32) []byte {
	data := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, 1<<32 - 1}, {2, 4, user}, {4, 4, 1<<32 - 1}, {16, 4, 1<<32 - 1}, {32, 0, 1<<32 - 1}} {
		data = binary.LittleEndian.AppendUint16(data, e.tag)
		data = binary.LittleEndian.AppendUint16(data, e.perm)
		data = binary.LittleEndian.AppendUint32(data, e.id)
	}
	return data
}

// whole describes all of a tree, of directories without their times.
func whole(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		says := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			says += fmt.Sprintf(" %d %d.%09d %x", st.Size, st.Mtim.Sec, st.Mtim.Nsec, sha256.Sum256(data))
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			says += fmt.Sprintf(" %d.%09d %q", st.Mtim.Sec, st.Mtim.Nsec, to)
		}
		names := make([]byte, 1<<16)
		n, err := unix.Llistxattr(p, names)
		if err != nil {
			return err
		}
		var attrs []string
		for name := range strings.SplitSeq(string(names[:n]), "\x00") {
			value := make([]byte, 1<<16)
			if n, err := unix.Lgetxattr(p, name, value); name != "" && err == nil {
				attrs = append(attrs, fmt.Sprintf(" %s=%x", name, value[:n]))
			}
		}
		slices.Sort(attrs)
		all[strings.TrimPrefix(p, root)] = says + strings.Join(attrs, "")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// same compares two descriptions.
func same(t testing.TB, before, after map[string]string) {
	t.Helper()
	for p, says := range before {
		if after[p] != says {
			t.Errorf("%q was\n\t%s, and is now\n\t%s", p, says, after[p])
		}
	}
	for p, says := range after {
		if before[p] == "" {
			t.Errorf("%q is new: %s", p, says)
		}
	}
}

// furnish makes what a seed may meet in a root, and says which paths a seed writes.
func furnish(t testing.TB, root string) (paths []string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(p string) string { return filepath.Join(root, p) }
	for _, d := range []string{"etc", "run", "var", "home/user"} {
		must(os.MkdirAll(in(d), 0o755))
	}
	must(os.Chown(in("home/user"), 1000, 1000))
	sparse := make([]byte, 4*mib+123)
	copy(sparse[2*mib:], "in the middle")
	files := []struct {
		path     string
		data     []byte
		mode     uint32
		uid, gid int
	}{
		{"/etc/hostname", []byte("old\n"), 0o604, 7, 8},
		{"/etc/empty", nil, 0, 0, 0},
		{"/etc/setuid", bytes.Repeat([]byte("x\x00\xff"), 10_000), 0o6755, 1000, 100},
		{"/etc/attributes", []byte("old"), 0o640, 0, 0},
		{"/etc/sparse", sparse, 0o600, 65535, 65535},
		{"/etc/not\xffutf8", []byte("old"), 0o444, 0, 0},
		{"/run/pid", []byte("1"), 0o600, 5, 5},
		{"/home/user/old", []byte("old"), 0o400, 1000, 1000},
		{"/etc/other", []byte("nobody writes it"), 0o600, 0, 0},
	}
	for _, f := range files {
		out, err := os.Create(in(f.path))
		must(err)
		must(copySparse(out, bytes.NewReader(f.data)))
		must(out.Chown(f.uid, f.gid))
		must(unix.Fchmod(int(out.Fd()), f.mode))
		must(out.Close())
		must(os.Chtimes(in(f.path), time.Unix(1, 0), time.Unix(1_000_000_000, 123_456_000)))
		if f.path != "/etc/other" {
			paths = append(paths, f.path)
		}
	}
	for name, value := range map[string][]byte{
		"user.empty":              nil,
		"user.not\xffutf8":        []byte("\x00\xff"),
		"trusted.x":               []byte("x"),
		"system.posix_acl_access": acl(1000),
		// cap_net_raw
		"security.capability": {1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		must(unix.Lsetxattr(in("/etc/attributes"), name, value, 0))
	}
	// What is made in it inherits a list that the old file does not have.
	must(unix.Lsetxattr(in("/home/user"), "system.posix_acl_default", acl(2000), 0))
	must(os.Chtimes(in("/etc/empty"), time.Unix(1, 0), time.Unix(-5, 0)))
	for name, to := range map[string]string{"/etc/link": "/run/pid", "/etc/dangling": "no\xffwhere", "/etc/up": "../../../etc/passwd", "/var/run": "../run"} {
		must(os.Symlink(to, in(name)))
		must(os.Lchown(in(name), 3, 4))
		must(unix.UtimesNanoAt(unix.AT_FDCWD, in(name), []unix.Timespec{{Sec: 1}, {Sec: 2}}, unix.AT_SYMLINK_NOFOLLOW))
	}
	return append(paths, "/etc/link", "/etc/dangling", "/etc/up", "/var/run/pid", "/var/run/new/file", "/run/new/file", "/run/new/deeper/file",
		"/etc/new", "/new", "/a/b/c/d", "/a/e", "/a/.ssh/keys", "/home/user/.ssh/keys")
}

// seedAll writes a seed into a root, keeping what stands there first.
func seedAll(root, into string, paths []string, ids *IDMap) error {
	for i, p := range paths {
		if err := Keep(root, p, into, ids); err != nil {
			return err
		}
		if err := WriteFile(root, File{Path: p, Data: fmt.Append(nil, "new", i), Mode: 0o4711, UID: uint32(i)}, ids); err != nil {
			return err
		}
	}
	return nil
}

// TestKeepRestore writes a seed over all that may stand there, and has it back: with
// real filesystems, through a mapped mount, and through another than it was kept by.
func TestKeepRestore(t *testing.T) {
	for _, fstype := range []string{"ext2", "ext4", "xfs", "btrfs"} {
		for _, mapped := range []*IDMap{nil, ids} {
			t.Run(fmt.Sprintf("%s mapped=%v", fstype, mapped != nil), func(t *testing.T) {
				t.Parallel()
				if fstype == "ext2" && mapped != nil {
					return // the driver is ext4's
				}
				path, into := format(t, fstype), filepath.Join(t.TempDir(), "kept")
				plain, _ := mountAt(t, path, MountOptions{})
				paths := furnish(t, plain)
				before := whole(t, plain)
				unread(t, filepath.Join(plain, "etc/sparse"))
				unmount := func(target string) {
					t.Helper()
					if err := Unmount(target); err != nil {
						t.Fatal(err)
					}
					gone(t, path)
				}
				unmount(plain)
				target, _ := mountAt(t, path, MountOptions{IDMap: mapped})
				// Twice: what was kept first counts.
				for range 2 {
					if err := seedAll(target, into, paths, mapped); err != nil {
						t.Fatal(err)
					}
				}
				private(t, into)
				unmount(target)
				target, _ = mountAt(t, path, MountOptions{IDMap: mapped})
				for range 2 {
					if err := Restore(target, into); err != nil {
						t.Fatal(err)
					}
					if _, err := os.Lstat(into); !errors.Is(err, os.ErrNotExist) {
						t.Errorf("what was kept is still there: %v", err)
					}
				}
				unmount(target)
				plain, _ = mountAt(t, path, MountOptions{ReadOnly: true})
				same(t, before, whole(t, plain))
				var st unix.Stat_t
				if err := unix.Lstat(filepath.Join(plain, "etc/sparse"), &st); err != nil || st.Blocks*512 > 64<<10 || st.Atim.Sec != 1 {
					t.Errorf("the sparse file takes %d blocks, read at %d, %v", st.Blocks, st.Atim.Sec, err)
				}
			})
		}
	}
}

// private checks that what was kept is for nobody else.
func private(t testing.TB, into string) {
	t.Helper()
	for p, says := range whole(t, into) {
		if want := map[bool]string{true: "40700 0:0", false: "100600 0:0 "}[p == ""]; !strings.HasPrefix(says, want) || strings.HasSuffix(p, partialSuffix) {
			t.Errorf("%s is %s", p, says)
		}
	}
}

// unread makes a file read longer ago than written: the kernel notes when it is read again.
func unread(t testing.TB, path string) {
	t.Helper()
	if err := os.Chtimes(path, time.Unix(1, 0), time.Unix(1_000_000_000, 123_456_000)); err != nil {
		t.Fatal(err)
	}
}

// TestKeepHostile keeps what leads out of a root, and refuses what cannot be replaced
// before anything was.
func TestKeepHostile(t *testing.T) {
	root, outside := hostile(t)
	into := filepath.Join(t.TempDir(), "kept")
	huge := filepath.Join(root, "huge")
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, maxKept+1); err != nil {
		t.Fatal(err)
	}
	if err := Keep(root, "/huge", into, nil); err == nil || !strings.Contains(err.Error(), "1073741825 bytes") {
		t.Error(err)
	}
	if err := os.Remove(huge); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"intheway/" + tempName} {
		if err := os.MkdirAll(filepath.Join(root, p), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(root, "etc/socket"), unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	before := whole(t, filepath.Dir(root))
	for path, want := range map[string]error{
		"/etc/fifo":            ErrOutside,
		"/etc/device":          ErrOutside,
		"/etc/socket":          ErrOutside,
		"/dir":                 ErrOutside,
		"/loop/file":           ErrOutside,
		"/proc/file":           ErrOutside,
		"/up/file":             ErrOutside,
		"/abs/file":            ErrOutside,
		"/danglingdir/file":    ErrOutside,
		"/etc/plain/file":      ErrOutside,
		"/etc/../../outside":   ErrOutside,
		"/etc/" + tempName:     ErrOutside,
		"/intheway/file":       ErrOutside,
		"etc/relative":         ErrOutside,
		"/":                    ErrOutside,
		"":                     ErrOutside,
		"/none/../etc/plain/x": ErrOutside,
	} {
		err := Keep(root, path, into, nil)
		if !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", path, err, want)
		}
		if left, _ := os.ReadDir(into); len(left) != 0 {
			t.Errorf("%q: %v was kept", path, left)
		}
	}
	if err := seedAll(root, into, []string{
		"/etc/plain", "/etc/link", "/etc/uplink", "/etc/dangling", "/etc/hard", "/etc/new", "/run/too", "/etc/too", "/loop", "/up", "/abs", "/upup", "/proc",
		"/danglingdir", "/run", "/sbin/init", "/lib/systemd/systemd", "/new/dir/file",
	}, nil); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(data) != "secret" {
		t.Errorf("outside: %q, %v", data, err)
	}
	if err := Restore(root, into); err != nil {
		t.Fatal(err)
	}
	same(t, before, whole(t, filepath.Dir(root)))
}

// TestKeepUnchangeable refuses what WriteFile would leave half done, or Restore could
// not put back.
func TestKeepUnchangeable(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			path, into := format(t, fstype), filepath.Join(t.TempDir(), "kept")
			target, _ := mountAt(t, path, MountOptions{IDMap: ids})
			plain, _ := mountAtDevice(t, infoAt(t, target).Source, MountOptions{})
			for name, attr := range map[string]string{"file": "+i", "append": "+a", "dir/": "+i", "log/": "+a", "temp/" + tempName: "+i"} {
				p := filepath.Join(plain, name)
				if err := os.MkdirAll(filepath.Dir(filepath.Join(plain, name+"x")), 0o755); err != nil {
					t.Fatal(err)
				}
				if !strings.HasSuffix(name, "/") {
					if err := os.WriteFile(p, []byte(name), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				run(t, "chattr", attr, p)
				t.Cleanup(func() { run(t, "chattr", "-"+attr[1:], p) })
			}
			for _, id := range [][2]int{{65536, 0}, {0, 70000}} {
				p := filepath.Join(plain, fmt.Sprint("of", id[0]))
				if err := os.Symlink("x", p); err != nil {
					t.Fatal(err)
				}
				if err := os.Lchown(p, id[0], id[1]); err != nil {
					t.Fatal(err)
				}
			}
			before := whole(t, plain)
			for path, want := range map[string]string{
				"/file": "immutable", "/append": "immutable", "/dir/x": "immutable", "/dir/x/y": "immutable", "/log/x": "immutable", "/temp/x": "immutable",
				"/of65536": "outside the container's 65536 ids", "/of0": "outside the container's",
			} {
				if err := Keep(target, path, into, ids); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
					t.Errorf("%s: %v", path, err)
				}
			}
			if left, _ := os.ReadDir(into); len(left) != 0 {
				t.Errorf("kept: %v", left)
			}
			same(t, before, whole(t, plain))
		})
	}
}

// TestKeepFull has no space for what is to be kept.
func TestKeepFull(t *testing.T) {
	root, state := t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(state); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(root, "file"), bytes.Repeat([]byte("x"), 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	into := filepath.Join(state, "kept")
	if err := Keep(root, "/file", into, nil); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "/file in the root") {
		t.Error(err)
	}
	if left, err := os.ReadDir(into); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	if err := Restore(root, into); err != nil {
		t.Error(err)
	}
}
