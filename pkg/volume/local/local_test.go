package local

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/volumetest"
)

// here is the host that the tests run on, and there another.
var (
	here  = host.Host{ID: "id-of-here", Name: "here", BootID: "boot-of-here"}
	there = host.Host{ID: "id-of-there", Name: "there", BootID: "boot-of-there"}
)

// open opens a store in a directory.
func open(t testing.TB, dir string) *Store {
	t.Helper()
	return openAs(t, dir, Options{Host: here})
}

func openAs(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newStore(t testing.TB) *Store {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "state"))
}

func testCtx(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestConformance(t *testing.T) {
	volumetest.Run(t, func(t *testing.T) volumetest.Store { return newStore(t) }, conformance)
}

var conformance = volumetest.Options{
	Timeout:     30 * time.Second,
	Multiattach: true,
	Elsewhere: func(t *testing.T, s volumetest.Store) volumetest.Store {
		t.Helper()
		return openAs(t, s.(*Store).dir, Options{Host: there})
	},
	ReadAt: func(t *testing.T, s volumetest.Store, v volume.Volume, p []byte, offset int64) {
		t.Helper()
		f, err := os.Open(s.(*Store).dataOf(v.ID))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.ReadAt(p, offset); err != nil {
			t.Fatal(err)
		}
	},
}

// dataOf is where the content of a volume is.
func (s *Store) dataOf(id string) string { return filepath.Join(s.volumes.path(id), dataName) }
