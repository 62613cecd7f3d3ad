//go:build cluster

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// writer is a container's init that counts: it says a number when that is on its root for
// good. On the device vdb it has a lease, which it writes and reads past all caches, and
// where it notes that somebody else writes there.
const writer = `
token=$(cat /proc/sys/kernel/random/uuid)
lease() { dd if=/dev/vdb iflag=direct bs=512 count=1 2>/dev/null | head -n 1; }
take() { (echo "$token $1"; dd if=/dev/zero bs=512 count=1 2>/dev/null) | dd of=/dev/vdb oflag=direct bs=512 count=1 iflag=fullblock 2>/dev/null; }
two() {
  echo "two at once: $1"
  (echo "two at once: $1"; dd if=/dev/zero bs=512 count=1 2>/dev/null) | dd of=/dev/vdb oflag=direct bs=512 count=1 seek=1 iflag=fullblock 2>/dev/null
}
trap 'echo asked to end' TERM
was=$(lease); sleep 1; now=$(lease)
[ "$was" = "$now" ] || two "$was, $now, and $token"
n=$(cat /count 2>/dev/null || echo 0)
echo "begins at $n"
take "$n"
while :; do
  n=$((n + 1))
  echo "$n" >/count.new; sync /count.new; mv /count.new /count; sync /
  case $(lease) in "$token "*) ;; *) two "$(lease), and $token" ;; esac
  take "$n"
  echo "counted $n"
  sleep 0.05
done
`

