package rootfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/fault"
)

const (
	maxKept   = 1 << 30 // bytes of a file
	maxXattrs = 1 << 20 // bytes of a file's extended attributes
)

// kept is what stood at a path below a root.
type kept struct {
	// Path has no links, so that a file that several paths lead to is kept once. This
	// and the other names are bytes, for they need not be UTF-8.
	Path    []byte   `json:"path"`
	Missing [][]byte `json:"missing,omitempty"` // the directories above it that are not there
	Stood   thing    `json:"stood,omitzero"`    // zero: nothing
	// Accessed is not part of thing: a reader changes it.
	Accessed unix.Timespec `json:"accessed,omitzero"`
	Mount    mountID       `json:"mount"`
	IDs      *IDMap        `json:"ids,omitempty"`
}

// thing is a file or a link. Its ids are as the mount shows them.
type thing struct {
	Mode     uint32        `json:"mode"` // with the type
	UID      uint32        `json:"uid"`
	GID      uint32        `json:"gid"`
	Size     int64         `json:"size"`
	Modified unix.Timespec `json:"modified"`
	SHA256   []byte        `json:"sha256,omitempty"`
	Link     []byte        `json:"link,omitempty"`
	Xattrs   []xattr       `json:"xattrs,omitempty"`
}

type xattr struct {
	Name  []byte `json:"name"`
	Value []byte `json:"value"`
}

func (t thing) regular() bool { return t.Mode&unix.S_IFMT == unix.S_IFREG }

// mountID tells a mounted root from the bare directory below it, and from the same
// filesystem mounted with another mapping of ids.
type mountID struct {
	Inode uint64 `json:"inode"`
	UID   uint32 `json:"uid"`
}

// Keep keeps what stands at a path below a root that is not trusted, before WriteFile
// replaces it, in the directory into of the host's. It keeps a file's content, mode,
// owner, times and extended attributes, or where a link leads; that nothing stands
// there; and which directories above it are missing. It refuses what WriteFile refuses
// (ErrOutside), what is immutable or append-only, and a file of more than 1 GiB. For a
// path that is kept already, also by way of another link, nothing changes. When Keep
// returns, what it kept is on the disk. ids is as for WriteFile.
//
// A file with several names comes back as a file of its own.
func Keep(root, path, into string, ids *IDMap) error {
	if err := keep(root, path, into, ids); err != nil {
		return fmt.Errorf("cannot keep what stands at %s in the root: %w", path, err)
	}
	return nil
}

func keep(root, name, into string, ids *IDMap) error {
	if err := plain(name); err != nil {
		return err
	}
	top, mount, err := openMount(root)
	if err != nil {
		return err
	}
	defer top.Close()
	dir, missing, err := nearest(top, path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	at, err := pathIn(top, dir)
	if err != nil {
		return err
	}
	k := kept{Mount: mount, IDs: ids}
	for _, m := range missing {
		at = path.Join(at, m)
		k.Missing = append(k.Missing, []byte(at))
	}
	k.Path = []byte(path.Join(at, path.Base(name)))
	record := k.file(into)
	if _, err := os.Lstat(record); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, name := range []string{".", tempName, path.Base(name)} {
		if err := changeable(dir, name); err != nil {
			return err
		}
	}
	if err := makePrivate(into); err != nil {
		return err
	}
	if len(missing) == 0 {
		if err := k.look(dir, record+contentSuffix); err != nil {
			return err
		}
	}
	data, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := store(record+partialSuffix, func(f *os.File) error { _, err := f.Write(data); return err }); err != nil {
		return err
	}
	// The content has to be there before the record that speaks of it.
	if err := durable.SyncDir(into); err != nil {
		return err
	}
	fault.Point("rootfs/keep/stored")
	if err := os.Rename(record+partialSuffix, record); err != nil {
		return err
	}
	fault.Point("rootfs/keep/named")
	return durable.SyncDir(into)
}

// What the directory of the kept holds: of each path a record, and beside it its
// content. The record is a partial one at first.
const (
	recordSuffix  = ".json"
	contentSuffix = ".content"
	partialSuffix = ".partial"
)

// file is the path's record.
func (k *kept) file(dir string) string {
	sum := sha256.Sum256(k.Path)
	return filepath.Join(dir, hex.EncodeToString(sum[:16])+recordSuffix)
}

// look notes what stands at the path, and stores its content.
func (k *kept) look(dir *os.File, to string) (err error) {
	if k.Stood, k.Accessed, err = lookAt(dir, path.Base(string(k.Path)), to); err != nil || k.Stood.Mode == 0 {
		return err
	}
	for _, id := range []uint32{k.Stood.UID, k.Stood.GID} {
		if k.IDs != nil && (id < k.IDs.HostID || id-k.IDs.HostID >= k.IDs.Count) {
			return fmt.Errorf("its owner is outside the container's %d ids", k.IDs.Count)
		}
	}
	return nil
}

// lookAt says what has a name, nothing being no error. The content of a file is
// stored where to says, if it says something. What is neither a file nor a link is
// ErrOutside, and never opened.
func lookAt(dir *os.File, name, to string) (t thing, accessed unix.Timespec, err error) {
	at := int(dir.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = nil
		}
		return thing{}, accessed, err
	}
	t = thing{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size, Modified: st.Mtim}
	switch {
	case t.regular():
		t.SHA256, err = readFile(dir, name, st.Size, to)
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		var n int
		n, err = unix.Readlinkat(at, name, buf)
		t.Link = buf[:max(n, 0)]
	default:
		err = fmt.Errorf("%w: it is not a regular file", ErrOutside)
	}
	if err == nil {
		t.Xattrs, err = xattrs(dir, name)
	}
	if err != nil {
		return thing{}, accessed, err
	}
	return t, st.Atim, nil
}

