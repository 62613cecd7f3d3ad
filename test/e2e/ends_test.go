//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
)

// TestEndsAtOnce boots inits that end at once: each boot, start and reboot says so, and with what exit code.
func TestEndsAtOnce(t *testing.T) {
	t.Parallel()
	count := newTally(t, "boots of an init that ends at once")
	w := newWorld(t, "atonce", count)
	all := slices.Repeat([]struct{ init, told string }{
		{"/bin/false", "SHUTOFF its init has run and ended, with exit code 1"},
		{"/bin/true", "SHUTOFF its init has run and ended, with exit code 0"},
	}, 50)
	for _, c := range share(all, 6) {
		count.fault()
		args := slices.Insert(slices.Clone(smallArgs), 1, "-q", "--init", c.init, "-f", "value", "-c", "status", "-c", "note")
		if out := strings.TrimSpace(strings.ReplaceAll(w.must(args...), "\n", " ")); out != c.told {
			t.Errorf("boot of %s says %q", c.init, out)
		}
		for _, again := range []string{"start", "reboot"} {
			_, said, _ := strings.Cut(c.told, " ")
			if out := w.must(again, "NAME"); !strings.Contains(out, said) {
				t.Errorf("%s of %s says %q", again, c.init, out)
			}
		}
		w.must("delete", "NAME")
	}
	w.asBefore()
}
