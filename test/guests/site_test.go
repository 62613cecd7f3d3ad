//go:build guests

// Package guests boots real operating systems, images of Debian's unmodified packages, as
// a user would, and goes through all that is expected of each: table_test.go has the
// systems, checks_test.go what is expected. docs/guests.md says what came of it.
package guests_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/test/host"
)

// site is what the guests share: the programs, a libvirtd with lxcboot's hook, its
// network, and a state directory.
var site struct {
	work    string
	unique  string // what the names of instances begin with
	bridge  string
	network netip.Prefix
	env     []string
}

// begin makes the site, which ends with the test; what is left on the host then is an error.
func begin(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root, libvirt, and what test/setup/install test installs")
	}
	ctx := context.Background()
	before, err := host.Look(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if site.work, err = os.MkdirTemp("", "lxcboot-guests-"); err != nil {
		t.Fatal(err)
	}
	site.unique = "guests" + site.work[len(site.work)-4:]
	mine := func(s host.State) host.State { return s.Of(site.work+"/", site.unique, "/run/lxcboot/") }
	t.Cleanup(func() {
		left, err := host.Settle(ctx, mine(before), mine, 20*time.Second)
		switch {
		case err != nil:
			t.Error(err)
		case len(left) > 0:
			t.Errorf("the tests left this behind; %s is kept:\n%s", site.work, strings.Join(left, "\n"))
		default:
			os.RemoveAll(site.work) // no mount is left in it
		}
	})
	// A container's root, who is nobody here, has to get through to its mountpoint.
	if err := os.Chmod(site.work, 0o711); err != nil {
		t.Fatal(err)
	}
	down, err := up()
	t.Cleanup(down)
	if err != nil {
		t.Fatal(err)
	}
}

// up makes the site, and gives what ends it, also when it fails.
func up() (down func(), err error) {
	down = func() {}
	bin, lv := filepath.Join(site.work, "bin"), filepath.Join(site.work, "lv")
	if err := host.Build(bin); err != nil {
		return down, err
	}
	connect := "lxc:///?socket=" + lv + "/sock/libvirt-sock"
	// Only what a test says itself counts.
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "LXCBOOT_") && !strings.HasPrefix(kv, "OS_") && !strings.HasPrefix(kv, "PATH=") {
			site.env = append(site.env, kv)
		}
	}
	site.env = append(site.env, "PATH="+bin+":"+os.Getenv("PATH"), "LXCBOOT_CONNECT="+connect,
		"LXCBOOT_STATE_DIR="+site.work+"/state", "LXCBOOT_RUN_DIR="+site.work+"/run", "LXCBOOT_BACKEND=local")
	// The network is one that no other run has: the documents' ranges for benchmarks.
	number := int(site.unique[len(site.unique)-1])%16*16 + int(site.unique[len(site.unique)-2])%16
	site.network = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, byte(number), 0}), 24)
	site.bridge = site.unique + "n"
	net := strings.TrimSuffix(site.network.Addr().String(), "0")
	// With the spanning tree protocol a bridge passes nothing on for its ports' first four
	// seconds, which is longer than a DHCP client's first tries.
	xml := fmt.Sprintf(`<network><name>guests</name><bridge name='%s' stp='off'/><ip address='%s1' prefix='24'><dhcp><range start='%s10' end='%s250'/></dhcp></ip></network>`, site.bridge, net, net, net)
	if err := os.WriteFile(filepath.Join(site.work, "network.xml"), []byte(xml), 0o600); err != nil {
		return down, err
	}
	script := func(text string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		_, err := command(ctx, "sh", "-euc", text, "sh", "../setup/private-libvirtd", lv, connect, site.work)
		return err
	}
	down = func() {
		script(`virsh -q -c "$3" net-destroy guests || true; "$1" stop "$2"; umount "$4/state"`)
	}
	// A snapshot of a volume that is in use needs a filesystem that shares blocks.
	return down, script(`truncate -s 32G "$4/fs"
mkfs.xfs -q "$4/fs"
mkdir -p "$4/state"
mount -o loop "$4/fs" "$4/state"
chmod 711 "$4/state"
"$1" run "$2" lxcboot setup
"$1" start "$2"
virsh -q -c "$3" net-create "$4/network.xml"
ssh-keygen -q -t ed25519 -N '' -f "$4/key"
ssh-keygen -q -t ed25519 -N '' -f "$4/key2"`)
}

// command runs a program, and gives what it printed; an error has what it said.
func command(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = site.env
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, stdout.String(), stderr.String())
	}
	return strings.TrimSpace(stdout.String()), err
}

// lxcboot runs it as a user does.
func lxcboot(ctx context.Context, args ...string) (string, error) {
	return command(ctx, filepath.Join(site.work, "bin", "lxcboot"), args...)
}

// until does it again and again until it succeeds.
func until(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still: %w", err)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// exitCode is what a program ended with, -1 where it did not end by itself.
func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}
