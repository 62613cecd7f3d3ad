package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// inside is a peer in this process: it does what lxcboot-copy does, without a container.
func inside(_ context.Context, args []string, in io.Reader, out, _ io.Writer) (int, error) {
	return Inside(args, in.(*os.File), out.(*os.File)), nil
}

// ways are the two directions of a copy, which have the same rules.
var ways = map[string]func(t *testing.T, src, dest string, o PackOptions) (warnings []string, err error){
	"in": func(t *testing.T, src, dest string, o PackOptions) (warnings []string, err error) {
		base, _ := Base(src)
		o.Pipes = true
		err = In(t.Context(), inside, func(w *Writer) error { return Pack(w, src, o) }, dest, UnpackOptions{Base: base},
			func(text string) { warnings = append(warnings, text) }, nil)
		return warnings, err
	},
	"out": func(t *testing.T, src, dest string, o PackOptions) (warnings []string, err error) {
		base, _ := Base(src)
		err = Out(t.Context(), inside, src, o.Follow, func(r *Reader) error { return Unpack(r, dest, UnpackOptions{Base: base}) },
			func(text string) { warnings = append(warnings, text) }, nil)
		return warnings, err
	},
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a directory with something of each kind, which the test works in.
func world(t testing.TB) {
	t.Chdir(t.TempDir())
	for _, dir := range []string{"tree/sub", "full/tree/sub", "full/file", "empty"} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	for _, name := range []string{"file", "other", "tree/a", "tree/sub/b", "full/tree/old", "full/a"} {
		must(t, os.WriteFile(name, []byte("of "+name), 0o644))
	}
	for name, to := range map[string]string{"link": "other", "treelink": "tree", "emptylink": "empty", "dangling": "nowhere", "tree/up": "../file"} {
		must(t, os.Symlink(to, name))
	}
}

// list is all there is below a directory.
func list(t testing.TB, dir string) (all []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		what := name
		switch {
		case d.IsDir():
			what += "/"
		case d.Type()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(name)
			what += "->" + to
		case d.Type().IsRegular():
			text, _ := os.ReadFile(name)
			what += "=" + string(text)
		}
		all = append(all, what)
		return nil
	}))
	return all
}

// What docker cp documents of names, in both directions.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		src, dest string
		look      string // where
		want      string // what is there then; empty: an error of the kind ErrInvalid
		text      string // in the error
	}{
		{"file", "new", "new", "new=of file", ""},
		{"file", "other", "other", "other=of file", ""},
		{"file", "empty", "empty", "empty/ empty/file=of file", ""},
		{"file", "empty/", "empty", "empty/ empty/file=of file", ""},
		{"file", "empty/.", "empty", "empty/ empty/file=of file", ""},
		{"file", "emptylink", "empty", "empty/ empty/file=of file", ""},
		{"file", "link", "other", "other=of file", ""},
		{"file", "link", "link", "link->other", ""},
		{"file", "new/", "", "", "no such directory"},
		{"file", "new/x", "", "", "no such file or directory"},
		{"file", "other/", "", "", "not a directory"},
		{"file", "dangling", "", "", "leads to nothing"},
		{"file", "/dev/null", "", "", "neither a file nor a directory"},
		{"file/", "new", "", "", "not a directory"},
		{"file/.", "new", "", "", "not a directory"},
		{"missing", "new", "", "", "no such file or directory"},
		{"/dev/null", "new", "", "", "a character device"},
		{"link", "new", "new", "new->other", ""},
		{"link", "other", "other", "other->other", ""},
		{"tree", "new", "new", "new/ new/a=of tree/a new/sub/ new/sub/b=of tree/sub/b new/up->../file", ""},
		{"tree", "new/", "new", "new/ new/a=of tree/a new/sub/ new/sub/b=of tree/sub/b new/up->../file", ""},
		{"tree/", "new", "new", "new/ new/a=of tree/a new/sub/ new/sub/b=of tree/sub/b new/up->../file", ""},
		{"tree/.", "new", "new", "new/ new/a=of tree/a new/sub/ new/sub/b=of tree/sub/b new/up->../file", ""},
		{"tree", "empty", "empty", "empty/ empty/tree/ empty/tree/a=of tree/a empty/tree/sub/ empty/tree/sub/b=of tree/sub/b empty/tree/up->../file", ""},
		{"tree/.", "empty", "empty", "empty/ empty/a=of tree/a empty/sub/ empty/sub/b=of tree/sub/b empty/up->../file", ""},
		{"tree/sub/..", "empty", "empty", "empty/ empty/a=of tree/a empty/sub/ empty/sub/b=of tree/sub/b empty/up->../file", ""},
		{"treelink", "empty", "empty", "empty/ empty/treelink->tree", ""},
		{"treelink/", "empty/.", "empty", "empty/ empty/treelink/ empty/treelink/a=of tree/a empty/treelink/sub/ empty/treelink/sub/b=of tree/sub/b empty/treelink/up->../file", ""},
		{"tree", "full", "full", "full/ full/a=of full/a full/file/ full/tree/ full/tree/a=of tree/a full/tree/old=of full/tree/old full/tree/sub/ full/tree/sub/b=of tree/sub/b full/tree/up->../file", ""},
		{"tree/.", "full", "full/a", "full/a=of tree/a", ""},
		{"tree", "file", "", "", "a directory cannot replace what is there"},
		{"tree", "new/x", "", "", "no such file or directory"},
		{"tree", "new/.", "", "", "no such directory"},
	} {
		for way, do := range ways {
			t.Run(fmt.Sprintf("%s/%s to %s", way, strings.ReplaceAll(c.src, "/", "|"), strings.ReplaceAll(c.dest, "/", "|")), func(t *testing.T) {
				world(t)
				before := list(t, ".")
				_, err := do(t, c.src, c.dest, PackOptions{})
				if c.want == "" {
					if !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), c.text) {
						t.Errorf("%v, and not %q", err, c.text)
					}
					if now := list(t, "."); !slices.Equal(now, before) {
						t.Errorf("there is %q now", now)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if now := strings.Join(list(t, c.look), " "); now != c.want {
					t.Errorf("there is %s, and not %s", now, c.want)
				}
			})
		}
	}
}

