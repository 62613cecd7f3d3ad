package local

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

func TestPercents(t *testing.T) {
	var got []float64
	p := percents{tell: func(percent float64) { got = append(got, percent) }}
	for _, part := range []string{"    (0.00/100%)\r", "    (12.", "50/100%)\r    (13.00", "/100%)\r", strings.Repeat("x", 1000), "(100.00/100%)\n"} {
		if n, err := p.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if !slices.Equal(slices.Compact(got), []float64{0, 12.5, 13, 100}) || len(p.kept) > 64 {
		t.Errorf("%v, and %d bytes are kept", got, len(p.kept))
	}
}

// TestFillingIsTold holds that who makes a volume or a snapshot is told how far that is, to
// its end, and when it is over: of a conversion and of a copy.
func TestFillingIsTold(t *testing.T) {
	dir := t.TempDir()
	raw, packed := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	if err := os.WriteFile(raw, []byte(strings.Repeat("lxcboot!", 1<<17)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("qemu-img", "convert", "-O", "qcow2", raw, packed).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var mu sync.Mutex
	told, over := map[string]int64{}, map[string]bool{}
	s, err := Open(filepath.Join(dir, "state"), Options{Progress: func(what string) (func(done, total int64), func()) {
		kind, _, _ := strings.Cut(what, " ")
		return func(done, total int64) {
				mu.Lock()
				defer mu.Unlock()
				told[kind] = done * 100 / total
			}, func() {
				mu.Lock()
				defer mu.Unlock()
				over[kind] = true
			}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	img, err := s.ImportImage(ctx, volume.ImportImage{Name: "i", Path: packed})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: img.ID})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitVolume(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	for _, kind := range []string{"converting", "copying"} {
		if told[kind] != 100 || !over[kind] {
			t.Errorf("%s: %d %%, over: %v", kind, told[kind], over[kind])
		}
	}
	over["copying"] = false
	mu.Unlock()
	if _, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "s", VolumeID: v.ID}); err != nil || !over["copying"] {
		t.Errorf("a snapshot: %v, over: %v", err, over["copying"])
	}
}
