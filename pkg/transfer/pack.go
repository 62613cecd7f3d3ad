package transfer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// namesAtOnce is how many names of a directory are held in memory.
const namesAtOnce = 4096

// wholeLimit is how much is read of a file that says it has no bytes, as those of /proc do.
const wholeLimit = 1 << 20

// Base is what the copy of a path is called in a directory, and whether it has no name
// there: of "/", "DIR/." and ".." it is the content that is copied.
func Base(name string) (base string, content bool) {
	base = path.Base(name) // which takes the slashes at the end away
	if base == "." || base == ".." || base == "/" {
		return "", true
	}
	return base, false
}

// PackOptions say how a path is read.
type PackOptions struct {
	Follow bool // where the path is a link, what that leads to is copied
	Pipes  bool // where the path is a FIFO, what comes out of it is copied
}

// Pack writes the file or the tree at a path, but no Finish. A path that is a link is copied
// as one, unless Follow is set or a slash or dot comes after it. Devices, sockets, and what
// goes away meanwhile are told and left out.
func Pack(w *Writer, name string, o PackOptions) error {
	follow := o.Follow
	var to unix.Stat_t
	piped := o.Pipes && unix.Stat(name, &to) == nil && to.Mode&unix.S_IFMT == unix.S_IFIFO // /dev/stdin is a link
	if _, content := Base(name); content || piped || strings.HasSuffix(name, "/") {
		follow = true
	}
	if name == "" {
		name = "."
	}
	p := packer{w: w, pipes: o.Pipes, linked: map[inode]string{}}
	base, _ := Base(name)
	var st unix.Stat_t
	flags := 0
	if !follow {
		flags = unix.AT_SYMLINK_NOFOLLOW
	}
	if err := unix.Fstatat(unix.AT_FDCWD, name, &st, flags); err != nil {
		return failure.Invalid("cannot copy %q: %w", name, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		dir, err := open(unix.AT_FDCWD, name, &st, unix.O_DIRECTORY|flag(follow))
		if err != nil {
			return fmt.Errorf("cannot copy %q: %w", name, err)
		}
		defer dir.Close()
		return p.directory(dir, ".", &st)
	}
	return p.entry(unix.AT_FDCWD, name, base, &st, flag(follow))
}

func flag(follow bool) int {
	if follow {
		return 0
	}
	return unix.O_NOFOLLOW
}

type inode struct{ dev, ino uint64 }

type packer struct {
	w      *Writer
	pipes  bool
	linked map[inode]string // files that have further names, by what they are called
}

// open opens what was looked at, and nothing that has come in its place.
func open(at int, name string, was *unix.Stat_t, flags int) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Dev != was.Dev || st.Ino != was.Ino {
		unix.Close(fd)
		return nil, errors.New("another file came in its place")
	}
	return os.NewFile(uintptr(fd), name), nil
}

// entryOf is what a stat says.
func entryOf(t Type, name string, st *unix.Stat_t) Entry {
	return Entry{Type: t, Name: name, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, MTime: time.Unix(st.Mtim.Unix())}
}

// directory packs a directory and what is in it.
func (p *packer) directory(dir *os.File, name string, st *unix.Stat_t) error {
	if err := p.w.Entry(entryOf(Directory, name, st)); err != nil {
		return err
	}
	for {
		names, err := dir.Readdirnames(namesAtOnce)
		if err != nil && err != io.EOF {
			return fmt.Errorf("cannot read the directory %q: %w", name, err)
		}
		slices.Sort(names)
		for _, n := range names {
			if err := p.child(dir, n, path.Join(name, n), st.Dev); err != nil {
				return err
			}
		}
		if len(names) == 0 {
			return nil
		}
	}
}

// child packs one name of a directory.
func (p *packer) child(dir *os.File, base, name string, dev uint64) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		var sub *os.File
		if sub, err = open(int(dir.Fd()), base, &st, unix.O_DIRECTORY|unix.O_NOFOLLOW); err == nil {
			defer sub.Close()
			if st.Dev != dev && kernels(sub) {
				return p.w.Entry(entryOf(Directory, name, &st)) // its mountpoint alone
			}
			return p.directory(sub, name, &st)
		}
	} else if err == nil {
		return p.entry(int(dir.Fd()), base, name, &st, unix.O_NOFOLLOW)
	}
	if errors.Is(err, unix.ENOENT) {
		return p.w.Warn("%q was removed while it was to be copied", name)
	}
	return fmt.Errorf("cannot copy %q: %w", name, err)
}

// kernels says whether a directory is of a filesystem that shows the kernel's state, and
// keeps nobody's files.
func kernels(dir *os.File) bool {
	var fs unix.Statfs_t
	if unix.Fstatfs(int(dir.Fd()), &fs) != nil {
		return false
	}
	switch fs.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC:
		return true
	}
	return false
}