func TestFollow(t *testing.T) {
	for way, do := range ways {
		t.Run(way, func(t *testing.T) {
			world(t)
			_, err := do(t, "link", "new", PackOptions{Follow: true})
			must(t, err)
			_, err = do(t, "treelink", "empty", PackOptions{Follow: true})
			must(t, err)
			if now := strings.Join(append(list(t, "new"), list(t, "empty")...), " "); now != "new=of other empty/ empty/treelink/ empty/treelink/a=of tree/a empty/treelink/sub/ empty/treelink/sub/b=of tree/sub/b empty/treelink/up->../file" {
				t.Errorf("there is %s", now)
			}
		})
	}
}

// What is in the way below the target stays, and no link there is followed.
func TestInTheWay(t *testing.T) {
	for way, do := range ways {
		t.Run(way, func(t *testing.T) {
			world(t)
			must(t, os.RemoveAll("full/tree/sub"))
			must(t, os.Symlink("../../empty", "full/tree/sub"))
			must(t, os.Symlink("../../other", "full/tree/a"))
			if _, err := do(t, "tree", "full", PackOptions{}); err == nil || !strings.Contains(err.Error(), "is not a directory") {
				t.Error(err)
			}
			if _, err := do(t, "file", "full", PackOptions{}); err == nil || !strings.Contains(err.Error(), "file exists") && !strings.Contains(err.Error(), "is a directory") {
				t.Error(err)
			}
			must(t, os.Symlink("../empty", "full/link"))
			if _, err := do(t, "tree/.", "full/link", PackOptions{}); err != nil { // named, so followed
				t.Error(err)
			}
			want := "empty/ empty/a=of tree/a empty/sub/ empty/sub/b=of tree/sub/b empty/up->../file other=of other"
			if now := strings.Join(append(list(t, "empty"), list(t, "other")...), " "); now != want {
				t.Errorf("there is %s", now)
			}
			if to, err := os.Readlink("full/tree/a"); err == nil {
				t.Errorf("a link to %s was not replaced", to)
			}
		})
	}
}

