package transfer

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// forged is a stream that no Pack writes.
func forged(t *testing.T, do func(w *Writer)) *Reader {
	t.Helper()
	var b bytes.Buffer
	do(NewWriter(&b, nil))
	return NewReader(&b, nil, nil)
}

// What a container may send instead of what it was asked for: all is made below the target,
// or nothing.
func TestForged(t *testing.T) {
	top := Entry{Type: Directory, Name: ".", Mode: 0o755}
	file := func(name string) Entry { return Entry{Type: File, Name: name, Mode: 0o644} }
	send := func(entries ...Entry) func(w *Writer) {
		return func(w *Writer) {
			for _, e := range entries {
				w.Entry(e)
				if e.Type == File {
					w.Data(0, []byte("forged"))
					w.End(6)
				}
			}
			w.Finish()
		}
	}
	for name, c := range map[string]struct {
		do   func(w *Writer)
		text string
	}{
		"up":                   {send(top, file("../other")), "leads out"},
		"up amid":              {send(top, file("a/../../other")), "leads out"},
		"up at the end":        {send(top, Entry{Type: Directory, Name: ".."}), "leads out"},
		"absolute":             {send(top, file("/tmp/forged")), "leads out"},
		"empty":                {send(top, file("")), "leads out"},
		"the top itself":       {send(top, file(".")), "leads out"},
		"not as it is written": {send(top, file("a//b")), "leads out"},
		"zero":                 {send(top, file("a\x00b")), "leads out"},
		"long":                 {send(top, file(strings.Repeat("x", 256))), "file name too long"},
		"single up":            {send(file("..")), "leads out"},
		"single below":         {send(file("a/b")), "leads out"},
		"a file":               {send(file("a"), file("b")), "is a directory"},
		"a link in the way":    {send(top, Entry{Type: Symlink, Name: "l", Link: "../empty"}, file("l/x")), `"l" is there, or something on the way to it`},
		"a link in the way, twice": {send(top, Entry{Type: Symlink, Name: "l", Link: ".."}, Entry{Type: Directory, Name: "l"},
			file("l/x")), `"l" is there, or something on the way to it`},
		"a link as top":            {send(Entry{Type: Symlink, Name: ".", Link: ".."}, file("x")), "leads out"},
		"another name outside":     {send(top, Entry{Type: HardLink, Name: "h", Link: "../other"}), "leads out"},
		"another name of what was": {send(top, Entry{Type: HardLink, Name: "h", Link: "old"}), "no file that came before"},
		"another name by a link":   {send(top, Entry{Type: Symlink, Name: "l", Link: "../other"}, Entry{Type: HardLink, Name: "h", Link: "l"}), "no file that came before"},
		"another name through one": {send(top, Entry{Type: Symlink, Name: "l", Link: ".."}, Entry{Type: HardLink, Name: "h", Link: "l/other"}), "is not a directory"},
		"a link to nothing":        {send(top, Entry{Type: Symlink, Name: "l"}), "is no name"},
		"unknown":                  {send(top, Entry{Type: 'b', Name: "disk"}), "not known"},
		"no end":                   {func(w *Writer) { w.Entry(top); w.Entry(file("x")); w.Data(0, []byte("x")); w.Finish() }, "garbled"},
		"backwards":                {func(w *Writer) { w.Entry(top); w.Entry(file("x")); w.Data(5, []byte("x")); w.Data(0, []byte("x")) }, "garbled"},
		"before the beginning":     {func(w *Writer) { w.Entry(top); w.Entry(file("x")); w.Data(-1, []byte("x")) }, "garbled"},
		"beyond all":               {func(w *Writer) { w.Entry(top); w.Entry(file("x")); w.Data(math.MaxInt64, []byte("x")) }, "garbled"},
		"too large":                {func(w *Writer) { w.Entry(top); w.Entry(file("x")); w.End(math.MaxInt64) }, "file too large|invalid argument"},
		"smaller than it is":       {func(w *Writer) { w.Entry(top); w.Entry(file("x")); w.Data(0, []byte("xxx")); w.End(1) }, "garbled"},
		"of negative size":         {func(w *Writer) { w.Entry(top); w.Entry(file("x")); w.End(-1) }, "garbled"},
		"data first":               {func(w *Writer) { w.Data(0, []byte("x")) }, "garbled"},
		"nothing":                  {func(w *Writer) {}, "broke off"},
		"nothing at all":           {func(w *Writer) { w.Finish() }, "broke off"},
		"a frame that is long":     {func(w *Writer) { w.w.Write([]byte{frameEntry, 0xff, 0xff, 0xff, 0xff}) }, "garbled"},
		"a name that is long": {func(w *Writer) {
			b := make([]byte, head)
			b[0] = byte(File)
			binary.BigEndian.PutUint32(b[34:], math.MaxUint32)
			w.frame(frameEntry, b)
		}, "garbled"},
		"a short entry": {func(w *Writer) { w.frame(frameEntry, []byte{'f'}) }, "garbled"},
		"a failure":     {func(w *Writer) { w.Entry(top); w.Fail(errors.New("no \x1b[2J more")) }, "no \x1b[2J more"},
	} {
		t.Run(name, func(t *testing.T) {
			world(t)
			must(t, os.MkdirAll("dest/tree", 0o755))
			must(t, os.WriteFile("dest/tree/old", []byte("old"), 0o600))
			outside := func() []string {
				return slices.DeleteFunc(list(t, "."), func(s string) bool { return strings.HasPrefix(s, "dest/") })
			}
			before := outside()
			err := Unpack(forged(t, c.do), "dest", UnpackOptions{Base: "tree"})
			if err == nil || !slices.ContainsFunc(strings.Split(c.text, "|"), func(s string) bool { return strings.Contains(err.Error(), s) }) {
				t.Errorf("%v, and not %q", err, c.text)
			}
			if now := outside(); !slices.Equal(now, before) {
				t.Errorf("outside there is %q now", now)
			}
			var st unix.Stat_t
			if err := unix.Stat("other", &st); err != nil || st.Nlink != 1 {
				t.Errorf("other has %d names, %v", st.Nlink, err)
			}
			if text, err := os.ReadFile("dest/tree/old"); string(text) != "old" {
				t.Errorf("what was there holds %q, %v", text, err)
			}
			for _, name := range list(t, "dest") {
				if strings.Contains(name, ".lxcboot-cp-") {
					t.Errorf("%s was left", name)
				}
			}
			if unix.Access("/tmp/forged", unix.F_OK) == nil {
				t.Error("/tmp/forged was made")
			}
		})
	}
}

