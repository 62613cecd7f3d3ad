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

// nicKeys are the keys of --nic.
const nicKeys = "bridge, net-name, net-id, mac, v4-fixed-ip, v6-fixed-ip, gateway, v6-gateway, dns"

// ParseInterface reads what --nic of nova boot takes: bridge=B, net-name=N or net-id=ID,
// with mac=M, and fixed addresses with v4-fixed-ip=A, v6-fixed-ip=A, gateway=G,
// v6-gateway=G and dns=S, which may be repeated. A network stands in it as it was typed.
func ParseInterface(text string) (Interface, error) {
	var n Interface
	prefixes := map[string]netip.Prefix{} // by the key
	fail := func(format string, args ...any) (Interface, error) {
		return n, failure.Invalid("--nic %q: %s", text, fmt.Sprintf(format, args...))
	}
	var seen []string
	for piece := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(piece, "=")
		if !ok || value == "" {
			return fail("%q is not a key=value pair; the keys are %s; or say none or auto", piece, nicKeys)
		}
		if slices.Contains(seen, key) && key != "dns" {
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
		case "v4-fixed-ip", "v6-fixed-ip":
			prefix, err := fixedAddress(value, key == "v6-fixed-ip")
			if err != nil {
				return fail("%v", err)
			}
			prefixes[key] = prefix
			n.Addresses = append(n.Addresses, prefix.String())
		case "gateway":
			if addr, err := netip.ParseAddr(value); err != nil || !addr.Is4() {
				return fail("the gateway %q is not an IPv4 address", value)
			}
			n.Gateway = value
		case "v6-gateway":
			if addr, err := netip.ParseAddr(value); err != nil || !addr.Is6() || addr.Zone() != "" {
				return fail("the gateway %q is not an IPv6 address", value)
			}
			n.Gateway6 = value
		case "dns":
			if addr, err := netip.ParseAddr(value); err != nil || addr.Zone() != "" {
				return fail("dns=%s is not the address of a name server", value)
			}
			n.DNS = append(n.DNS, value)
		case "port-id", "tag":
			return fail("the key %q belongs to a cloud's network service, which is not used here", key)
		default:
			return fail("unknown key %q; the keys are %s", key, nicKeys)
		}
	}
	for _, gw := range []struct{ address, key, of string }{{n.Gateway, "gateway", "v4-fixed-ip"}, {n.Gateway6, "v6-gateway", "v6-fixed-ip"}} {
		if gw.address == "" {
			continue
		}
		prefix, addr := prefixes[gw.of], netip.MustParseAddr(gw.address)
		switch {
		case !prefix.IsValid():
			return fail("the %s is a route of the container's address; give that too, as %s=ADDRESS/PREFIX", gw.key, gw.of)
		case !prefix.Contains(addr) && !addr.IsLinkLocalUnicast() || addr == prefix.Addr():
			return fail("the gateway %q is not another address in the container's network %s", gw.address, prefix.Masked())
		}
	}
	if len(n.DNS) > 0 && len(n.Addresses) == 0 {
		return fail("dns goes with v4-fixed-ip or v6-fixed-ip; without one, DHCP names the servers")
	}
	if (n.Bridge == "") == (n.Network == "") {
		return fail("it needs one of bridge, net-name and net-id")
	}
	return n, nil
}

// Words is the interface as ParseInterface reads it.
func (n Interface) Words() string {
	var words []string
	add := func(key, value string) {
		if value != "" {
			words = append(words, key+"="+value)
		}
	}
	if n.Network != "" {
		add("net-name", n.Network)
	} else {
		add("bridge", n.Bridge)
	}
	add("mac", n.MAC)
	for _, a := range n.Addresses {
		if netip.MustParsePrefix(a).Addr().Is6() { // checked
			add("v6-fixed-ip", a)
		} else {
			add("v4-fixed-ip", a)
		}
	}
	add("gateway", n.Gateway)
	add("v6-gateway", n.Gateway6)
	for _, s := range n.DNS {
		add("dns", s)
	}
	return strings.Join(words, ",")
}

// fixedAddress reads an address of a card, with a prefix or with the usual one.
func fixedAddress(text string, six bool) (netip.Prefix, error) {
	cidr, family := text, "IPv4"
	if six {
		family = "IPv6"
	}
	if !strings.Contains(cidr, "/") {
		cidr += map[bool]string{false: "/24", true: "/64"}[six]
	}
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil || prefix.Addr().Is6() != six || prefix.Addr().Is4In6() {
		return prefix, fmt.Errorf("the address %q is not one of %s, with or without a prefix", text, family)
	}
	return prefix, nil
}

// CheckInterfaces refuses what two cards cannot have both, of one instance or of
// several that are booted alike.
func CheckInterfaces(nics []Interface, count int) error {
	for i, n := range nics {
		switch {
		case count > 1 && n.MAC != "":
			return failure.Invalid("--nic mac=%s is the address of one card, and %d instances are asked for; leave mac out", n.MAC, count)
		case count > 1 && len(n.Addresses) > 0:
			key := "v4-fixed-ip"
			if netip.MustParsePrefix(n.Addresses[0]).Addr().Is6() {
				key = "v6-fixed-ip"
			}
			return failure.Invalid("--nic %s=%s is the address of one instance, and %d are asked for; leave %[1]s out", key, n.Addresses[0], count)
		}
		for _, other := range nics[:i] {
			switch {
			case n.MAC != "" && n.MAC == other.MAC:
				return failure.Invalid("the mac %s is given twice; each --nic needs one of its own", n.MAC)
			case n.Gateway != "" && other.Gateway != "":
				return failure.Invalid("the gateways %s and %s are given, and there is one default route; leave one out", other.Gateway, n.Gateway)
			case n.Gateway6 != "" && other.Gateway6 != "":
				return failure.Invalid("the gateways %s and %s are given, and there is one default route; leave one out", other.Gateway6, n.Gateway6)
			}
		}
	}
	return nil
}
