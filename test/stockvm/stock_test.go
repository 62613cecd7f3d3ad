//go:build stockvm

// Package stockvm tests lxcboot on a stock Debian host, the virtual machine that
// test/stockvm/run builds and starts: what needs systemd, udev, cgroup v2 and a host that
// goes down. The tests are in files of one subject each, and run in the order of their names,
// as it matters where the time ends: what can be shown nowhere else is in the first.
// limits_test.go is for what a container's limits are from the inside.
//
// A test has a limit of its own for all that it does, and waits for what it needs. It
// finds lxcboot installed and the images busybox and debian imported, and leaves no
// instance but those of debians.
package stockvm_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// stock is the machine, for one test.
type stock struct {
	*testing.T
	ctx context.Context
}

// longest is what the longest test takes on a busy host, or another with the removal of all
// that is left after the last.
const longest = 5 * time.Minute

// machine gives the machine to a test for so long. Where the run has to end sooner than a
// test may take, the test is passed over.
func machine(t *testing.T, limit time.Duration) stock {
	if until, err := strconv.ParseInt(os.Getenv("UNTIL"), 10, 64); err == nil && time.Until(time.Unix(until, 0)) < longest {
		t.Skip("there is no time left for it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			explain()
		}
	})
	return stock{t, ctx}
}

// vm runs a verb of the script vm, and gives what it printed.
func vm(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "./vm", args...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return strings.TrimSpace(string(out)), err
}

// try runs a shell script in the machine.
func (s stock) try(script string) (string, error) { return vm(s.ctx, "ssh", script) }

// run runs a shell script in the machine that has to succeed at each command.
func (s stock) run(script string) string {
	s.Helper()
	out, err := s.try("set -eu\n" + script)
	if err != nil {
		s.Fatalf("%s\n%v: %s", script, err, out)
	}
	return out
}

// until runs a shell script in the machine again and again, until it succeeds.
func (s stock) until(script string) string {
	s.Helper()
	for {
		out, err := s.try(script)
		if err == nil {
			return out
		}
		select {
		case <-s.ctx.Done():
			s.Fatalf("%s\nstill: %v: %s", script, err, out)
		case <-time.After(time.Second):
		}
	}
}

// verb runs another verb of the script vm than ssh.
func (s stock) verb(verb string) {
	s.Helper()
	if out, err := vm(s.ctx, verb); err != nil {
		s.Fatalf("vm %s: %v: %s", verb, err, out)
	}
}

// explain prints what the machine says of itself.
func explain() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := vm(ctx, "ssh", `lxcboot list --long; systemctl --failed --no-legend --plain
journalctl --boot --no-pager | grep -v 'End of file while reading data' | tail -n 60; echo "== its serial console"`)
	fmt.Printf("== the machine: %v\n%s\n", err, out)
	out, err = vm(ctx, "serial")
	fmt.Printf("%s\n%v\n", out, err)
}

// restart restarts libvirtd.
const restart = "systemctl restart libvirtd; " + answers

// apt installs a package, from no network; also one that is older than what is installed.
const apt = "DEBIAN_FRONTEND=noninteractive apt-get -q -y --allow-downgrades --reinstall install "

// answers waits for libvirtd, which says that it is ready before it answers.
const answers = "until virsh -q -c lxc:/// version >/dev/null 2>&1; do sleep 1; done"

// install is how README has it, with the package that was built outside. libvirt's
// network is switched on, as it is not by itself.
const install = `set -eu
` + apt + `/srv/share/deb/lxcboot_*.deb
` + answers + `
lxcboot setup --check
virsh -q net-autostart default
virsh -q net-info default | grep -q 'Active: *yes' || virsh -q net-start default
for image in busybox debian; do
  lxcboot image show $image >/dev/null 2>&1 || lxcboot image import /srv/share/$image.raw --name $image >/dev/null
done`

// nothing fails, and prints what it is, when anything is left of containers. systemd keeps
// the slice that those of the instances were in.
const nothing = `left=$(losetup --noheadings --list --output NAME,BACK-FILE; findmnt --noheadings --raw --output TARGET | grep lxcboot
virsh -q -c lxc:/// list --all --name | grep .; ps -eo pid=,comm= | grep -E 'lxcboot|libvirt_lxc|qemu-storage'
find /sys/fs/cgroup ! -name machine-lxcboot.slice '(' -name 'machine-lxc*' -o -name 'lxcboot-*' ')'; ls /run/lxcboot 2>/dev/null; ls /sys/class/net | grep -E '^(lx|vnet)')
echo "$left"
test -z "$left"`

// before and same compare the machine with what it was, all that runs in it included.
const (
	before = "/srv/share/leaks save before"
	same   = "/srv/share/leaks check before"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run installs lxcboot for the tests, and looks after them that deleting all that they
// left leaves nothing.
func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	for _, args := range [][]string{{"up"}, {"ssh", install}} {
		if out, err := vm(ctx, args...); err != nil {
			fmt.Printf("--- FAIL: lxcboot cannot be installed: %v\n%s\n", err, out)
			explain()
			return 1
		}
	}
	code := m.Run()
	ctx, cancel = context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out, err := vm(ctx, "ssh", `names=$(lxcboot list -f value -c name) && { [ -z "$names" ] || lxcboot delete -q $names; } && for try in 1 2 3 4 5; do
left=$(`+nothing+`) && exit; sleep 2; done; echo "$left"; exit 1`)
	if err != nil {
		fmt.Printf("--- FAIL: after all instances are deleted there is left: %v\n%s\n", err, out)
		explain()
		return 1
	}
	return code
}