func TestTwoFiles(t *testing.T) {
	world(t)
	err := Unpack(forged(t, func(w *Writer) {
		for _, name := range []string{"a", "b"} {
			w.Entry(Entry{Type: File, Name: name})
			w.End(0)
		}
		w.Finish()
	}), "new", UnpackOptions{Base: "a"})
	if err == nil || !strings.Contains(err.Error(), "more came") || unix.Access("b", unix.F_OK) == nil {
		t.Error(err)
	}
}

// swap replaces a directory with a link, and puts it back, without end.
func swap(t *testing.T, dir, link string) (stop func() int) {
	t.Helper()
	var done atomic.Bool
	ended := make(chan int)
	go func() {
		n := 0
		for ; !done.Load(); n++ {
			if err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				break
			}
		}
		ended <- n
	}()
	return func() int { done.Store(true); return <-ended }
}

// A directory that becomes a link while it is copied, at the source or at the target, leads
// nowhere: nothing outside is read or written.
func TestRace(t *testing.T) {
	for _, side := range []string{"source", "target"} {
		for way, do := range ways {
			t.Run(side+" "+way, func(t *testing.T) {
				world(t)
				must(t, os.WriteFile("empty/secret", []byte("secret"), 0o600))
				must(t, os.MkdirAll("src/d/e", 0o755))
				for i := range 20 {
					must(t, os.WriteFile(fmt.Sprintf("src/d/%d", i), []byte("right"), 0o644))
					must(t, os.WriteFile(fmt.Sprintf("src/d/e/%d", i), []byte("right"), 0o644))
				}
				must(t, os.MkdirAll("dest/src/d/e", 0o755))
				at := map[string]string{"source": "src", "target": "dest/src"}[side]
				up := map[string]string{"source": "../empty", "target": "../../empty"}[side]
				must(t, os.Symlink(up, at+"/l"))
				if side == "source" { // what is copied of the link is in the way there
					must(t, os.RemoveAll("dest/src"))
				}
				stop := swap(t, at+"/d", at+"/l")
				whole := 0
				for until := time.Now().Add(time.Second); time.Now().Before(until); {
					_, err := do(t, "src", "dest", PackOptions{})
					if err == nil {
						whole++
					} else if errors.Is(err, errEnded) {
						t.Fatal(err)
					}
					if side == "source" {
						for _, what := range list(t, "dest") {
							if strings.Contains(what, "secret") {
								t.Fatalf("copied: %s", what)
							}
						}
						must(t, os.RemoveAll("dest/src"))
					}
					if now := strings.Join(list(t, "empty"), " "); now != "empty/ empty/secret=secret" {
						t.Fatalf("there is %s", now)
					}
				}
				t.Logf("%d whole copies, %d exchanges", whole, stop())
			})
		}
	}
}

