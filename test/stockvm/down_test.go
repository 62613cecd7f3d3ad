//go:build stockvm

package stockvm_test

import (
	"strings"
	"testing"
	"time"
)

// bootID prints the id of the host's present start.
const bootID = "cat /proc/sys/kernel/random/boot_id"

// TestReboot: a host that goes down in order ends its containers first, while they still
// have their storage, and starts them when it is up again.
func TestReboot(t *testing.T) {
	s := machine(t, 20*time.Minute)
	s.debians()
	s.run("lxcboot exec d1 -- sh -c 'echo unsynced >/root/unsynced'")
	boot := s.run(bootID)
	s.try("systemctl reboot") // the connection may end first
	for {
		s.verb("up")
		if now, err := s.try(bootID); err == nil && now != boot {
			break
		}
		time.Sleep(time.Second)
	}
	s.well(debians...)
	if got := s.run("lxcboot exec d1 -- cat /root/unsynced"); got != "unsynced" {
		t.Errorf("what d1 wrote before the host went down is %q", got)
	}
	log := s.run("journalctl --boot=-1 --no-pager --output=short-monotonic")
	for _, want := range []string{"stopped d1", "stopped d2", "stopped d3"} {
		if !strings.Contains(log, want) {
			t.Errorf("the journal of the start before does not say %q", want)
		}
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, "I/O error") || strings.Contains(line, "Failed with result") && strings.Contains(line, "lxcboot") {
			t.Errorf("the journal of the start before: %s", line)
		}
	}
}

// TestPowerCut: what was flushed before the power went is there after, and the containers
// come back by themselves.
func TestPowerCut(t *testing.T) {
	s := machine(t, 20*time.Minute)
	s.debians()
	s.run("lxcboot exec d1 -- sh -c 'echo flushed >/root/flushed && sync'")
	s.verb("kill")
	s.verb("up")
	s.well(debians...)
	if got := s.run("lxcboot exec d1 -- cat /root/flushed"); got != "flushed" {
		t.Errorf("what d1 flushed before the power went is %q", got)
	}
}
