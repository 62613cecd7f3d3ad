package imagefile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// Source is where an image comes from, as its maker publishes it.
type Source struct {
	From     string    // a path, "-", or an http or https URL
	Stdin    io.Reader // what "-" is
	Plain    bool      // it is meant as it is, packed or not
	Tree     bool      // it is an archive of a root's tree, and no disk
	Checksum string    // of what is published: ALGORITHM:HEX, or the path or URL of a list of them; empty: not looked at
	Dir      string    // where what is no plain file is kept for the moment
	CACert   string    // a file with the certificates of authorities that are trusted beside the system's
	// Progress, when set, is told the bytes of what is published that were read, and how many
	// there are; 0: that is not known.
	Progress func(done, total int64)
}

// Stream says whether the source can be read only once, from its beginning to its end.
func (s Source) stream() bool { return s.From == "-" || s.remote() }

func (s Source) remote() bool {
	return strings.HasPrefix(s.From, "http://") || strings.HasPrefix(s.From, "https://")
}

// Called is the source in messages: a URL without its password.
func (s Source) Called() string {
	if u, err := url.Parse(s.From); s.remote() && err == nil {
		return u.Redacted()
	}
	if s.From == "-" {
		return "standard input"
	}
	return s.From
}

// Name is what the image is called if nobody says: the name of the file, as it is unpacked;
// empty: there is none.
func (s Source) Name() string {
	name := filepath.Base(s.From)
	switch u, err := url.Parse(s.From); {
	case s.From == "-", s.remote() && err != nil:
		return ""
	case s.remote():
		name = path.Base(u.Path)
	}
	for _, p := range packings {
		name = strings.TrimSuffix(name, p.suffix)
	}
	if s.Tree {
		name = strings.TrimSuffix(strings.TrimSuffix(name, ".tar"), ".tgz")
	}
	if name == "." || name == "/" {
		return ""
	}
	return name
}

// Open gives the image: the file itself, or, of what comes from elsewhere or is packed, a
// file that has no name and goes when it is closed. Errors are failure.ErrInvalid, ErrFetch,
// or those of the file.
func (s Source) Open(ctx context.Context) (*os.File, error) {
	sum, err := s.checksum(ctx)
	if err != nil {
		return nil, err
	}
	in, size, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	keep := false
	defer func() {
		if !keep {
			in.Close()
		}
	}()
	head := make([]byte, 512)
	n, err := io.ReadFull(in, head)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF { // bare, they say that it ends here; a connection that broke off wraps one
		return nil, fmt.Errorf("reading %s: %w", s.Called(), err)
	}
	if head = head[:n]; n == 0 {
		return nil, failure.Invalid("image file %s is empty", s.Called())
	}
	packed := packingOf(head)
	plain, isFile := in.(*os.File)
	isFile = isFile && !s.stream() && (packed == nil || s.Plain)
	r := io.Reader(io.MultiReader(bytes.NewReader(head), in))
	if sum != nil {
		r = io.TeeReader(r, sum.hash)
	}
	r = &counted{r: r, size: size, tell: s.Progress, ctx: ctx}
	if isFile {
		keep = true
		if sum != nil {
			if _, err = io.Copy(io.Discard, r); err == nil {
				err = sum.check(s.Called())
			}
		}
		if err == nil {
			err = s.archive(plain)
		}
		if err == nil {
			_, err = plain.Seek(0, io.SeekStart)
		}
		if err != nil {
			plain.Close()
			return nil, err
		}
		return plain, nil
	}
	return s.spool(ctx, r, packed, sum)
}