// archive makes a tar archive.
func archive(t *testing.T, members ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range members {
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = 6
		}
		must(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			w.Write([]byte("member"))
		}
	}
	must(t, w.Close())
	return &b
}

func unpackTar(t *testing.T, b *bytes.Buffer, dest string, o UnpackOptions) (warnings []string, err error) {
	o.Members = true
	err = In(t.Context(), inside, func(w *Writer) error { return FromTar(w, b) }, dest, o, func(text string) { warnings = append(warnings, text) }, nil)
	return warnings, err
}

func TestTarIn(t *testing.T) {
	for name, c := range map[string]struct {
		members []tar.Header
		want    string // of dest; empty: an error
		text    string // of the error or a warning
	}{
		"plain":             {[]tar.Header{{Name: "a", Typeflag: tar.TypeReg}, {Name: "./d/", Typeflag: tar.TypeDir}, {Name: "./d/b", Typeflag: tar.TypeReg}}, "dest/ dest/a=member dest/d/ dest/d/b=member", ""},
		"top":               {[]tar.Header{{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700}, {Name: "./a", Typeflag: tar.TypeReg}}, "dest/ dest/a=member", ""},
		"absolute":          {[]tar.Header{{Name: "/a", Typeflag: tar.TypeReg}}, "dest/ dest/a=member", ""},
		"not listed":        {[]tar.Header{{Name: "d/e/a", Typeflag: tar.TypeReg}}, "dest/ dest/d/ dest/d/e/ dest/d/e/a=member", ""},
		"another name":      {[]tar.Header{{Name: "d/a", Typeflag: tar.TypeReg}, {Name: "b", Linkname: "./d/a", Typeflag: tar.TypeLink}}, "dest/ dest/b=member dest/d/ dest/d/a=member", ""},
		"a link out":        {[]tar.Header{{Name: "l", Linkname: "/etc", Typeflag: tar.TypeSymlink}}, "dest/ dest/l->/etc", ""},
		"device":            {[]tar.Header{{Name: "a", Typeflag: tar.TypeReg}, {Name: "disk", Typeflag: tar.TypeBlock}}, "dest/ dest/a=member", `"disk" is of a type ('4')`},
		"nothing":           {nil, "dest/", ""},
		"up":                {[]tar.Header{{Name: "../other", Typeflag: tar.TypeReg}}, "", "leads out"},
		"up amid":           {[]tar.Header{{Name: "a/../../other", Typeflag: tar.TypeReg}}, "", "leads out"},
		"another name up":   {[]tar.Header{{Name: "h", Linkname: "../other", Typeflag: tar.TypeLink}}, "", "leads out"},
		"through a link":    {[]tar.Header{{Name: "l", Linkname: "..", Typeflag: tar.TypeSymlink}, {Name: "l/other", Typeflag: tar.TypeReg}}, "", "is not a directory"},
		"no other name":     {[]tar.Header{{Name: "l", Linkname: "..", Typeflag: tar.TypeSymlink}, {Name: "h", Linkname: "l/other", Typeflag: tar.TypeLink}}, "", "is not a directory"},
		"a file on a top":   {[]tar.Header{{Name: ".", Typeflag: tar.TypeReg}}, "", "leads out"},
		"a directory there": {[]tar.Header{{Name: "d/", Typeflag: tar.TypeDir}, {Name: "d", Typeflag: tar.TypeReg}}, "", `cannot make "d": is a directory|file exists`},
	} {
		t.Run(name, func(t *testing.T) {
			world(t)
			must(t, os.Mkdir("dest", 0o755))
			warnings, err := unpackTar(t, archive(t, c.members...), "dest", UnpackOptions{})
			said := strings.Join(warnings, "; ")
			if err != nil {
				said = err.Error()
			}
			if (err == nil) != (c.want != "") || !slices.ContainsFunc(strings.Split(c.text, "|"), func(s string) bool { return strings.Contains(said, s) }) || c.text == "" && said != "" {
				t.Errorf("%v, %q", err, warnings)
			}
			if now := strings.Join(list(t, "dest"), " "); c.want != "" && now != c.want {
				t.Errorf("there is %s, and not %s", now, c.want)
			}
			if text, _ := os.ReadFile("other"); string(text) != "of other" {
				t.Errorf("other holds %q", text)
			}
			if st, err := os.Stat("dest"); err != nil || st.Mode().Perm() != 0o755 {
				t.Errorf("the directory's mode became %s, %v", st.Mode(), err)
			}
		})
	}
	world(t)
	for dest, b := range map[string]*bytes.Buffer{"empty": bytes.NewBufferString(strings.Repeat("no tar ", 200)), "new": archive(t), "file": archive(t, tar.Header{Name: "a", Typeflag: tar.TypeReg})} {
		if _, err := unpackTar(t, b, dest, UnpackOptions{}); !errors.Is(err, failure.ErrInvalid) {
			t.Errorf("%s: %v", dest, err)
		}
	}
	// GNU's sparse members have their holes again.
	must(t, os.Truncate("file", 64<<20))
	out, err := exec.Command("tar", "--sparse", "-c", "file").Output()
	must(t, err)
	_, err = unpackTar(t, bytes.NewBuffer(out), "empty", UnpackOptions{})
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat("empty/file", &st))
	if st.Size != 64<<20 || st.Blocks > 4096 {
		t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
	}
}

