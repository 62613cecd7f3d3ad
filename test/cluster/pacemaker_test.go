//go:build cluster

package cluster

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// pacemaker is a cluster of three hosts, with a container web1 of which Pacemaker says where
// it runs.
type pacemaker struct {
	*Cluster
	t *testing.T
}

// web1 is as the shipped example has it, but for times.
const web1 = `primitive web1 ocf:lxcboot:instance params name=web1 volume=web1 flavor=m1.tiny options="--nic none" takeover=yes op monitor interval=5s timeout=30s op start timeout=120s op stop timeout=60s`

// agent is where make install puts it.
const agent = "/usr/lib/ocf/resource.d/lxcboot/instance"

// upPacemaker starts the hosts, with a service for where the volumes are, and waits until
// they are one cluster.
func upPacemaker(t *testing.T, store string) *pacemaker {
	t.Helper()
	p := &pacemaker{t: t}
	p.Cluster = Up(t, 3, store, "libvirtd", "pacemaker")
	p.Image()
	n1 := p.Hosts[0]
	n1.Must("lxcboot", "image", "import", "/srv/shared/busybox.raw", "--name", "busybox")
	n1.Must("lxcboot", "volume", "create", "--image", "busybox", "--size", "1", "web1")
	t.Cleanup(func() {
		for _, h := range p.Hosts {
			if t.Failed() && h.IsOn() {
				_, out := h.Run(context.WithoutCancel(t.Context()), "sh", "-c", "crm_mon -1rf; tail -n 10 /var/log/corosync/corosync.log")
				t.Logf("what %s says of the cluster:\n%s", h.Name, out)
			}
		}
	})
	p.whole()
	return p
}

// whole waits until all hosts are up in the cluster.
func (p *pacemaker) whole() {
	p.t.Helper()
	p.Wait("three hosts are online", func() (bool, string) {
		_, out := p.Hosts[0].Run(p.t.Context(), "crm_mon", "-1")
		return strings.Contains(out, "Online: [ n1 n2 n3 ]"), out
	})
}

