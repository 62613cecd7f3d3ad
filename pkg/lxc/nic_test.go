package lxc

import (
	"fmt"
	"strings"
	"testing"
)

func TestCheckInterfaces(t *testing.T) {
	mac, other := Interface{MAC: "52:54:00:00:00:01"}, Interface{MAC: "52:54:00:00:00:02"}
	address := Interface{Addresses: []string{"10.0.0.7/24"}, Gateway: "10.0.0.1"}
	six := Interface{Addresses: []string{"fd00::7/64"}, Gateway6: "fd00::1"}
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
		{[]Interface{six}, 2, "leave v6-fixed-ip out"},
		{[]Interface{address, six}, 1, ""},
		{[]Interface{address, address}, 1, "one default route"},
		{[]Interface{six, six}, 1, "one default route"},
	} {
		if err := CheckInterfaces(c.nics, c.count); fmt.Sprint(err) != "<nil>" && c.want == "" || c.want != "" && !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%+v for %d: %v, not %q", c.nics, c.count, err, c.want)
		}
	}
}

func TestParseInterface(t *testing.T) {
	for text, want := range map[string]string{
		"net-name=n,v4-fixed-ip=192.0.2.7,gateway=192.0.2.1,dns=192.0.2.2,dns=2001:db8::2":                        "{ n   [192.0.2.7/24] 192.0.2.1  [192.0.2.2 2001:db8::2]}",
		"net-name=n,v6-fixed-ip=2001:db8::7,v6-gateway=2001:db8::1":                                               "{ n   [2001:db8::7/64]  2001:db8::1 []}",
		"net-name=n,v6-fixed-ip=2001:db8::7/48,v6-gateway=fe80::1,v4-fixed-ip=192.0.2.7/28,mac=52:54:00:00:00:01": "{ n 52:54:00:00:00:01  [2001:db8::7/48 192.0.2.7/28]  fe80::1 []}",
		"net-name=n,v6-fixed-ip=192.0.2.7":                                                                        `address "192.0.2.7" is not one of IPv6`,
		"net-name=n,v6-fixed-ip=::ffff:192.0.2.7":                                                                 `address "::ffff:192.0.2.7" is not one of IPv6`,
		"net-name=n,v6-fixed-ip=fe80::1%eth0":                                                                     `address "fe80::1%eth0" is not one of IPv6`,
		"net-name=n,v4-fixed-ip=2001:db8::7":                                                                      `address "2001:db8::7" is not one of IPv4`,
		"net-name=n,v6-fixed-ip=2001:db8::7,gateway=192.0.2.1":                                                    "as v4-fixed-ip=ADDRESS/PREFIX",
		"net-name=n,v4-fixed-ip=192.0.2.7,v6-gateway=2001:db8::1":                                                 "as v6-fixed-ip=ADDRESS/PREFIX",
		"net-name=n,v6-fixed-ip=2001:db8::7,v6-gateway=2001:db8:1::1":                                             "another address in the container's network 2001:db8::/64",
		"net-name=n,v6-fixed-ip=2001:db8::7,v6-gateway=192.0.2.1":                                                 `gateway "192.0.2.1" is not an IPv6 address`,
		"net-name=n,v6-fixed-ip=2001:db8::7,v6-gateway=fe80::1%eth0":                                              `gateway "fe80::1%eth0" is not an IPv6 address`,
		"net-name=n,v4-fixed-ip=192.0.2.7,gateway=192.0.2.7":                                                      "not another address in the container's network 192.0.2.0/24",
		"net-name=n,v6-fixed-ip=2001:db8::7,dns=fe80::1%eth0":                                                     "dns=fe80::1%eth0 is not the address",
		"net-name=n,mac=01:00:5e:00:00:01":                                                                        `mac "01:00:5e:00:00:01" is not the address of one card`,
		"net-name=n,dns=192.0.2.2":                                                                                "DHCP names the servers",
		"net-name=n,v4-fixed-ip=192.0.2.7,dns=resolver":                                                           "dns=resolver is not the address",
		"net-name=n,v6-fixed-ip=2001:db8::7,v6-fixed-ip=2001:db8::8":                                              `"v6-fixed-ip" is given twice`,
		"net-name=n,tag=x": `"tag" belongs to a cloud's network service`,
	} {
		n, err := ParseInterface(text)
		if got := fmt.Sprint(n); err != nil && !strings.Contains(err.Error(), want) || err == nil && got != want {
			t.Errorf("%s: %s, %v; not %s", text, got, err, want)
		}
	}
}
