package doctor

import (
	"context"
	"testing"
)

func TestHostID(t *testing.T) {
	for _, c := range []struct{ setting, machine, want string }{
		{"", "3d1219c7c4c5404aaa1f6d2a48adfda4", OK},
		{"", "", Warning},
		{"", "00000000000000000000000000000000", Warning},
		{"", "b08dfa6083e7567a1921a715000001fb", Warning},
		{"", "88544b92092430bc5d3fbbffc12a2f04", Warning}, // of debian:11.2
		{"n1", "", OK},
		{"n1", "88544b92092430bc5d3fbbffc12a2f04", OK},
	} {
		results, fit := Run(t.Context(), []Check{HostID(c.setting, c.machine)})
		if r := results[0]; r.Status != c.want || !fit || (r.Mend == "") != (c.want == OK) {
			t.Errorf("host-id %q, machine id %q: %+v", c.setting, c.machine, r)
		}
	}
}

// TestInotify: what the kernel allows by itself is not enough, and what lxcboot setup has it
// allow is.
func TestInotify(t *testing.T) {
	for limit, want := range map[string]string{"128\n": Warning, "1023\n": Warning, "1024\n": OK, "65536\n": OK} {
		results, _ := Run(t.Context(), []Check{{"inotify", func(context.Context) (string, error) { return watches(limit) }}})
		if r := results[0]; r.Status != want || (r.Mend == "") != (want == OK) {
			t.Errorf("%q: %+v", limit, r)
		}
	}
}