// configure loads the configuration that is shipped, with the plug for its fencing, and with
// a resource.
func (p *pacemaker) configure(resource string) {
	p.t.Helper()
	data, err := os.ReadFile("../../share/lxcboot/pacemaker/cluster.crm")
	if err != nil {
		p.t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^(#|primitive|location).*\n`).ReplaceAllString(string(data), "")
	p.Hosts[0].Write("/root/cluster.crm", text+"primitive plug stonith:fence_plug op monitor interval=60s\n"+resource+"\n", 0o600)
	p.Hosts[0].Must("crm", "configure", "load", "update", "/root/cluster.crm")
}

// runs waits until web1 runs on a host that may be, and gives it. Pacemaker calls a resource
// running from the moment it asks for its start.
func (p *pacemaker) runs(what string, may func(*Host) bool) *Host {
	p.t.Helper()
	var at *Host
	p.Wait(what, func() (bool, string) {
		said := ""
		for _, h := range p.Hosts {
			if !h.IsOn() || !may(h) {
				continue
			}
			code, out := h.Run(p.t.Context(), "lxcboot", "-q", "show", "web1", "-f", "value", "-c", "status")
			if code == 0 && strings.TrimSpace(out) == "ACTIVE" {
				at = h
				return true, ""
			}
			said += h.Name + ": " + out
		}
		return false, said
	})
	return at
}

func anywhere(*Host) bool { return true }

func not(h *Host) func(*Host) bool { return func(o *Host) bool { return o != h } }

// marker is what web1 has written to its root.
func (p *pacemaker) marker(h *Host, want string) {
	p.t.Helper()
	if got := h.Must("lxcboot", "exec", "web1", "--", "cat", "/marker"); got != want {
		p.t.Errorf("on %s web1 has not its data: %q, and not %q", h.Name, got, want)
	}
}

// away moves web1 from the first host, which is asked what the cluster does.
func (p *pacemaker) away(from *Host) *Host {
	p.t.Helper()
	n1, to := p.Hosts[0], p.Hosts[1]
	n1.Must("crm_resource", "-Q", "-M", "-r", "web1", "-N", to.Name)
	at := p.runs("web1 has moved from "+from.Name, not(from))
	n1.Must("crm_resource", "-Q", "-U", "-r", "web1")
	return at
}

// drained drains the host where web1 runs, and gives where it runs then.
func (p *pacemaker) drained(a *Host) *Host {
	p.t.Helper()
	n1 := p.Hosts[0]
	began := time.Now()
	n1.Must("crm_attribute", "-N", a.Name, "-n", "standby", "-v", "on")
	b := p.runs("web1 is drained from "+a.Name, not(a))
	p.t.Logf("drained from %s, and runs on %s after %v", a.Name, b.Name, time.Since(began).Round(10*time.Millisecond))
	n1.Must("crm_attribute", "-N", a.Name, "-n", "standby", "-D")
	return b
}

// dies pulls the plug of the host where web1 runs, and gives where it runs then.
func (p *pacemaker) dies(b *Host) *Host {
	p.t.Helper()
	began := time.Now()
	b.Off()
	d := p.runs("web1 runs elsewhere, after "+b.Name+" died", not(b))
	p.t.Logf("%s died, and web1 runs on %s after %v", b.Name, d.Name, time.Since(began).Round(10*time.Millisecond))
	return d
}

// moves drains a host, and pulls the plug of the next one, and sees that web1 has its data
// each time. It gives the host that died and the one that runs web1 now.
func (p *pacemaker) moves() (died, at *Host) {
	p.t.Helper()
	n1 := p.Hosts[0]
	a := p.runs("web1 runs", anywhere)
	if a == n1 {
		a = p.away(a)
	}
	a.Must("lxcboot", "exec", "web1", "--", "sh", "-c", "echo kept >/marker; sync")
	b := p.drained(a)
	p.marker(b, "kept")
	if out := a.Must("lxcboot", "list", "-f", "value"); out != "" {
		p.t.Errorf("%s has something left of web1: %s", a.Name, out)
	}
	if b == n1 {
		b = p.away(b)
	}
	b.Must("lxcboot", "exec", "web1", "--", "sh", "-c", "echo more >/marker; sync")
	d := p.dies(b)
	p.marker(d, "more")
	p.Wait(b.Name+" is started anew", func() (bool, string) { return b.IsOn(), b.Console() })
	p.whole()
	return b, d
}

// TestPacemaker: the agent is as the standard has it; a host is drained; a host dies, and
// comes back.
func TestPacemaker(t *testing.T) {
	p := upPacemaker(t, "store")
	n1 := p.Hosts[0]
	t.Log(n1.Must("ocf-tester", "-n", "web1", "-o", "name=web1", "-o", "volume=web1", "-o", "flavor=m1.tiny", "-o", "options=--nic none", agent))
	p.configure(web1)
	b, d := p.moves()

	// Fencing has started b anew. Its record of web1 is worth nothing.
	if got := b.Must("lxcboot", "list", "-f", "value", "-c", "Name", "-c", "Status"); got != "web1 SHUTOFF" {
		t.Errorf("%s, started anew, has %q", b.Name, got)
	}
	for _, verb := range []string{"start", "delete"} {
		code, out := b.Run(t.Context(), "lxcboot", verb, "web1")
		if verb == "start" && code != 4 || verb == "delete" && code != 0 {
			t.Errorf("%s there: exit code %d\n%s", verb, code, out)
		}
	}
	p.marker(d, "more")
	d.Must("lxcboot", "exec", "web1", "--", "sh", "-c", "echo again >/marker; sync")

	// It takes web1 back as any host.
	n1.Must("crm_resource", "-Q", "-M", "-r", "web1", "-N", b.Name)
	p.runs("web1 is back on "+b.Name, func(h *Host) bool { return h == b })
	p.marker(b, "again")
	if out := d.Must("lxcboot", "list", "-f", "value"); out != "" {
		t.Errorf("%s has something left of web1: %s", d.Name, out)
	}
}
