package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// made makes a file with qemu-img create, and gives its beginning.
func made(t testing.TB, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "img")
	args = append([]string{"create", "-q", "-f", "qcow2"}, append(args, path, "3M")...)
	cmd := exec.Command("qemu-img", args...)
	cmd.Dir = filepath.Dir(path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRead(t *testing.T) {
	base := []string{"-b", "base", "-F", "raw", "-u"}
	for name, c := range map[string]struct {
		args []string
		want Header
	}{
		"version 3":  {nil, Header{}},
		"version 2":  {[]string{"-o", "compat=0.10"}, Header{}},
		"overlay":    {base, Header{Overlay: true, Backing: "base", BackingFormat: "raw"}},
		"overlay, 2": {append(base, "-o", "compat=0.10"), Header{Overlay: true, Backing: "base", BackingFormat: "raw"}},
		"data file":  {[]string{"-o", "data_file=other"}, Header{DataFile: true, Features: DataFile}},
		"encrypted":  {[]string{"--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"}, Header{Encrypted: true}},
		"zstd":       {[]string{"-o", "compression_type=zstd"}, Header{Features: Compression}},
		"l2":         {[]string{"-o", "extended_l2=on,cluster_size=128k"}, Header{Features: ExtendedL2}},
	} {
		c.want.VirtualSize = 3 << 20
		if h, err := Read(bytes.NewReader(made(t, c.args...))); err != nil || h != c.want {
			t.Errorf("%s: %+v, %v\nwant %+v", name, h, err, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	sound := made(t, "-b", "base", "-F", "raw", "-u")
	all := bytes.Repeat([]byte{0xff}, 8)
	extension := int(binary.BigEndian.Uint32(sound[100:]))
	many := bytes.Repeat([]byte{1, 1, 1, 1, 0, 0, 0, 0}, 2*maxExtensions)
	for name, c := range map[string]struct {
		at   int
		with []byte
		says string
	}{
		"signature":       {0, []byte("x"), "signature"},
		"version":         {7, []byte{1}, "version 1"},
		"clusters":        {20, []byte{0, 0, 0, 60}, "2^60"},
		"header length":   {100, all[:4], "4294967295"},
		"short header":    {100, []byte{0, 0, 0, 103}, "103"},
		"name's place":    {8, all, "name"},
		"name's length":   {16, all[:4], "name"},
		"format's length": {extension + 4, all[:4], "format"},
		"extensions":      {extension, many, "extensions"},
	} {
		b := bytes.Clone(sound)
		copy(b[c.at:], c.with)
		if _, err := Read(bytes.NewReader(b)); !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := range lengthV3 {
		if _, err := Read(bytes.NewReader(sound[:n])); !errors.Is(err, failure.ErrInvalid) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d bytes of it: %v", n, err)
		}
	}
	if _, err := Read(broken{}); err == nil || errors.Is(err, failure.ErrInvalid) {
		t.Errorf("a file that cannot be read: %v", err)
	}
}

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, os.ErrPermission }

func FuzzRead(f *testing.F) {
	for _, args := range [][]string{nil, {"-o", "compat=0.10"}, {"-b", "base", "-F", "raw", "-u"}} {
		f.Add(made(f, args...)[:4096])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Read(bytes.NewReader(b))
		if err == nil && (len(h.Backing) > maxName || len(h.BackingFormat) > maxName || !strings.HasPrefix(string(b), Magic)) {
			t.Errorf("%+v", h)
		}
	})
}
