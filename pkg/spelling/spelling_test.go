package spelling

import "testing"

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "ab", 2}, {"flavor", "flavor", 0}, {"flavour", "flavor", 1}, {"flvaor", "flavor", 2}, {"size", "seize", 1}, {"abc", "xyz", 3}} {
		if there, back := Distance(tt.a, tt.b), Distance(tt.b, tt.a); there != tt.want || back != tt.want {
			t.Errorf("%q and %q: %d, %d, and not %d", tt.a, tt.b, there, back, tt.want)
		}
	}
}