// spool copies the source, unpacked, into a file without a name.
func (s Source) spool(ctx context.Context, r io.Reader, packed *packing, sum *sum) (*os.File, error) {
	f, err := s.nameless()
	if err != nil {
		return nil, fmt.Errorf("a file in %s: %w", s.Dir, err)
	}
	limit, err := room(f)
	out := &sparse{f: f, limit: limit}
	if err == nil {
		if packed == nil || s.Plain {
			_, err = io.CopyBuffer(out, r, make([]byte, 1<<20))
		} else {
			err = packed.unpack(ctx, r, out)
		}
	}
	if err == nil { // what follows what is packed has a part in the checksum
		_, err = io.Copy(io.Discard, r)
	}
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, errTooLarge):
		err = failure.Invalid("image file %s has more than %d bytes, which the whole filesystem of %s has not", s.Called(), limit, s.Dir)
	case err != nil:
		err = fmt.Errorf("image file %s: %w", s.Called(), err)
	default:
		err = out.end()
	}
	if err == nil && sum != nil {
		err = sum.check(s.Called())
	}
	if err == nil && out.size == 0 {
		err = failure.Invalid("image file %s is empty", s.Called())
	}
	if err == nil {
		err = s.archive(f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// open gives what is published, and its size; 0: that is not known.
func (s Source) open(ctx context.Context) (io.ReadCloser, int64, error) {
	if s.From == "-" {
		return aside(ctx, func() (io.ReadCloser, error) { return io.NopCloser(s.Stdin), nil }), 0, nil
	}
	if s.remote() {
		r, err := s.get(ctx, s.From)
		if err != nil {
			return nil, 0, err
		}
		return r, r.size, nil
	}
	info, err := os.Stat(s.From)
	if err != nil {
		return nil, 0, failure.Invalid("cannot read the image file: %v", err)
	}
	if info.Mode()&os.ModeNamedPipe != 0 {
		return aside(ctx, func() (io.ReadCloser, error) { return os.Open(s.From) }), 0, nil
	}
	f, size, err := Open(s.From)
	if err != nil {
		return nil, 0, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, size, err
}

// aside reads what may never come, and so ends with the context all the same; what waits for
// it then goes with the process.
func aside(ctx context.Context, open func() (io.ReadCloser, error)) io.ReadCloser {
	r, w := io.Pipe()
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	go func() {
		defer stop()
		f, err := open()
		if err == nil {
			_, err = io.Copy(w, f)
			f.Close()
		}
		w.CloseWithError(err) // nil: its end
	}()
	return r
}

// archive refuses an OVA, and the tree of a root where a disk is wanted, and says what to do
// with them.
func (s Source) archive(f *os.File) error {
	head := make([]byte, 512)
	if _, err := f.ReadAt(head, 0); err != nil || s.Plain || string(head[257:262]) != "ustar" {
		if s.Tree {
			return failure.Invalid("image file %s is no tar archive, and --size makes a disk of one: leave it out", s.Called())
		}
		return nil
	}
	first, _, _ := strings.Cut(string(head[:100]), "\x00")
	if strings.HasSuffix(first, ".ovf") {
		return failure.Invalid("image file %s is an OVA, an archive with disks in it: unpack it with 'tar -xf', and import the disk", s.Called())
	}
	if s.Tree {
		return nil
	}
	return failure.Invalid("image file %s is a tar archive, whose first file is %q, and no disk: if it is the tree of a root, say how many GiB the disk has that it is made into, as in --size 2; else unpack it", s.Called(), first)
}

// Blank makes a file of zeros of this many bytes, which has no name and goes when it is
// closed.
func (s Source) Blank(size int64) (*os.File, error) {
	f, err := s.nameless()
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		return nil, fmt.Errorf("a file of %d bytes in %s: %w", size, s.Dir, err)
	}
	return f, nil
}

// nameless makes a file that goes when it is closed.
func (s Source) nameless() (*os.File, error) {
	fd, err := unix.Open(s.Dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) { // as on NFS
		var f *os.File
		if f, err = os.CreateTemp(s.Dir, ".image-"); err == nil {
			err = os.Remove(f.Name())
		}
		return f, err
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), s.Called()), nil
}

// room is how large the filesystem of a file is.
func room(f *os.File) (int64, error) {
	var st unix.Statfs_t
	err := unix.Fstatfs(int(f.Fd()), &st)
	return int64(st.Blocks) * st.Bsize, err
}

// counted tells how much of a source was read, and ends with its context.
type counted struct {
	r    io.Reader
	ctx  context.Context
	done int64
	size int64
	tell func(done, total int64)
}

func (c *counted) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	if c.done += int64(n); c.tell != nil && n > 0 {
		c.tell(c.done, c.size)
	}
	return n, err
}

var errTooLarge = errors.New("too large")

// sparse writes a file, and leaves out blocks of zeros.
type sparse struct {
	f     *os.File
	size  int64
	limit int64
}

const block = 4 << 10

func (s *sparse) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		// Up to the next border of a block.
		part := p[:min(int64(len(p)), block-s.size%block)]
		if s.size+int64(len(part)) > s.limit {
			return 0, errTooLarge
		}
		if !zeros(part) {
			// As far as there is data, in one piece.
			for len(part) < len(p) {
				next := p[len(part):min(len(part)+block, len(p))]
				if zeros(next) {
					break
				}
				part = p[:len(part)+len(next)]
			}
			if s.size+int64(len(part)) > s.limit {
				return 0, errTooLarge
			}
			if _, err := s.f.WriteAt(part, s.size); err != nil {
				return 0, err
			}
		}
		s.size += int64(len(part))
		p = p[len(part):]
	}
	return n, nil
}

var zeroBlock [block]byte

func zeros(p []byte) bool { return bytes.Equal(p, zeroBlock[:len(p)]) }

// end gives the file its size, should it end with zeros.
func (s *sparse) end() error {
	if err := s.f.Truncate(s.size); err != nil {
		return err
	}
	_, err := s.f.Seek(0, io.SeekStart)
	return err
}
