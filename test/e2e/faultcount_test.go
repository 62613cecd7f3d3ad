//go:build e2e

package e2e

import (
	"os"
	"strconv"
	"sync/atomic"
	"testing"
)

// torture is how much of everything a long run does: E2E_ROUNDS rounds of races, and
// of all else so many thousandths. It is 0 in a quick run.
var torture, _ = strconv.Atoi(os.Getenv("E2E_ROUNDS"))

// share picks some of all, the first, the last and evenly between them: quick of them
// in a quick run (0: all), and in a long run all or the part that torture says.
func share[T any](all []T, quick int) []T {
	n := quick
	if torture > 0 {
		n = max(quick, len(all)*torture/1000)
	}
	if quick == 0 || n >= len(all) {
		return all
	}
	if n == 1 {
		return all[len(all)-1:]
	}
	some := make([]T, n)
	for i := range some {
		some[i] = all[i*(len(all)-1)/(n-1)]
	}
	return some
}

// A tally counts what one test tried.
type tally struct{ faults, compares, leaks atomic.Int64 }

// newTally says at the end of the test, in one line, what was counted; test/run adds
// those lines up.
func newTally(t *testing.T, what string) *tally {
	c := &tally{}
	t.Cleanup(func() {
		t.Logf("%s: %d %s; %d leaks in %d comparisons", t.Name(), c.faults.Load(), what, c.leaks.Load(), c.compares.Load())
	})
	return c
}

func (c *tally) fault() { c.faults.Add(1) }

func (c *tally) compared(leak bool) {
	c.compares.Add(1)
	if leak {
		c.leaks.Add(1)
	}
}