// What tar reads of an archive is what was there.
func TestTarOut(t *testing.T) {
	for src, want := range map[string]string{
		"tree":   "tree/ tree/a tree/second tree/sub/ tree/sub/b tree/up",
		"tree/.": "./ a second sub/ sub/b up",
		"file":   "file",
		"link":   "link",
	} {
		world(t)
		must(t, os.Link("tree/a", "tree/second"))
		must(t, os.Truncate("file", 100_000))
		must(t, os.Chown("file", 1_000_000_000, 7))
		var b bytes.Buffer
		base, _ := Base(src)
		must(t, Out(t.Context(), inside, src, false, func(r *Reader) error { return ToTar(r, &b, base) }, nil, nil))
		must(t, os.Mkdir("again", 0o755))
		c := exec.Command("tar", "-C", "again", "-xv")
		c.Stdin = &b
		out, err := c.Output()
		must(t, err)
		if got := strings.Join(strings.Fields(string(out)), " "); got != want {
			t.Errorf("of %s there is %s", src, got)
		}
		must(t, exec.Command("diff", "-r", "--no-dereference", src, filepath.Join("again", base)).Run())
		if src == "file" {
			var st unix.Stat_t
			must(t, unix.Stat("again/file", &st))
			if st.Uid != 1_000_000_000 || st.Gid != 7 {
				t.Errorf("it belongs to %d:%d", st.Uid, st.Gid)
			}
		}
	}
}

// FuzzStream: whatever comes, a reader ends, and no name that it gives leads out.
func FuzzStream(f *testing.F) {
	var b bytes.Buffer
	w := NewWriter(&b, nil)
	w.Entry(Entry{Type: Directory, Name: "."})
	w.Entry(Entry{Type: File, Name: "a/b", Size: 3})
	w.Data(0, []byte("abc"))
	w.End(3)
	w.Warn("word")
	w.Entry(Entry{Type: Symlink, Name: "l", Link: "../x"})
	w.Finish()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data), nil, nil)
		for {
			e, err := r.Next()
			if err != nil {
				return
			}
			if !filepath.IsLocal(e.Name) || e.Type == HardLink && !filepath.IsLocal(e.Link) {
				t.Fatalf("%+v", e)
			}
			if e.Type != File {
				continue
			}
			end := int64(0)
			size, err := r.Content(func(offset int64, data []byte) error {
				if offset < end || offset+int64(len(data)) < offset {
					t.Fatalf("%d bytes at %d, after %d", len(data), offset, end)
				}
				end = offset + int64(len(data))
				return nil
			})
			if err != nil {
				return
			}
			if size < end {
				t.Fatalf("%d bytes, and %d came", size, end)
			}
		}
	})
}
