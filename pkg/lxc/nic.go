package lxc

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// ParseInterface reads what --nic of nova boot takes: bridge=B, net-name=N or net-id=ID,
// with mac=M, v4-fixed-ip=A and gateway=G. A network stands in it as it was typed.
func ParseInterface(text string) (Interface, error) {
	var n Interface
	var prefix netip.Prefix
	var err error
	fail := func(format string, args ...any) (Interface, error) {
		return n, failure.Invalid("--nic %q: %s", text, fmt.Sprintf(format, args...))
	}
	var seen []string
	for piece := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(piece, "=")
		if !ok || value == "" {
			return fail("%q is not a key=value pair; the keys are bridge, net-name, net-id, mac, v4-fixed-ip, gateway; or say none or auto", piece)
		}
		if slices.Contains(seen, key) {
			return fail("the key %q is given twice", key)
		}
		seen = append(seen, key)
		switch key {
		case "bridge":
			if _, err := os.Stat(filepath.Join("/sys/class/net", value, "bridge")); err != nil || value != filepath.Base(value) {
				return fail("this host has no bridge %q (see: ip link show type bridge)", value)
			}
			n.Bridge = value
		case "net-name", "net-id":
			if n.Network != "" {
				return fail("net-name and net-id name the same thing; give one")
			}
			n.Network = value
		case "mac":
			mac, err := net.ParseMAC(value)
			if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
				return fail("the mac %q is not the address of one card", value)
			}
			n.MAC = mac.String()
		case "v4-fixed-ip":
			cidr := value
			if !strings.Contains(cidr, "/") {
				cidr += "/24"
			}
			if prefix, err = netip.ParsePrefix(cidr); err != nil || !prefix.Addr().Is4() {
				return fail("the address %q is not one of IPv4, with or without a prefix", value)
			}
			n.Addresses = []string{prefix.String()}
		case "gateway":
			if addr, err := netip.ParseAddr(value); err != nil || !addr.Is4() {
				return fail("the gateway %q is not an IPv4 address", value)
			}
			n.Gateway = value
		case "port-id", "v6-fixed-ip", "tag":
			return fail("the key %q belongs to a cloud's network service, which is not used here", key)
		default:
			return fail("unknown key %q; the keys are bridge, net-name, net-id, mac, v4-fixed-ip, gateway", key)
		}
	}
	if n.Gateway != "" {
		gateway := netip.MustParseAddr(n.Gateway)
		switch {
		case !prefix.IsValid():
			return fail("the gateway is a route of the container's address; give that too, as v4-fixed-ip=ADDRESS/PREFIX")
		case !prefix.Contains(gateway) || gateway == prefix.Addr():
			return fail("the gateway %q is not another address in the container's network %s", n.Gateway, prefix.Masked())
		}
	}
	if (n.Bridge == "") == (n.Network == "") {
		return fail("it needs one of bridge, net-name and net-id")
	}
	return n, nil
}

// CheckInterfaces refuses what two cards cannot have both, of one instance or of
// several that are booted alike.
func CheckInterfaces(nics []Interface, count int) error {
	for i, n := range nics {
		switch {
		case count > 1 && n.MAC != "":
			return failure.Invalid("--nic mac=%s is the address of one card, and %d instances are asked for; leave mac out", n.MAC, count)
		case count > 1 && len(n.Addresses) > 0:
			return failure.Invalid("--nic v4-fixed-ip=%s is the address of one instance, and %d are asked for; leave v4-fixed-ip out", n.Addresses[0], count)
		}
		for _, other := range nics[:i] {
			switch {
			case n.MAC != "" && n.MAC == other.MAC:
				return failure.Invalid("the mac %s is given twice; each --nic needs one of its own", n.MAC)
			case n.Gateway != "" && other.Gateway != "":
				return failure.Invalid("the gateways %s and %s are given, and there is one default route; leave one out", other.Gateway, n.Gateway)
			}
		}
	}
	return nil
}
