package imagefile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// disk is 3 MiB of data with a hole in it, and zeros at its end.
func disk() []byte {
	b := make([]byte, 3<<20+777)
	r := rand.New(rand.NewSource(1))
	r.Read(b[:1<<20])
	r.Read(b[2<<20 : 2<<20+300_000])
	return b
}

// pack packs data with a tool.
func pack(t *testing.T, data []byte, tool ...string) []byte {
	t.Helper()
	cmd := exec.Command(tool[0], tool[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v", tool, err)
	}
	return out
}

func file(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// fetch opens a source, and gives what is in it.
func fetch(t *testing.T, s Source) ([]byte, error) {
	t.Helper()
	s.Dir = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f, err := s.Open(ctx)
	if left, _ := os.ReadDir(s.Dir); len(left) > 0 {
		t.Errorf("left in the directory: %v", left)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	got, size, err := Take(f, s.From)
	if err != nil {
		return nil, err
	}
	data := make([]byte, size)
	if _, err := got.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if there, err := os.ReadFile(Path(f)); err != nil || !bytes.Equal(there, data) {
		t.Errorf("by its path it is another, %v", err)
	}
	return data, nil
}

func TestPacked(t *testing.T) {
	want := disk()
	gz := pack(t, want, "gzip", "-c")
	for name, c := range map[string]struct {
		data []byte
		s    Source
		want []byte
		says string
	}{
		"plain.raw":      {want, Source{}, want, ""},
		"disk.raw.gz":    {gz, Source{}, want, ""},
		"disk.raw.xz":    {pack(t, want, "xz", "-c", "-T2"), Source{}, want, ""},
		"disk.raw.zst":   {pack(t, want, "zstd", "-c", "-q"), Source{}, want, ""},
		"disk.raw.bz2":   {pack(t, want, "bzip2", "-c"), Source{}, want, ""},
		"two.gz":         {append(bytes.Clone(gz), gz...), Source{}, append(bytes.Clone(want), want...), ""},
		"trailing.gz":    {append(bytes.Clone(gz), "more"...), Source{}, want, ""},
		"as it is.gz":    {gz, Source{Plain: true}, gz, ""},
		"zeros.xz":       {pack(t, make([]byte, 1<<20), "xz", "-c"), Source{}, make([]byte, 1<<20), ""},
		"cut.gz":         {gz[:len(gz)/2], Source{}, nil, "cannot be unpacked"},
		"cut.xz":         {pack(t, want, "xz", "-c")[:1000], Source{}, nil, "cannot be unpacked"},
		"broken.zst":     {[]byte("\x28\xb5\x2f\xfd and so on"), Source{}, nil, "cannot be unpacked"},
		"nothing.gz":     {pack(t, nil, "gzip", "-c"), Source{}, nil, "is empty"},
		"empty":          {nil, Source{}, nil, "is empty"},
		"root.tar.xz":    {pack(t, tarball(t, "etc/hostname"), "xz", "-c"), Source{}, nil, `a tar archive, whose first file is "etc/hostname"`},
		"appliance.ova":  {tarball(t, "box.ovf"), Source{}, nil, "is an OVA"},
		"a tar as it is": {tarball(t, "box.ovf"), Source{Plain: true}, tarball(t, "box.ovf"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.s.From = file(t, name, c.data)
			got, err := fetch(t, c.s)
			if c.says != "" {
				if !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.s.From) {
					t.Errorf("%v does not say %q", err, c.says)
				}
				return
			}
			if err != nil || !bytes.Equal(got, c.want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

func tarball(t *testing.T, name string) []byte {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return pack(t, nil, "tar", "--format=ustar", "--mtime=@0", "-C", dir, "-cf", "-", name)
}

// What is zeros takes no room, and what is more than there can be is not taken.
func TestSparse(t *testing.T) {
	s := Source{From: "-", Stdin: bytes.NewReader(disk()), Dir: t.TempDir()}
	f, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size != int64(len(disk())) || st.Blocks*512 > 2<<20 {
		t.Errorf("%d bytes take %d, %v", st.Size, st.Blocks*512, err)
	}
	out := &sparse{f: f, limit: 1 << 20}
	if _, err := io.Copy(out, bytes.NewReader(make([]byte, 2<<20))); !errors.Is(err, errTooLarge) {
		t.Errorf("%v", err)
	}
}

func TestPipe(t *testing.T) {
	want := disk()
	got, err := fetch(t, Source{From: "-", Stdin: bytes.NewReader(pack(t, want, "gzip", "-c"))})
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		if f, err := os.OpenFile(fifo, os.O_WRONLY, 0); err == nil {
			_, _ = f.Write(want)
			f.Close()
		}
	}()
	if got, err := fetch(t, Source{From: fifo}); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestChecksum(t *testing.T) {
	data := disk()
	path := file(t, "disk.raw", data)
	packed := pack(t, data, "gzip", "-c")
	gz := file(t, "disk.raw.gz", packed)
	good, ofPacked := fmt.Sprintf("%x", sha256.Sum256(data)), fmt.Sprintf("%x", sha256.Sum256(packed))
	for name, c := range map[string]struct{ from, sum, says string }{
		"right":             {path, "sha256:" + good, ""},
		"in capitals":       {path, "SHA256:" + strings.ToUpper(good), ""},
		"of what is packed": {gz, "sha256:" + ofPacked, ""},
		"of what is in it":  {gz, "sha256:" + good, "has the sha256 checksum " + ofPacked},
		"wrong":             {path, "sha256:" + strings.Repeat("0", 64), "has the sha256 checksum " + good},
		"too short":         {path, "sha256:12", "is not one"},
		"a list":            {path, file(t, "SHA256SUMS", []byte("# comment\n"+ofPacked+" *other.raw\n"+good+"  disk.raw\n")), ""},
		"BSD's list":        {gz, file(t, "CHECKSUM", []byte("SHA256 (disk.raw.gz) = "+ofPacked+"\n")), ""},
		"not in the list":   {path, file(t, "SHA256SUMS", []byte(good+"  other.raw\n")), "has none of disk.raw"},
		"no list":           {path, "/none", "neither ALGORITHM:HEX nor a list"},
	} {
		got, err := fetch(t, Source{From: c.from, Checksum: c.sum})
		if c.says == "" && (err != nil || !bytes.Equal(got, data)) || c.says != "" && (!errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestName(t *testing.T) {
	for from, want := range map[string]string{
		"/x/disk.raw": "disk.raw", "disk.qcow2.xz": "disk.qcow2", "-": "", "https://example.org/a/b.raw.zst?x=1": "b.raw", "https://example.org/": "", "https://example.org": "",
	} {
		if got := (Source{From: from}).Name(); got != want {
			t.Errorf("%s is called %q", from, got)
		}
	}
	if got := (Source{From: "https://me:secret@example.org/x"}).Called(); strings.Contains(got, "secret") {
		t.Error(got)
	}
}

// breaks serves a file that breaks off after so many bytes, as often as that.
type breaks struct {
	data   []byte
	after  int
	times  int
	etag   func(request int) string
	plain  bool // no ranges
	stall  chan struct{}
	served int
}

func (b *breaks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.served++
	if b.etag != nil {
		w.Header().Set("ETag", b.etag(b.served))
	}
	if b.times > 0 {
		b.times--
		w = &cut{w, b.after, b.stall, r.Context()}
	}
	if b.plain {
		w.Header().Set("Content-Length", fmt.Sprint(len(b.data)))
		_, _ = w.Write(b.data)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b.data))
}

// cut is a response that ends too early, or stands still.
type cut struct {
	http.ResponseWriter
	left  int
	stall chan struct{}
	ctx   context.Context
}

func (c *cut) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	if _, err := c.ResponseWriter.Write(p[:n]); err != nil {
		return 0, err
	}
	if c.left -= n; c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		if c.stall != nil {
			<-c.ctx.Done()
		}
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

func TestURL(t *testing.T) {
	fetchPause, stallLimit = time.Millisecond, 2*time.Second
	want := disk()
	same := func(int) string { return `"one"` }
	for name, c := range map[string]struct {
		server breaks
		says   string
		asked  int
	}{
		"whole":              {breaks{data: want}, "", 1},
		"breaks off":         {breaks{data: want, after: 1 << 20, times: 2, etag: same}, "", 3},
		"packed, breaks off": {breaks{data: pack(t, want, "xz", "-c"), after: 100_000, times: 3, etag: same}, "", 4},
		"stands still":       {breaks{data: want, after: 1 << 20, times: 1, etag: same, stall: make(chan struct{})}, "", 2},
		"changes":            {breaks{data: want, after: 1 << 20, times: 1, etag: func(n int) string { return fmt.Sprintf(`"%d"`, n) }}, "the file has changed", 2},
		"no ranges":          {breaks{data: want, after: 1 << 20, times: 1, plain: true}, "does not go on from there", 2},
		"a byte at a time":   {breaks{data: want, after: 1, times: 100, etag: same}, "", 101},
		"nothing comes":      {breaks{data: want, times: 100, etag: same}, "disk.raw", fetchTries},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(&c.server)
			defer server.Close()
			got, err := fetch(t, Source{From: server.URL + "/disk.raw"})
			if c.says == "" && (err != nil || !bytes.Equal(got, want)) || c.says != "" && (!errors.Is(err, ErrFetch) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if c.server.served != c.asked {
				t.Errorf("it was asked %d times, not %d", c.server.served, c.asked)
			}
		})
	}
	// What is not to be had.
	server := httptest.NewServer(http.NotFoundHandler())
	if _, err := fetch(t, Source{From: server.URL + "/x"}); !errors.Is(err, ErrFetch) || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("%v", err)
	}
	server.Close()
	if _, err := fetch(t, Source{From: server.URL + "/x"}); !errors.Is(err, ErrFetch) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
}

func TestTLS(t *testing.T) {
	want := disk()
	server := httptest.NewTLSServer(&breaks{data: want})
	defer server.Close()
	ca := file(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	if got, err := fetch(t, Source{From: server.URL, CACert: ca}); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := fetch(t, Source{From: server.URL}); !errors.Is(err, ErrFetch) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"/none", file(t, "x", []byte("x"))} {
		if _, err := fetch(t, Source{From: server.URL, CACert: bad}); !errors.Is(err, failure.ErrInvalid) {
			t.Errorf("%v", err)
		}
	}
}

// An interrupt ends it, whatever it waits for.
func TestFetchEnds(t *testing.T) {
	why := errors.New("interrupted")
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe() // of which more never comes
	defer w.Close()
	for _, from := range []string{"-", fifo} {
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			if from == "-" {
				_, _ = w.Write(disk())
			}
			cancel(why)
		}()
		if _, err := (Source{From: from, Stdin: r, Dir: t.TempDir()}).Open(ctx); !errors.Is(err, why) {
			t.Errorf("%s: %v", from, err)
		}
	}
	// Whoever waits for it to be written to goes.
	if f, err := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
		f.Close()
	}
}
