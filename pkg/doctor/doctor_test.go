package doctor

import "testing"

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
