package imagefile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// packing is a way of compressing a file, and the program that unpacks it.
type packing struct {
	name, magic, suffix string
	program             []string
	pack                string // Debian's package that has it
}

var packings = []packing{
	{"gzip", "\x1f\x8b\x08", ".gz", []string{"gzip", "-dc"}, "gzip"},
	{"xz", "\xfd7zXZ\x00", ".xz", []string{"xz", "-dc"}, "xz-utils"},
	{"zstd", "\x28\xb5\x2f\xfd", ".zst", []string{"zstd", "-dcq"}, "zstd"},
	{"bzip2", "BZh", ".bz2", []string{"bzip2", "-dc"}, "bzip2"},
}

// packingOf is how a file with this beginning is compressed; nil: it is not.
func packingOf(head []byte) *packing {
	for i := range packings {
		if strings.HasPrefix(string(head), packings[i].magic) {
			return &packings[i]
		}
	}
	return nil
}

// memory is how much the program may take: what is packed says how much it wants.
const memory = "--as=2147483648"

// unpack unpacks a stream, which is read to its end.
func (p packing) unpack(ctx context.Context, r io.Reader, w io.Writer) error {
	if _, err := exec.LookPath(p.program[0]); err != nil {
		return fmt.Errorf("it is packed with %s, and %w: run 'apt-get install %s'", p.name, err, p.pack)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "prlimit", append([]string{memory, "--core=0", "--"}, p.program...)...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	fed := make(chan error, 1)
	go func() {
		_, err := io.Copy(in, r)
		if errors.Is(err, syscall.EPIPE) { // it has ended: that says why
			err = nil
		}
		in.Close()
		fed <- err
	}()
	_, err = io.CopyBuffer(w, out, make([]byte, 1<<20))
	if err != nil {
		cancel()
	}
	feed := <-fed
	ended := cmd.Wait()
	const trailing = 2 // gzip's word of what follows what is packed
	var exit *exec.ExitError
	switch {
	case feed != nil:
		return feed
	case err != nil:
		return err
	case p.name == "gzip" && errors.As(ended, &exit) && exit.ExitCode() == trailing && strings.Contains(said.String(), "trailing garbage"):
		return nil
	case ended != nil:
		line, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		return failure.Invalid("it is packed with %s, and cannot be unpacked (%v): %s", p.name, ended, line)
	}
	return nil
}
