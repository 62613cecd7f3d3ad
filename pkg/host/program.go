package host

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// Docs is a page of the docs, or, of an empty name, their directory: where make install and
// the package have them for the program that runs, or as it is called in the source.
func Docs(page string) (path string, installed bool) {
	exe, err := os.Executable()
	if err == nil {
		path = filepath.Join(filepath.Dir(exe), "../share/doc/lxcboot", page)
		_, err = os.Stat(path)
	}
	if err != nil {
		return filepath.Join("docs", page), false
	}
	return path, true
}

// Program finds a program of ours that is no command of its own: beside the program that
// runs, or in ../libexec/lxcboot. One that another user could have put there is not run.
// Errors are of the kind exec.ErrNotFound.
func Program(name string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(exe)
	for _, path := range []string{filepath.Join(dir, name), filepath.Join(dir, "../libexec/lxcboot", name)} {
		var st unix.Stat_t
		switch err := unix.Lstat(path, &st); {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			continue
		case err != nil:
			return "", failure.Of(exec.ErrNotFound, "%s cannot be looked at: %w", path, err)
		case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 || st.Mode&0o022 != 0 || int(st.Uid) != os.Geteuid():
			return "", failure.Of(exec.ErrNotFound, "%s is not a program that its owner alone can write, or not of this user", path)
		}
		return path, nil
	}
	return "", failure.Of(exec.ErrNotFound, "%s is not installed beside %s, nor in ../libexec/lxcboot", name, exe)
}
