//go:build stockvm

package stockvm_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestGrow: the ext4 that a running container has as its root becomes as large as its volume
// at once, which takes a host whose root has all capabilities.
func TestGrow(t *testing.T) {
	s := machine(t, 10*time.Minute)
	s.run(`lxcboot volume create --image busybox --size 1 grow -f value -c id
lxcboot boot -q --flavor m1.tiny --boot-volume grow --nic none g
lxcboot exec g -- sh -c 'echo kept >/kept'`)
	if out := s.run("lxcboot volume extend grow --size 2 -f value -c size 2>&1"); out != "2" {
		t.Errorf("extend says %q", out)
	}
	fields := strings.Fields(s.run("lxcboot exec g -- sh -c 'df -m / | tail -n 1; cat /kept'"))
	if size, err := strconv.Atoi(fields[1]); err != nil || size < 1900 || fields[len(fields)-1] != "kept" {
		t.Errorf("its root is %v", fields)
	}
	s.run("lxcboot delete -q g; lxcboot volume delete grow")
}

// TestViewsAnew restarts lxcfs, kills it and stops it beside running containers, which see
// their own memory, or without lxcfs the host's.
func TestViewsAnew(t *testing.T) {
	s := machine(t, 10*time.Minute)
	s.debians()
	for _, c := range []struct{ what, do, total string }{
		{"as it was", "true", "524288"},
		{"restarted", "systemctl restart lxcfs", "524288"},
		{"killed", "systemctl kill --signal=KILL lxcfs", "524288"},
		{"stopped", "systemctl stop lxcfs", "$(awk '/MemTotal/ {print $2}' /proc/meminfo)"},
		{"started", "systemctl start lxcfs", "524288"},
	} {
		s.run(c.do)
		for _, name := range debians {
			out := s.until(fmt.Sprintf(`lxcboot exec %s -- sh -c "free | grep 'Mem: *%s ' || exit; ps aux >/dev/null && vmstat && uptime || echo failed"`, name, c.total))
			if strings.HasSuffix(out, "failed") {
				t.Errorf("lxcfs %s, in %s: %s", c.what, name, out)
			}
		}
	}
}
