package lxc

import (
	"fmt"
	"strings"
	"testing"
)

func TestCheckInterfaces(t *testing.T) {
	mac, other := Interface{MAC: "52:54:00:00:00:01"}, Interface{MAC: "52:54:00:00:00:02"}
	address := Interface{Addresses: []string{"10.0.0.7/24"}, Gateway: "10.0.0.1"}
	for _, c := range []struct {
		nics  []Interface
		count int
		want  string
	}{
		{[]Interface{mac, other, address, {}, {}}, 1, ""},
		{[]Interface{{}}, 3, ""},
		{[]Interface{mac, {}, mac}, 1, "52:54:00:00:00:01 is given twice"},
		{[]Interface{{}, mac}, 2, "leave mac out"},
		{[]Interface{address}, 2, "leave v4-fixed-ip out"},
		{[]Interface{address, address}, 1, "one default route"},
	} {
		if err := CheckInterfaces(c.nics, c.count); fmt.Sprint(err) != "<nil>" && c.want == "" || c.want != "" && !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%+v for %d: %v, not %q", c.nics, c.count, err, c.want)
		}
	}
}