// readFile gives a file's checksum, and stores what it holds where to says.
func readFile(dir *os.File, name string, size int64, to string) ([]byte, error) {
	if size > maxKept {
		return nil, fmt.Errorf("it is of %d bytes, more than the %d that are kept of a file", size, maxKept)
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	in := os.NewFile(uintptr(fd), name)
	defer in.Close()
	sum := sha256.New()
	if to == "" {
		_, err = io.Copy(sum, in)
	} else if err = store(to, func(f *os.File) error { return copySparse(f, io.TeeReader(in, sum)) }); err == nil {
		fault.Point("rootfs/keep/content")
	}
	return sum.Sum(nil), err
}

// copySparse fills a new file, and leaves out what is zero: neither here nor in the
// root does a file need more space than it did before.
func copySparse(to *os.File, from io.Reader) error {
	var zero, block [4096]byte
	for at := int64(0); ; {
		n, err := io.ReadFull(from, block[:])
		if !bytes.Equal(block[:n], zero[:n]) {
			if _, err := to.WriteAt(block[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return to.Truncate(at)
		case err != nil:
			return err
		}
	}
}

// xattrPath is a name in a directory for the calls that take no descriptor, and do
// not follow it.
func xattrPath(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}

func xattrs(dir *os.File, name string) (all []xattr, err error) {
	p := xattrPath(dir, name)
	names := make([]byte, 1<<16) // the kernel's limit
	n, err := unix.Llistxattr(p, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list its extended attributes: %w", err)
	}
	value, total := make([]byte, 1<<16), 0
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			return nil, fmt.Errorf("its extended attribute %q: %w", name, err)
		}
		if total += n; total > maxXattrs {
			return nil, fmt.Errorf("its extended attributes are of more than %d bytes", maxXattrs)
		}
		all = append(all, xattr{[]byte(name), bytes.Clone(value[:n])})
	}
	slices.SortFunc(all, func(a, b xattr) int { return bytes.Compare(a.Name, b.Name) })
	return all, nil
}

// setXattrs gives a new file or link the attributes, and takes away those that it
// inherited.
func setXattrs(dir *os.File, name string, want []xattr) error {
	p := xattrPath(dir, name)
	have, err := xattrs(dir, name)
	if err != nil {
		return err
	}
	for _, x := range have {
		if !slices.ContainsFunc(want, func(w xattr) bool { return bytes.Equal(w.Name, x.Name) }) {
			// One of two names of the same thing goes with the other.
			if e := unix.Lremovexattr(p, string(x.Name)); !errors.Is(e, unix.ENODATA) {
				err = errors.Join(err, e)
			}
		}
	}
	for _, x := range want {
		if !slices.ContainsFunc(have, func(h xattr) bool { return reflect.DeepEqual(h, x) }) {
			err = errors.Join(err, unix.Lsetxattr(p, string(x.Name), x.Value, 0))
		}
	}
	return err
}

// changeable refuses a name that cannot be replaced or removed.
func changeable(dir *os.File, name string) error {
	var st unix.Statx_t
	err := unix.Statx(int(dir.Fd()), name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return err
	case st.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0:
		return fmt.Errorf("%s is immutable or append-only (see chattr)", filepath.Join(dir.Name(), name))
	case name == tempName && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fmt.Errorf("%w: a directory is in the way as %s", ErrOutside, name)
	}
	return nil
}

// openMount opens the directory that a root is mounted at.
func openMount(root string) (*os.File, mountID, error) {
	dir, err := os.OpenFile(root, unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, mountID{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		dir.Close()
		return nil, mountID{}, err
	}
	return dir, mountID{st.Ino, st.Uid}, nil
}

// pathIn is the path in the root of a directory in it, without links.
func pathIn(root, dir *os.File) (string, error) {
	top, err := os.Readlink(fmt.Sprint("/proc/self/fd/", root.Fd()))
	if err != nil {
		return "", err
	}
	at, err := os.Readlink(fmt.Sprint("/proc/self/fd/", dir.Fd()))
	if err != nil {
		return "", err
	}
	in, err := filepath.Rel(top, at)
	if err != nil || !filepath.IsLocal(in) {
		return "", fmt.Errorf("%w: %s is not below %s", ErrOutside, at, top)
	}
	return path.Join("/", in), nil
}

func syncFS(dir *os.File) error {
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("write it to the disk: %w", err)
	}
	return nil
}

// makePrivate makes a directory of the host's that is nobody else's.
func makePrivate(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil { // whatever the umask is
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// store writes a file of the host's to the disk, or leaves none.
func store(name string, fill func(*os.File) error) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(name)
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	return f.Sync()
}
