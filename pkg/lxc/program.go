package lxc

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/inroot"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

// machines are the programs that a kernel for a Go architecture runs.
var machines = map[string][]elf.Machine{
	"amd64": {elf.EM_X86_64, elf.EM_386}, "arm64": {elf.EM_AARCH64, elf.EM_ARM},
	"ppc64le": {elf.EM_PPC64}, "s390x": {elf.EM_S390}, "riscv64": {elf.EM_RISCV}, "loong64": {elf.EM_LOONGARCH},
}

// CheckInit says why a container with this root, a directory on this host, cannot run its
// init, a path in the root; nil when nothing speaks against it. It does not depend on what
// libvirt says of a start.
func CheckInit(root, init string) error {
	dir, err := os.Open(root)
	if err != nil {
		return fmt.Errorf("its root filesystem cannot be read: %w", err)
	}
	defer dir.Close()
	if _, err := dir.Readdirnames(1); err == io.EOF {
		return fmt.Errorf("its root filesystem %s is empty", root)
	}
	if why := unrunnable(dir, init, interpreters); why != "" {
		return fmt.Errorf("its init %s cannot be run: %s", tty.Line(init), why)
	}
	return nil
}

// interpreters is how many of them the kernel follows from a script to a program.
const interpreters = 5

// unrunnable says why a program below a root cannot be run; empty when nothing speaks
// against it. Links are followed inside the root only.
func unrunnable(root *os.File, name string, interpreters int) string {
	f, err := inroot.Open(root, name, unix.O_RDONLY)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		return "it is not in the root filesystem"
	case err != nil:
		return fmt.Sprintf("it cannot be read: %v", err)
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil || !st.Mode().IsRegular():
		return "it is not a regular file"
	case st.Mode().Perm()&0o111 == 0:
		return "it is not executable; make it so with chmod"
	}
	head := make([]byte, 256)
	n, _ := f.ReadAt(head, 0)
	if script, ok := bytes.CutPrefix(head[:n], []byte("#!")); ok {
		line, _, _ := bytes.Cut(script, []byte("\n"))
		words := strings.Fields(string(line))
		switch {
		case len(words) == 0 || !isFile(root, words[0]):
			return fmt.Sprintf("its interpreter %s is not in the root filesystem", tty.Line(strings.TrimSpace(string(line))))
		case interpreters == 0:
			return "its interpreters are scripts themselves, too many of them"
		}
		if why := unrunnable(root, words[0], interpreters-1); why != "" {
			return fmt.Sprintf("its interpreter %s cannot be run: %s", tty.Line(words[0]), why)
		}
		return ""
	}
	e, err := elf.NewFile(io.NewSectionReader(f, 0, st.Size()))
	if err != nil {
		return "it is neither a script with '#!' nor a program for this machine"
	}
	if known := machines[runtime.GOARCH]; known != nil {
		fits := false
		for _, m := range known {
			fits = fits || m == e.Machine
		}
		if !fits {
			return fmt.Sprintf("it is a program for %s, not for this machine", strings.TrimPrefix(e.Machine.String(), "EM_"))
		}
	}
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		text := make([]byte, p.Filesz)
		if _, err := p.ReadAt(text, 0); err == nil {
			if loader := string(bytes.TrimRight(text, "\x00")); !isFile(root, loader) {
				return fmt.Sprintf("its loader %s is not in the root filesystem", tty.Line(loader))
			}
		}
	}
	return ""
}

func isFile(root *os.File, name string) bool {
	f, err := inroot.Open(root, name, unix.O_PATH)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	return err == nil && st.Mode().IsRegular()
}