// entry packs what is no directory.
func (p *packer) entry(at int, base, name string, st *unix.Stat_t, flags int) error {
	top := at == unix.AT_FDCWD
	e := entryOf(File, name, st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return p.file(at, base, e, st, flags)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(at, base, buf)
		if err != nil {
			return fmt.Errorf("cannot copy %q: %w", name, err)
		}
		e.Type, e.Link, e.Mode = Symlink, string(buf[:n]), 0o777
		return p.w.Entry(e)
	case unix.S_IFIFO:
		if top && p.pipes {
			return p.pipe(base, e)
		}
		if !top {
			e.Type = FIFO
			return p.w.Entry(e)
		}
	}
	what := map[uint32]string{unix.S_IFIFO: "a FIFO", unix.S_IFBLK: "a block device", unix.S_IFCHR: "a character device", unix.S_IFSOCK: "a socket"}[st.Mode&unix.S_IFMT]
	if top {
		return failure.Invalid("cannot copy %q: it is %s, and only files, directories and links are copied", base, what)
	}
	return p.w.Warn("%q is %s, and was left out", name, what)
}

// file packs a regular file, or its further name.
func (p *packer) file(at int, base string, e Entry, st *unix.Stat_t, flags int) error {
	id := inode{st.Dev, st.Ino}
	if first, again := p.linked[id]; again {
		e.Type, e.Link = HardLink, first
		return p.w.Entry(e)
	}
	f, err := open(at, base, st, flags)
	if errors.Is(err, unix.ENOENT) && at != unix.AT_FDCWD {
		return p.w.Warn("%q was removed while it was to be copied", e.Name)
	}
	if err != nil {
		return fmt.Errorf("cannot copy %q: %w", e.Name, err)
	}
	defer f.Close()
	if st.Nlink > 1 && at != unix.AT_FDCWD {
		p.linked[id], e.Shared = e.Name, true
	}
	if e.Size = st.Size; e.Size == 0 {
		return p.whole(f, e)
	}
	if err := p.w.Entry(e); err != nil {
		return err
	}
	if err := p.content(f, e); err != nil {
		return err
	}
	return p.w.End(e.Size)
}

// whole packs what there is to read of a file without a size.
func (p *packer) whole(f *os.File, e Entry) error {
	data, err := io.ReadAll(io.LimitReader(f, wholeLimit+1))
	switch {
	case err != nil:
		return fmt.Errorf("cannot read %q: %w", e.Name, err)
	case len(data) > wholeLimit:
		return fmt.Errorf("cannot copy %q: it says that it has no bytes, and has more than %d", e.Name, wholeLimit)
	}
	e.Size = int64(len(data))
	if err := p.w.Entry(e); err != nil {
		return err
	}
	if err := p.w.Data(0, data); err != nil {
		return err
	}
	return p.w.End(e.Size)
}

// content packs as many bytes of a file as it said to have, without its holes.
func (p *packer) content(f *os.File, e Entry) error {
	buf := make([]byte, chunk)
	for at := int64(0); at < e.Size; {
		begin, end, err := data(f, at, e.Size)
		if err != nil {
			return fmt.Errorf("cannot read %q: %w", e.Name, err)
		}
		for at = begin; at < end; {
			n, err := f.ReadAt(buf[:min(chunk, end-at)], at)
			if werr := p.w.Data(at, buf[:n]); werr != nil {
				return werr
			}
			at += int64(n)
			if err == io.EOF && at < e.Size {
				return p.w.Warn("%q became shorter while it was copied: its end is zeros", e.Name)
			}
			if err != nil && err != io.EOF {
				return fmt.Errorf("cannot read %q: %w", e.Name, err)
			}
		}
	}
	return nil
}

// data is where the next data of a file are, from an offset on; at its end when there are none.
func data(f *os.File, from, size int64) (begin, end int64, err error) {
	begin, err = unix.Seek(int(f.Fd()), from, unix.SEEK_DATA)
	switch err {
	case nil:
		if end, err = unix.Seek(int(f.Fd()), begin, unix.SEEK_HOLE); err != nil {
			end = size
		}
		return min(begin, size), min(end, size), nil
	case unix.ENXIO:
		return size, size, nil
	case unix.EINVAL: // the filesystem does not know
		return from, size, nil
	}
	return 0, 0, err
}

// pipe packs what comes out of a pipe.
func (p *packer) pipe(name string, e Entry) error {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("cannot copy %q: %w", name, err)
	}
	defer f.Close()
	e.Size, e.Mode, e.MTime = -1, 0o644, time.Now()
	if err := p.w.Entry(e); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	at := int64(0)
	for {
		n, err := f.Read(buf)
		if werr := p.w.Data(at, buf[:n]); werr != nil {
			return werr
		}
		at += int64(n)
		if err == io.EOF && at == 0 {
			return failure.Invalid("nothing came through the pipe %s: somebody has to have it open for writing", name)
		}
		if err == io.EOF {
			return p.w.End(at)
		}
		if err != nil {
			return fmt.Errorf("cannot read %q: %w", name, err)
		}
	}
}
