package transfer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// UnpackOptions say what is made of a stream.
type UnpackOptions struct {
	Base    string // what the copy is called in a directory; empty: the content of one is copied
	Members bool   // entries are those of an archive, unpacked in a directory; any may have further names
	Owner   bool   // entries keep their ids, else all is UID's and GID's
	UID     uint32
	GID     uint32
	SetID   bool // setuid and setgid are kept
}

// Unpack makes the files of a stream at a path, up to its end. A file has its name once it is
// whole. What is there already stays, but for files that have the name of a file that comes;
// directories keep their mode, owner and time.
func Unpack(r *Reader, dest string, o UnpackOptions) error {
	first, err := r.Next()
	if err == io.EOF && o.Members {
		_, err = o.find(dest, first)
		return err
	}
	if err == io.EOF {
		return errEnded
	}
	if err != nil {
		return err
	}
	to, err := o.find(dest, first)
	if err != nil {
		return err
	}
	u := &unpacker{r: r, o: o, top: to.dir, files: map[string]inode{}}
	defer u.closeAll()
	if to.name != "" {
		first.Name = to.name
		if err := u.make(first); err != nil {
			return err
		}
		if _, err = r.Next(); err != io.EOF {
			return errors.Join(err, errors.New("more came than one file"))
		}
		return nil
	}
	if first.Name != "." {
		err = u.make(first)
	} else if to.made {
		u.pending = append(u.pending, pending{entry: first, dir: to.dir})
		u.top = to.dir
	}
	for err == nil {
		var e Entry
		if e, err = r.Next(); err == nil && e.Name != "." {
			err = u.make(e)
		}
	}
	if err != io.EOF {
		return err
	}
	return u.settle("")
}

// pending is a directory that gets its mode and time when all is in it.
type pending struct {
	entry Entry
	dir   *os.File
}

type unpacker struct {
	r       *Reader
	o       UnpackOptions
	top     *os.File
	pending []pending // each below the one before
	parent  *os.File  // of the last entry, if it is none of pending
	within  string    // what that is called
	files   map[string]inode
}

func (u *unpacker) closeAll() {
	for _, p := range u.pending {
		p.dir.Close()
	}
	u.top.Close()
	if u.parent != nil {
		u.parent.Close()
	}
}

// make makes what an entry says.
func (u *unpacker) make(e Entry) error {
	if err := u.settle(e.Name); err != nil {
		return err
	}
	parent, err := u.open(path.Dir(e.Name))
	if err == nil {
		err = u.place(parent, path.Base(e.Name), e)
	}
	var remote *RemoteError
	if err == nil || errors.Is(err, errEnded) || errors.As(err, &remote) {
		return err
	}
	return fmt.Errorf("cannot make %q: %w", e.Name, err)
}

// settle finishes the directories that a name is not below.
func (u *unpacker) settle(name string) error {
	for n := len(u.pending); n > 0; n-- {
		p := u.pending[n-1]
		if name != "" && (p.entry.Name == "." || strings.HasPrefix(name, p.entry.Name+"/")) {
			return nil
		}
		if err := u.describe(p.dir, p.entry); err != nil {
			return fmt.Errorf("cannot finish the directory %q: %w", p.entry.Name, err)
		}
		if p.dir != u.top {
			p.dir.Close()
		}
		u.pending = u.pending[:n-1]
	}
	return nil
}

// open opens the directory of this name below the top, and makes it if there is none.
func (u *unpacker) open(name string) (*os.File, error) {
	if name == "." {
		return u.top, nil
	}
	for _, p := range u.pending {
		if p.entry.Name == name {
			return p.dir, nil
		}
	}
	if u.parent != nil && u.within == name {
		return u.parent, nil
	}
	dir, err := openDir(u.top, name)
	if errors.Is(err, unix.ENOENT) {
		dir, err = u.makeAll(name)
	}
	if err != nil {
		return nil, inTheWay(name, err)
	}
	if u.parent != nil {
		u.parent.Close()
	}
	u.parent, u.within = dir, name
	return dir, nil
}

func inTheWay(name string, err error) error {
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("%q is there, or something on the way to it, and is not a directory", name)
	}
	return err
}

// makeAll makes directories that an archive does not list.
func (u *unpacker) makeAll(name string) (*os.File, error) {
	dir, within := u.top, ""
	for _, part := range strings.Split(name, "/") {
		within = path.Join(within, part)
		err := unix.Mkdirat(int(dir.Fd()), part, 0o755)
		made := err == nil
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
		next, err := openDir(dir, part)
		if dir != u.top {
			dir.Close()
		}
		if err == nil && made {
			err = next.Chown(int(u.o.UID), int(u.o.GID))
		}
		if err != nil {
			return nil, inTheWay(within, err)
		}
		dir = next
	}
	return dir, nil
}

// place makes an entry in its directory.
func (u *unpacker) place(parent *os.File, base string, e Entry) error {
	at := int(parent.Fd())
	switch e.Type {
	case Directory:
		err := unix.Mkdirat(at, base, 0o700)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		made := err == nil
		dir, err := openDir(parent, base)
		if err != nil {
			return inTheWay(e.Name, err)
		}
		if !made {
			return dir.Close()
		}
		u.pending = append(u.pending, pending{e, dir})
		return nil
	case File:
		return u.file(parent, base, e)
	case Symlink:
		return replace(at, base, func(temporary string) error {
			if err := unix.Symlinkat(e.Link, at, temporary); err != nil {
				return err
			}
			return u.own(at, temporary, e)
		})
	case FIFO:
		return replace(at, base, func(temporary string) error {
			umask := unix.Umask(0) // the process's: nothing else in it makes files meanwhile
			err := unix.Mknodat(at, temporary, unix.S_IFIFO|e.Mode&0o777, 0)
			unix.Umask(umask)
			if err != nil {
				return err
			}
			// The directory may have a default ACL. Before Linux 6.6 there is no way that follows
			// no link, and what that made of the mode stays.
			if err := unix.Fchmodat(at, temporary, e.Mode&0o777, unix.AT_SYMLINK_NOFOLLOW); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
				return err
			}
			return u.own(at, temporary, e)
		})
	}
	return u.link(at, base, e)
}

// link gives a file that came before a further name.
func (u *unpacker) link(at int, base string, e Entry) error {
	from, err := u.openOnly(path.Dir(e.Link))
	if err != nil {
		return inTheWay(e.Link, err)
	}
	if from != u.top {
		defer from.Close()
	}
	return replace(at, base, func(temporary string) error {
		if err := unix.Linkat(int(from.Fd()), path.Base(e.Link), at, temporary, 0); err != nil {
			return fmt.Errorf("as another name of %q: %w", e.Link, err)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(at, temporary, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if came, ok := u.files[e.Link]; !u.o.Members && (!ok || came != inode{st.Dev, st.Ino}) {
			return fmt.Errorf("it is to be another name of %q, which is no file that came before", e.Link)
		}
		return nil
	})
}

func (u *unpacker) openOnly(name string) (*os.File, error) {
	if name == "." {
		return u.top, nil
	}
	return openDir(u.top, name)
}
