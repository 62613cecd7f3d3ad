package inroot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes a root with links of all kinds in it, and a file beside it that none of
// them may lead to.
func tree(t *testing.T) *os.File {
	t.Helper()
	top := t.TempDir()
	root := filepath.Join(top, "root")
	for _, dir := range []string{"etc", "run", "var", "usr/lib", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{filepath.Join(root, "etc/name"): "inside", filepath.Join(root, "secret"): "inside", filepath.Join(top, "secret"): "outside"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"absolute": "/etc/name", "up": "../../../../secret", "var/run": "../run/../usr/lib/..",
		"loop": "loop", "outside": filepath.Join(top, "secret"), "magic": "/proc/self/root/etc/name",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Dir(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOpen(t *testing.T) {
	root := tree(t)
	for name, want := range map[string]error{
		"etc/name": nil, "/etc/name": nil, "../etc/name": nil, "absolute": nil, "up": nil, "fifo": nil,
		"loop": unix.ELOOP, "outside": unix.ENOENT, "magic": unix.ENOENT, "missing": unix.ENOENT, "etc/name/x": unix.ENOTDIR,
	} {
		f, err := Open(root, name, unix.O_RDONLY)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v instead of %v", name, err, want)
		}
		if err != nil || name == "fifo" {
			continue
		}
		text := make([]byte, 20)
		if n, err := f.Read(text); string(text[:n]) != "inside" {
			t.Errorf("%s holds %q, %v", name, text[:n], err)
		}
		f.Close()
	}
	// The links of a real /proc lead anywhere.
	host, err := Dir("/")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if f, err := Open(host, "/proc/self/root/etc", unix.O_PATH); !errors.Is(err, unix.ELOOP) {
		f.Close()
		t.Errorf("through a magic link: %v", err)
	}
}

func TestOpenDirect(t *testing.T) {
	root := tree(t)
	for name, want := range map[string]error{"etc/name": nil, "absolute": unix.ELOOP, "var/run": unix.ELOOP, "var/run/lib": unix.ELOOP, "missing": unix.ENOENT} {
		f, err := OpenDirect(root, name, unix.O_PATH)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v instead of %v", name, err, want)
		}
		if err == nil {
			f.Close()
		}
	}
}

// A path with ".." in it is opened although the kernel asks for another try again and
// again, because things are renamed on the host all the time.
func TestOpenWhileOthersRename(t *testing.T) {
	root, busy := tree(t), t.TempDir()
	done, ended := make(chan struct{}), make(chan error)
	go func() {
		a, b := filepath.Join(busy, "a"), filepath.Join(busy, "b")
		err := os.Mkdir(a, 0o755)
		for err == nil {
			select {
			case <-done:
				ended <- nil
				return
			default:
				err = os.Rename(a, b)
				a, b = b, a
			}
		}
		ended <- err
	}()
	for range 20_000 {
		f, err := Open(root, "/var/run/lib", unix.O_PATH)
		if err != nil {
			t.Error(err)
			break
		}
		f.Close()
	}
	close(done)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestOpenTerminal(t *testing.T) {
	host, err := Dir("/")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	f, err := OpenTerminal(host, "dev/pts/ptmx")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPTN); err != nil {
		t.Errorf("the terminal's number: %d, %v", n, err)
	}
	root := tree(t)
	if err := unix.Mknod(filepath.Join(root.Name(), "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc/name", "fifo", "dev/null", "missing", "etc"} {
		if f, err := OpenTerminal(root, name); err == nil {
			f.Close()
			t.Errorf("%s was taken for a terminal", name)
		}
	}
}

func TestFS(t *testing.T) {
	root := FS(tree(t))
	for name, want := range map[string]string{"etc/name": "inside", "absolute": "inside", "up": "inside"} {
		if data, err := fs.ReadFile(root, name); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	for name, want := range map[string]error{
		"fifo": fs.ErrInvalid, "loop": unix.ELOOP, "outside": fs.ErrNotExist, "magic": fs.ErrNotExist,
		"/etc/name": fs.ErrInvalid, "../secret": fs.ErrInvalid,
	} {
		if data, err := fs.ReadFile(root, name); !errors.Is(err, want) {
			t.Errorf("%s: %q, %v instead of %v", name, data, err, want)
		}
	}
	if to, err := fs.ReadLink(root, "absolute"); err != nil || to != "/etc/name" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	var all []string
	err := fs.WalkDir(root, ".", func(name string, e fs.DirEntry, err error) error {
		all = append(all, name+" "+e.Type().String())
		return err
	})
	if err != nil || !slices.Contains(all, "etc/name ----------") || !slices.Contains(all, "var/run L---------") || !slices.Contains(all, "fifo p---------") || !slices.Contains(all, "dev d---------") {
		t.Errorf("it holds %q, %v", all, err)
	}
}
