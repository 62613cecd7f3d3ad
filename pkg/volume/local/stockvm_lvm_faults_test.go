//go:build stockvm && faults

package local

import "testing"

// TestKilledOnLVM is TestKilledAtEveryPoint for a store on LVM: no logical volume is left
// either. With -short it is one point in eight.
func TestKilledOnLVM(t *testing.T) {
	pool := thinPool(t)
	t.Setenv(poolEnv, pool)
	oneIn := 1
	if testing.Short() {
		oneIn = 8
	}
	killedAtEveryPoint(t, func() *Store { return lvmStore(t, pool) }, oneIn)
	if left := lvNames(t); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}
