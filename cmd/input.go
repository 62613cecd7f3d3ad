package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// The most bytes that are read of a file that was named on the command line. What a
// container is given goes into its record; the limit of user data is Nova's.
const (
	maxFile   = 16 << 20
	maxKeys   = 1 << 20
	maxConfig = 1 << 20
)

// readInput reads a file that was named on the command line, of at most limit bytes:
// a regular file, or a pipe, as a shell's <(…) and /dev/stdin are. Nothing else is
// opened for good: a device may do something, or never end. A pipe that somebody has
// open for writing is waited for, until ctx ends.
func readInput(ctx context.Context, path string, limit int64) ([]byte, fs.FileMode, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	pipe := info.Mode()&fs.ModeNamedPipe != 0
	if !pipe && !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is neither a regular file nor a pipe", path)
	}
	if pipe {
		stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Now()) })
		defer stop()
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case ctx.Err() != nil:
		return nil, 0, context.Cause(ctx)
	case err != nil:
		return nil, 0, err
	case int64(len(data)) > limit:
		return nil, 0, fmt.Errorf("%s has more than %d bytes, which are the most that are read of it", path, limit)
	case pipe && len(data) == 0:
		return nil, 0, fmt.Errorf("nothing came through the pipe %s: somebody has to have it open for writing", path)
	}
	return data, info.Mode().Perm(), nil
}

// inputError says of a file of the command line that it cannot be used: what names the
// flag. An interrupt stays one.
func inputError(what string, err error) error {
	if _, ok := errors.AsType[*interruptedError](err); ok {
		return err
	}
	return failure.Invalid("%s: %v", what, err)
}

// keyValues reads the KEY=VALUE pairs of a flag; the value may hold further '='.
func keyValues(flag string, pairs []string) (map[string]string, error) {
	all := map[string]string{}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, failure.Invalid("%s: '['%s']' is not in the format of 'key=value'", flag, p)
		}
		if _, twice := all[k]; twice {
			return nil, failure.Invalid("%s %q: the key %q is given twice", flag, p, k)
		}
		all[k] = v
	}
	return all, nil
}