// Modes, times, links of both kinds, pipes, holes and names of any bytes are kept; setuid,
// setgid, devices and sockets are not.
func TestKept(t *testing.T) {
	for way, do := range ways {
		t.Run(way, func(t *testing.T) {
			t.Chdir(t.TempDir())
			long := strings.Repeat("x", 255)
			when := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
			must(t, os.MkdirAll("src/dir", 0o755))
			for _, name := range []string{"plain", "new\nline", "bad\xff\xfeutf8", long, "set", "-"} {
				must(t, os.WriteFile("src/"+name, []byte(name), 0o640))
			}
			must(t, os.Chmod("src/set", 0o755|fs.ModeSetuid|fs.ModeSetgid))
			must(t, os.Chmod("src/dir", 0o710|fs.ModeSticky|fs.ModeSetgid))
			must(t, os.Symlink("/any\nwhere", "src/link"))
			must(t, os.Link("src/plain", "src/dir/second"))
			must(t, unix.Mkfifo("src/fifo", 0o622))
			must(t, unix.Chmod("src/fifo", 0o622))
			must(t, unix.Mknod("src/disk", unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))))
			s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			must(t, err)
			defer unix.Close(s)
			must(t, unix.Bind(s, &unix.SockaddrUnix{Name: "src/socket"}))
			f, err := os.Create("src/sparse")
			must(t, err)
			_, err = f.WriteAt([]byte("amid"), 3<<40)
			must(t, err)
			must(t, f.Truncate(4<<40))
			must(t, f.Close())
			for _, name := range []string{"src/plain", "src/link", "src/dir", "src"} {
				must(t, unix.UtimesNanoAt(unix.AT_FDCWD, name, times(when), unix.AT_SYMLINK_NOFOLLOW))
			}

			warnings, err := do(t, "src", "dest", PackOptions{})
			must(t, err)
			if len(warnings) != 2 || !strings.Contains(warnings[0], `"disk" is a block device`) || !strings.Contains(warnings[1], `"socket" is a socket`) {
				t.Errorf("warnings: %q", warnings)
			}
			for name, want := range map[string]string{
				"plain": "-rw-r----- 2", "new\nline": "-rw-r----- 1", "bad\xff\xfeutf8": "-rw-r----- 1", long: "-rw-r----- 1", "set": "-rwxr-xr-x 1", "-": "-rw-r----- 1",
				"dir": "dtrwx--x--- 2", "link": "Lrwxrwxrwx 1", "fifo": "prw--w--w- 1", "sparse": "-rw-r--r-- 1",
			} {
				st, err := os.Lstat("dest/" + name)
				must(t, err)
				var raw unix.Stat_t
				must(t, unix.Lstat("dest/"+name, &raw))
				if got := fmt.Sprint(st.Mode(), " ", raw.Nlink); got != want {
					t.Errorf("%q is %s, and not %s", name, got, want)
				}
			}
			for _, name := range []string{"dest/plain", "dest/link", "dest/dir", "dest", "dest/dir/second"} {
				if st, err := os.Lstat(name); err != nil || !st.ModTime().Equal(when) {
					t.Errorf("%s is of %s, %v", name, st.ModTime(), err)
				}
			}
			if to, _ := os.Readlink("dest/link"); to != "/any\nwhere" {
				t.Errorf("the link leads to %q", to)
			}
			for _, name := range []string{"plain", "new\nline", "bad\xff\xfeutf8", long, "set", "-"} {
				if text, err := os.ReadFile("dest/" + name); string(text) != name {
					t.Errorf("%q holds %q, %v", name, text, err)
				}
			}
			var st unix.Stat_t
			must(t, unix.Stat("dest/sparse", &st))
			amid := make([]byte, 6)
			f, err = os.Open("dest/sparse")
			must(t, err)
			defer f.Close()
			if _, err := f.ReadAt(amid, 3<<40-1); string(amid) != "\x00amid\x00" || st.Size != 4<<40 || st.Blocks > 64 {
				t.Errorf("%q, %v, of %d bytes in %d blocks", amid, err, st.Size, st.Blocks)
			}
		})
	}
}

func TestOwner(t *testing.T) {
	world(t)
	must(t, os.Chown("tree/a", 1234, 5678))
	must(t, os.Chmod("tree/a", 0o755|fs.ModeSetuid))
	for _, c := range []struct {
		o    UnpackOptions
		want string
	}{
		{UnpackOptions{UID: 11, GID: 12}, "11:12 -rwxr-xr-x"},
		{UnpackOptions{Owner: true}, "1234:5678 -rwxr-xr-x"},
		{UnpackOptions{Owner: true, SetID: true}, "1234:5678 urwxr-xr-x"},
	} {
		must(t, os.RemoveAll("new"))
		must(t, Out(t.Context(), inside, "tree", false, func(r *Reader) error { return Unpack(r, "new", c.o) }, nil, nil))
		info, err := os.Lstat("new/a")
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat("new/a", &st))
		if got := fmt.Sprintf("%d:%d %s", st.Uid, st.Gid, info.Mode()); got != c.want {
			t.Errorf("%s, and not %s", got, c.want)
		}
	}
}

// A pipe that is named is read; one in a container is not.
func TestPipe(t *testing.T) {
	world(t)
	must(t, unix.Mkfifo("fifo", 0o600))
	go func() {
		if f, err := os.OpenFile("fifo", os.O_RDWR, 0); err == nil { // so that neither side waits
			f.WriteString("through it")
			time.Sleep(200 * time.Millisecond)
			f.Close()
		}
	}()
	time.Sleep(50 * time.Millisecond)
	if _, err := ways["in"](t, "fifo", "new", PackOptions{}); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile("new"); string(text) != "through it" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := ways["in"](t, "fifo", "new", PackOptions{}); err == nil || !strings.Contains(err.Error(), "nothing came through the pipe") {
		t.Error(err)
	}
	if _, err := ways["out"](t, "fifo", "new", PackOptions{}); err == nil || !strings.Contains(err.Error(), "it is a FIFO") {
		t.Error(err)
	}
}

// A stream that breaks off anywhere leaves what was there, and no file that is not whole.
func TestBreaksOff(t *testing.T) {
	world(t)
	var stream bytes.Buffer
	w := NewWriter(&stream, nil)
	must(t, Pack(w, "file", PackOptions{}))
	must(t, w.Finish())
	before := list(t, ".")
	for n := range stream.Len() - 5 {
		for _, dest := range []string{"other", "new", "empty"} {
			if err := Unpack(NewReader(bytes.NewReader(stream.Bytes()[:n]), nil, nil), dest, UnpackOptions{Base: "file"}); !errors.Is(err, errEnded) {
				t.Fatalf("after %d bytes: %v", n, err)
			}
		}
	}
	now := list(t, ".")
	if !slices.Equal(now, before) {
		t.Errorf("there is %q", now)
	}
}