// upWriter starts a cluster with a writer as web1, where there is time for that.
func upWriter(t *testing.T) *pacemaker {
	t.Helper()
	if testing.Short() {
		t.Skip("takes minutes with the others of its kind")
	}
	p := upPacemaker(t, "store")
	n1 := p.Hosts[0]
	n1.Must("lxcboot", "volume", "create", "--size", "1", "lease")
	text, err := json.Marshal(map[string]any{
		"name": "web1", "flavor": "m1.tiny", "nics": []string{"none"}, "init": "/bin/sh", "init_args": []string{"-c", writer},
		"block_devices": []map[string]any{{"source": "volume", "id": "web1", "bootindex": 0}, {"source": "volume", "id": "lease", "device": "vdb"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	n1.Write("/srv/shared/web1.json", string(text), 0o644)
	p.configure(`primitive web1 ocf:lxcboot:instance params name=web1 definition=/srv/shared/web1.json takeover=yes op monitor interval=5s timeout=30s op start timeout=120s op stop timeout=40s`)
	return p
}

var (
	counted = regexp.MustCompile(`(?m)^counted ([0-9]+)\r?$`)
	begins  = regexp.MustCompile(`(?m)^begins at ([0-9]+)\r?$`)
)

// number is the last that the pattern finds in what web1 has said on a host, also when that
// is off.
func number(h *Host, pattern *regexp.Regexp) (n int, found bool) {
	logs, _ := filepath.Glob(h.path("state", "instances", "*", "console.log"))
	for _, log := range logs {
		data, _ := os.ReadFile(log)
		for _, m := range pattern.FindAllSubmatch(data, -1) {
			n, _ = strconv.Atoi(string(m[1]))
			found = true
		}
	}
	return n, found
}

// counts waits until web1 has begun on a host and counts there, and gives where it began.
func (p *pacemaker) counts(h *Host) (began int) {
	p.t.Helper()
	p.Wait("web1 counts on "+h.Name, func() (ok bool, saw string) {
		began, ok = number(h, begins)
		n, more := number(h, counted)
		return ok && more && n > began+5, fmt.Sprint("it began at ", began, " and is at ", n)
	})
	return began
}

// other is a host that is not the given one.
func (p *pacemaker) other(h *Host) *Host {
	for _, o := range p.Hosts {
		if o != h && o.IsOn() {
			return o
		}
	}
	p.t.Fatal("no other host is on")
	return nil
}

// alone fails the test when two hosts have had the volumes at once.
func (p *pacemaker) alone() {
	p.t.Helper()
	volumes, _ := filepath.Glob(filepath.Join(p.Shared(), "store/volumes/*/data"))
	for _, v := range volumes {
		f, err := os.Open(v)
		if err != nil {
			p.t.Fatal(err)
		}
		var head [1024]byte
		_, err = f.ReadAt(head[:], 0)
		f.Close()
		if err != nil {
			p.t.Fatal(err)
		}
		if at := bytes.Index(head[:], []byte("two at once")); at >= 0 {
			p.t.Fatalf("%s", bytes.TrimRight(head[at:], "\x00\n"))
		}
	}
}

// healed waits until all hosts are up, and forgets what failed.
func (p *pacemaker) healed() {
	p.t.Helper()
	for _, h := range p.Hosts {
		p.Wait(h.Name+" is on", func() (bool, string) { return h.IsOn(), h.Console() })
	}
	p.whole()
	p.Hosts[0].Must("crm_resource", "-Q", "-C", "-r", "web1")
	p.alone()
}

// TestPacemakerStops: a container that does not end by itself is moved in time, without its
// host being fenced; one that was killed is started anew.
func TestPacemakerStops(t *testing.T) {
	p := upWriter(t)
	a := p.runs("web1 runs", anywhere)
	p.counts(a)
	to := p.other(a)
	began := time.Now()
	to.Must("crm_resource", "-Q", "-M", "-r", "web1", "-N", to.Name)
	p.runs("web1 has moved", func(h *Host) bool { return h == to })
	t.Logf("moved after %v", time.Since(began).Round(time.Second))
	if !a.IsOn() {
		t.Errorf("%s was fenced", a.Name)
	}
	to.Must("crm_resource", "-Q", "-U", "-r", "web1")
	p.counts(to)

	first := to.Must("lxcboot", "show", "web1", "-f", "value", "-c", "id")
	to.Must("kill", "-KILL", to.Must("lxcboot", "show", "web1", "-f", "value", "-c", "init_pid"))
	p.Wait("another instance runs", func() (bool, string) {
		_, out := to.Run(t.Context(), "lxcboot", "-q", "show", "web1", "-f", "value", "-c", "id", "-c", "status")
		return strings.Contains(out, "ACTIVE") && !strings.Contains(out, first), out
	})
	p.counts(to)
	p.healed()
}

// TestPacemakerLibvirtd: a host whose libvirtd is gone is fenced.
func TestPacemakerLibvirtd(t *testing.T) {
	p := upWriter(t)
	a := p.runs("web1 runs", anywhere)
	p.elsewhere(a, func() { a.Must("sh", "-c", "kill -KILL $(cat /run/libvirtd.pid)") })
}

// TestPacemakerSplit: a host that the others do not reach is fenced.
func TestPacemakerSplit(t *testing.T) {
	p := upWriter(t)
	a := p.runs("web1 runs", anywhere)
	p.elsewhere(a, a.Cut)
}

// TestPacemakerByHand: what was booted by hand on a host that lives is not taken from it.
func TestPacemakerByHand(t *testing.T) {
	p := upWriter(t)
	a := p.runs("web1 runs", anywhere)
	b := p.other(a)
	b.Must("crm_resource", "-Q", "-r", "web1", "-m", "-p", "target-role", "-v", "Stopped")
	p.Wait("web1 is stopped", func() (bool, string) {
		code, out := a.Run(t.Context(), "lxcboot", "-q", "show", "web1")
		return code == 3, out
	})
	a.Must("lxcboot", "boot", "--flavor", "m1.tiny", "--nic", "none", "--boot-volume", "web1", "byhand")
	b.Must("crm_resource", "-Q", "-M", "-r", "web1", "-N", b.Name)
	b.Must("crm_resource", "-Q", "-r", "web1", "-m", "-d", "target-role")
	p.Wait("the start fails", func() (bool, string) {
		_, out := b.Run(t.Context(), "crm_mon", "-1rf")
		return strings.Contains(out, "not started anew"), out
	})
	if got := a.Must("lxcboot", "show", "byhand", "-f", "value", "-c", "status"); got != "ACTIVE" {
		t.Errorf("what was booted by hand is %s", got)
	}
	a.Must("lxcboot", "delete", "byhand")
	b.Must("crm_resource", "-Q", "-U", "-r", "web1")
	b.Must("crm_resource", "-Q", "-C", "-r", "web1")
	p.counts(p.runs("web1 runs again", anywhere))
	p.alone()
}

// elsewhere does what has web1's host fenced, and looks that web1 goes on elsewhere from
// where it was.
func (p *pacemaker) elsewhere(a *Host, do func()) {
	p.t.Helper()
	p.counts(a)
	began := time.Now()
	do()
	b := p.runs("web1 runs elsewhere than on "+a.Name, not(a))
	took := time.Since(began)
	if a.IsOn() { // fencing starts it anew, with its log
		p.Wait(a.Name+" was fenced", func() (bool, string) {
			ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
			defer cancel()
			code, out := a.Run(ctx, "lxcboot", "-q", "show", "web1", "-f", "value", "-c", "status")
			return code != 0 || strings.TrimSpace(out) != "ACTIVE", out
		})
	}
	last, _ := number(a, counted)
	from := p.counts(b)
	p.t.Logf("from %s, which had counted to %d, to %s after %v, where it began at %d", a.Name, last, b.Name, took.Round(10*time.Millisecond), from)
	if from < last {
		p.t.Fatalf("%d was on disk on %s, and %s found %d", last, a.Name, b.Name, from)
	}
	p.healed()
}

// TestPacemakerPlugs pulls the plug of web1's host again and again.
func TestPacemakerPlugs(t *testing.T) {
	plugs := 50
	if n, err := strconv.Atoi(os.Getenv("CLUSTER_PLUGS")); err == nil {
		plugs = n
	}
	p := upWriter(t)
	for i := range plugs {
		a := p.runs("web1 runs", anywhere)
		t.Logf("plug %d of %d", i+1, plugs)
		p.elsewhere(a, a.Off)
	}
}
