//go:build faults || stockvm

package local

import (
	"testing"

	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/volumetest"
)

// readLV reads from a volume's logical volume.
func readLV(t *testing.T, s volumetest.Store, v volume.Volume, p []byte, offset int64) {
	t.Helper()
	f, err := s.(*Store).backend(&v).open(t.Context(), &v)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(p, offset); err != nil {
		t.Fatal(err)
	}
}
