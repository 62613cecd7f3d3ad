//go:build stockvm

package stockvm_test

import (
	"strings"
	"testing"
	"time"
)

// TestEndToEnd runs the end-to-end tests in the machine: some scripts about a container's
// life, its network and what confines it, and without -short all there is.
func TestEndToEnd(t *testing.T) {
	limit, which := 30*time.Minute, "-test.run='TestScripts/^(life-exec|container-confined|boot-network)$'"
	if !testing.Short() {
		limit, which = 8*time.Hour, "-test.timeout=8h"
	}
	s := machine(t, limit)
	// The programs are read again and again: from the machine's own disk.
	s.run("rm -rf /opt/e2e && cp -r /srv/share/e2e /opt/e2e && ln -s ../test/setup/busybox-image ../test/setup/private-libvirtd /opt/e2e/bin")
	out, err := s.try("cd /opt/e2e/test/e2e && E2E_BIN=/opt/e2e/bin ./e2e.test -test.v " + which)
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	if !strings.Contains(out, "--- PASS: TestScripts/") {
		t.Error("no script was run")
	}
}
