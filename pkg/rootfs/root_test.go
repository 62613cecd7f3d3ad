package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// hostile makes a root whose every path leads out of it, beside a directory that
// must never change.
func hostile(t *testing.T) (root, outside string) {
	t.Helper()
	base := t.TempDir()
	root, outside = filepath.Join(base, "root"), filepath.Join(base, "outside")
	for _, d := range []string{root, outside, filepath.Join(root, "etc"), filepath.Join(root, "sbin"), filepath.Join(root, "lib/systemd"), filepath.Join(root, "dir")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{
		filepath.Join(outside, "secret"):           "secret",
		filepath.Join(root, "etc/plain"):           "plain",
		filepath.Join(root, "lib/systemd/systemd"): "#!/init",
	}
	for path, data := range files {
		if err := os.WriteFile(path, []byte(data), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{
		"up": "../outside", "abs": outside, "upup": "../../../../../../../../../.." + outside, "loop": "loop",
		"etc/link": filepath.Join(outside, "secret"), "etc/uplink": "../../outside/secret", "etc/dangling": "/nowhere/at/all",
		"run": "/etc", "proc": "/proc/self/root", "sbin/init": "/lib/systemd/systemd", "danglingdir": "nowhere",
	} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(outside, "secret"), filepath.Join(root, "etc/hard")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(root, "etc/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(root, "etc/device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if data, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(data) != "secret" {
			t.Errorf("outside the root: %q, %v", data, err)
		}
		if all, _ := os.ReadDir(outside); len(all) != 1 {
			t.Errorf("outside the root there are now %v", all)
		}
	})
	return root, outside
}

func TestWriteFileHostile(t *testing.T) {
	root, outside := hostile(t)
	long := strings.Repeat("n", 256)
	for path, want := range map[string]error{
		"/etc/new":           nil,
		"/etc/plain":         nil,
		"/etc/link":          nil, // the link is replaced
		"/etc/uplink":        nil,
		"/etc/dangling":      nil,
		"/etc/hard":          nil, // the other name keeps its content
		"/new/dir/file":      nil,
		"/up/file":           nil, // inside the root
		"/abs/file":          nil,
		"/upup/file":         nil,
		"/run/file":          nil,
		"/loop/file":         ErrOutside,
		"/proc/file":         nil,
		"/danglingdir/file":  ErrOutside,
		"/etc/plain/file":    ErrOutside,
		"/etc/fifo":          ErrOutside,
		"/etc/device":        ErrOutside,
		"/dir":               ErrOutside,
		"/etc/../../outside": ErrOutside,
		"etc/relative":       ErrOutside,
		"/":                  ErrOutside,
		"":                   ErrOutside,
		"/etc/":              ErrOutside,
		"/etc/nul\x00":       ErrOutside,
		"/etc/" + long:       ErrOutside,
		"/etc/" + tempName:   ErrOutside,
	} {
		err := WriteFile(root, File{Path: path, Data: []byte("new"), Mode: 0o640}, nil)
		if path == "/proc/file" || path == "/up/file" || path == "/abs/file" || path == "/upup/file" {
			// Links to what the root does not have: they dangle in it.
			want = ErrOutside
		}
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%q: got %v, want %v", path, err, want)
			continue
		}
		if err != nil {
			continue
		}
		where := filepath.Join(root, strings.Replace(path, "/run/", "/etc/", 1))
		if data, err := os.ReadFile(where); err != nil || string(data) != "new" {
			t.Errorf("%q holds %q, %v", path, data, err)
		}
		if info, err := os.Lstat(where); err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o640 {
			t.Errorf("%q: %v, %v", path, info, err)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "new/dir")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	// Nothing is left under the other name.
	_ = filepath.Walk(root, func(path string, _ os.FileInfo, err error) error {
		if err != nil || strings.HasSuffix(path, tempName) {
			t.Errorf("%s, %v", path, err)
		}
		return nil
	})
	_ = outside
}

// TestWriteFileLeftover replaces what a killed process left.
func TestWriteFileLeftover(t *testing.T) {
	root, outside := hostile(t)
	if err := os.Symlink(filepath.Join(outside, "secret"), filepath.Join(root, "etc", tempName)); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(root, File{Path: "/etc/x", Data: []byte("x"), Mode: 0o600}, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "etc", tempName), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(root, File{Path: "/etc/x", Data: []byte("y"), Mode: 0o600}, nil); err == nil || !strings.Contains(err.Error(), tempName) {
		t.Error(err)
	}
}

// TestInjectMapped writes into idmapped mounts of real filesystems.
func TestInjectMapped(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			path := format(t, fstype)
			// What the image has belongs to several of the container's users.
			plain, _ := mountAt(t, path, MountOptions{})
			for dir, uid := range map[string]int{"home/user": 1000, "home/closed": 1001} {
				if err := os.MkdirAll(filepath.Join(plain, dir), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Chown(filepath.Join(plain, dir), uid, uid); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(plain, "home/closed/old"), []byte("old"), 0o400); err != nil {
				t.Fatal(err)
			}
			if err := Unmount(plain); err != nil {
				t.Fatal(err)
			}
			gone(t, path)
			files := []File{
				{Path: "/etc/hostname", Data: []byte("web1\n"), Mode: 0o644},
				{Path: "/root/.ssh/authorized_keys", Data: []byte("ssh-ed25519 …\n"), Mode: 0o600},
				{Path: "/home/user/.ssh/authorized_keys", Data: []byte("ssh-ed25519 …\n"), Mode: 0o600, UID: 1000, GID: 1000},
				{Path: "/home/closed/old", Data: []byte("new"), Mode: 0o4755, UID: 1001, GID: 100},
				{Path: "/empty", Mode: 0o600, UID: 65535, GID: 65535},
			}
			target, _ := mountAt(t, path, MountOptions{IDMap: ids})
			for range 2 { // and once more over what is there
				for _, f := range files {
					if err := WriteFile(target, f, ids); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := WriteFile(target, File{Path: "/x", UID: 65536}, ids); err == nil || !strings.Contains(err.Error(), "outside the container's 65536 ids") {
				t.Error(err)
			}
			if data, err := os.ReadFile(filepath.Join(target, "etc/hostname")); err != nil || string(data) != "web1\n" {
				t.Errorf("%q, %v", data, err)
			}
			if err := Unmount(target); err != nil {
				t.Fatal(err)
			}
			gone(t, path)
			// On the disk are the container's ids.
			plain, _ = mountAt(t, path, MountOptions{ReadOnly: true})
			for _, f := range files[:4] {
				var st unix.Stat_t
				if err := unix.Lstat(filepath.Join(plain, f.Path), &st); err != nil {
					t.Error(err)
					continue
				}
				data, _ := os.ReadFile(filepath.Join(plain, f.Path))
				if st.Uid != f.UID || st.Gid != f.GID || st.Mode&0o7777 != f.Mode || string(data) != string(f.Data) {
					t.Errorf("%s: %d:%d %o %q", f.Path, st.Uid, st.Gid, st.Mode, data)
				}
			}
			for dir, want := range map[string]string{"etc": "0:0 755", "root": "0:0 755", "root/.ssh": "0:0 700", "home/user/.ssh": "1000:1000 700"} {
				var st unix.Stat_t
				err := unix.Lstat(filepath.Join(plain, dir), &st)
				if got := fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode&0o7777); err != nil || got != want {
					t.Errorf("%s: %s, %v; want %s", dir, got, err, want)
				}
			}
		})
	}
}

func TestFindInit(t *testing.T) {
	root, _ := hostile(t)
	for init, want := range map[string]string{
		"":                     "",
		"/sbin/init":           "",
		"/lib/systemd/systemd": "",
		"/etc/plain":           "",
		"/missing":             "/missing (not there); name another with --init",
		"/dir":                 "/dir (is a directory)",
		"/etc/fifo":            "/etc/fifo (is a FIFO)",
		"/etc/device":          "/etc/device (is a device)",
		"/etc/link":            "(not there)",
		"/upup/secret":         "(not there)",
		"/loop":                "a link that leads to itself",
		"relative":             "no absolute path",
		"/etc/notexec":         "is not executable",
		"/etc/empty":           "is empty",
		"/etc/plain/x":         "not there",
	} {
		if err := os.WriteFile(filepath.Join(root, "etc/notexec"), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "etc/empty"), nil, 0o755); err != nil {
			t.Fatal(err)
		}
		got, err := FindInit(root, init)
		if want == "" {
			if expect := map[bool]string{true: "/sbin/init", false: init}[init == ""]; err != nil || got != expect {
				t.Errorf("%q: %q, %v", init, got, err)
			}
			continue
		}
		if !errors.Is(err, ErrNoInit) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v; want %q", init, got, err, want)
		}
	}
	empty := t.TempDir()
	_, err := FindInit(empty, "")
	for _, c := range Inits {
		if !errors.Is(err, ErrNoInit) || !strings.Contains(err.Error(), c+" (not there)") || !strings.Contains(err.Error(), "--init") {
			t.Errorf("%v does not tell of %s", err, c)
		}
	}
	if _, err := FindInit(filepath.Join(empty, "missing"), ""); !errors.Is(err, ErrNoInit) {
		t.Error(err)
	}
}

func TestCheckMountpoint(t *testing.T) {
	root, outside := hostile(t)
	for name, want := range map[string]string{
		"etc": "", "/lib/systemd": "", "/new": "", "/new/below/it": "", "/dir/new": "",
		"abs": "a link", "/up": "a link", "/upup/x": "a link", "/loop": "a link", "/proc": "a link", "/danglingdir/x": "a link", "/run/x": "a link",
		"/etc/plain": "no directory", "/etc/plain/x": "no directory", "/etc/fifo": "no directory", "/etc/device": "no directory", "/etc/hard": "no directory",
		"/../outside": "", // which the root does not have
	} {
		err := CheckMountpoint(root, name)
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrOutside) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if err := CheckMountpoint(filepath.Join(outside, "missing"), "/dev"); err == nil {
		t.Error("no root, no error")
	}
}
