//go:build cluster

package cluster

import (
	"strings"
	"testing"
)

// TestHosts: hosts are apart, reach each other, and come back after the plug as themselves,
// started anew.
func TestHosts(t *testing.T) {
	c := Up(t, 2, "store", "libvirtd")
	a, b := c.Hosts[0], c.Hosts[1]
	id := func(h *Host, what string) string { return h.Must("cat", what) }
	const machine, boot = "/etc/machine-id", "/proc/sys/kernel/random/boot_id"
	if id(a, machine) == id(b, machine) || id(a, boot) == id(b, boot) {
		t.Error("two hosts have one machine id or boot id")
	}
	if got := a.Must("hostname"); got != "n1" {
		t.Errorf("the host n1 calls itself %q", got)
	}
	reach := func() (bool, string) {
		_, out := a.Run(t.Context(), "timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/n2/9")
		return strings.Contains(out, "Connection refused"), out
	}
	c.Wait("n1 reaches n2", reach)
	b.Cut()
	if ok, out := reach(); ok {
		t.Errorf("n1 reaches n2, whose cable is out: %s", out)
	}
	b.Join()
	c.Wait("n1 reaches n2, whose cable is in again", reach)
	b.Must("lxcboot", "doctor")

	// A container of one host is not the other's, its volume is.
	c.Image()
	a.Must("lxcboot", "image", "import", "/srv/shared/busybox.raw", "--name", "busybox")
	a.Must("lxcboot", "volume", "create", "--image", "busybox", "--size", "1", "root")
	a.Must("lxcboot", "volume", "create", "--size", "1", "data")
	boot1 := []string{"lxcboot", "boot", "--flavor", "m1.tiny", "--nic", "none", "--boot-volume", "root", "--block-device", "source=volume,id=data,dest=volume", "one"}
	b.Must(boot1...)
	if code, out := a.Run(t.Context(), boot1...); code != 4 || !strings.Contains(out, "n2") {
		t.Errorf("a volume of n2's is booted on n1: exit code %d\n%s", code, out)
	}
	if out := a.Must("lxcboot", "list", "-f", "value") + a.Must("virsh", "-q", "-c", "lxc:///", "list", "--all"); out != "" {
		t.Errorf("n1 has what is n2's: %s", out)
	}

	wasMachine, wasBoot := id(b, machine), id(b, boot)
	b.Write("/var/lib/kept", "kept\n", 0o600)
	// A plug loses what was not flushed, and only that.
	b.Must("lxcboot", "exec", "one", "--", "sh", "-c", "echo yes >/flushed; sync; echo yes >/unwritten; sed -i s/yes/no/ /flushed")
	b.Off()
	if loops, err := loopsOn(c.dir); len(loops) != 0 {
		t.Errorf("a host without power has loop devices: %v %v", loops, err)
	}
	if code, out := b.Run(t.Context(), "true"); code != -1 || !strings.Contains(out, "n2 is off") {
		t.Errorf("a host without power runs a program: %d %s", code, out)
	}
	b.On()
	if id(b, machine) != wasMachine || id(b, boot) == wasBoot || id(b, "/var/lib/kept") != "kept" {
		t.Error("a host that came back is not itself, started anew")
	}
	c.Wait("n1 reaches n2 again", reach)
	if got := b.Must("lxcboot", "exec", "one", "--", "sh", "-c", "cat /flushed; ls /"); !strings.HasPrefix(got, "yes\n") || strings.Contains(got, "unwritten") {
		t.Errorf("what was flushed before the plug, and what is there: %s", got)
	}
	if got := b.Must("lxcboot", "list", "-f", "value", "-c", "Name", "-c", "Status"); got != "one ACTIVE" {
		t.Errorf("after its host came back the container is %q\n%s", got, b.Console())
	}
}
