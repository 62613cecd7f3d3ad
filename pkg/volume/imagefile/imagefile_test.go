package imagefile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(at("good"), []byte("abc"), 0o600), os.WriteFile(at("empty"), nil, 0o600), unix.Mkfifo(at("pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	f, size, err := Open(at("good"))
	if err != nil || size != 3 {
		t.Fatal(size, err)
	}
	f.Close()
	for name, want := range map[string]string{"empty": "is empty", "pipe": "is neither a regular file nor a block device", ".": "is neither"} {
		if _, _, err := Open(at(name)); !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), at(name)+" "+want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := Open(at("none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
