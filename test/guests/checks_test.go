//go:build guests

package guests_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A box is an instance of a guest, as the checks go through it.
type box struct {
	guest
	name    string
	data    string // word of its user data
	address netip.Addr
}

// A check is one point of what is expected of each guest, in the order in which they are
// looked at: each begins where the one before has ended.
type check struct {
	name string
	of   func(guest) bool // nil: of each
	do   func(context.Context, *box) error
}

var checks = []check{
	{"boot", nil, boots},
	{"up", nil, comesUp},
	{"address", nil, hasAddress},
	{"ssh", nil, answersSSH},
	{"user data", func(g guest) bool { return g.cloudInit }, hasUserData},
	{"name", nil, hasName},
	{"reboot", nil, reboots},
	{"poweroff", nil, powersOff},
	{"start", nil, starts},
	{"stop", nil, stops},
	{"snapshot", func(g guest) bool { return g.init != "systemd" }, snapshotIsAnother}, // two with systemd do not get on yet
}

// inside runs a shell script in the guest.
func (b *box) inside(ctx context.Context, script string) (string, error) {
	return lxcboot(ctx, "exec", b.name, "--", "sh", "-c", script)
}

func (b *box) rootVolume(ctx context.Context) (string, error) {
	return lxcboot(ctx, "show", b.name, "-f", "value", "-c", "volumes_attached")
}

// volumeGiB is larger than any image.
const volumeGiB = 3

func (b *box) boot(ctx context.Context, source ...string) error {
	args := append([]string{"boot", "--flavor", "m1.small", "--nic", "net-name=guests", "--ssh-key", filepath.Join(site.work, "key.pub")}, source...)
	if b.cloudInit {
		data := filepath.Join(site.work, b.name+".data")
		text := "#cloud-config\nwrite_files:\n- path: /root/told\n  content: |\n    " + b.data + "\nruncmd:\n- [sh, -c, 'echo " + b.data + " >/root/ran']\n"
		if err := os.WriteFile(data, []byte(text), 0o600); err != nil {
			return err
		}
		args = append(args, "--user-data", data)
	}
	_, err := lxcboot(ctx, append(args, b.name)...)
	return err
}

func boots(ctx context.Context, b *box) error {
	return b.boot(ctx, "--image", b.guest.name, "--boot-from-volume", strconv.Itoa(volumeGiB), "--delete-on-termination")
}

// comesUp: it is where its init brings it to, and nothing in it has failed.
func comesUp(ctx context.Context, b *box) error {
	return until(ctx, func() error {
		_, err := b.inside(ctx, inits[b.init].up)
		return err
	})
}

func hasAddress(ctx context.Context, b *box) error {
	return until(ctx, func() error {
		out, err := b.inside(ctx, "ip -4 -oneline address show dev eth0 scope global")
		if err != nil {
			return err
		}
		for _, word := range strings.Fields(out) {
			if p, err := netip.ParsePrefix(word); err == nil && site.network.Contains(p.Addr()) {
				b.address = p.Addr()
				return nil
			}
		}
		return fmt.Errorf("it has no address of %s: %q", site.network, out)
	})
}

// user is who gets in by ssh: cloud-init gives root's keys to a user of its own.
func (g guest) user() string {
	if g.cloudInit {
		return "debian"
	}
	return "root"
}

func (b *box) ssh(ctx context.Context, script string) (string, error) {
	return command(ctx, "ssh", "-i", filepath.Join(site.work, "key"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "BatchMode=yes", "-o", "ConnectTimeout=10", b.user()+"@"+b.address.String(), script)
}

func answersSSH(ctx context.Context, b *box) error {
	if !b.address.IsValid() {
		return fmt.Errorf("it has no address")
	}
	return until(ctx, func() error {
		return same(ctx, "it says by ssh", "ok", func() (string, error) { return b.ssh(ctx, "echo ok") })
	})
}

// same: what is looked at is what is wanted.
func same(ctx context.Context, what, want string, look func() (string, error)) error {
	got, err := look()
	if err == nil && got != want {
		err = fmt.Errorf("%s %q, and not %q", what, got, want)
	}
	return err
}

func hasUserData(ctx context.Context, b *box) error {
	if _, err := b.inside(ctx, "cloud-init status --wait --long"); err != nil {
		return err
	}
	return same(ctx, "its user data have made", b.data+"\n"+b.data, func() (string, error) { return b.inside(ctx, "cat /root/told /root/ran") })
}

func hasName(ctx context.Context, b *box) error {
	for _, look := range []string{"uname -n", "cat /etc/hostname"} {
		if err := same(ctx, look+" says", b.name, func() (string, error) { return b.inside(ctx, look) }); err != nil {
			return err
		}
	}
	return nil
}

func (b *box) initPID(ctx context.Context) (string, error) {
	return lxcboot(ctx, "show", b.name, "-f", "value", "-c", "init_pid")
}

// again waits until it is back, after an end or a reboot, with what was written before.
func (b *box) again(ctx context.Context) error {
	if err := comesUp(ctx, b); err != nil {
		return err
	}
	if err := hasAddress(ctx, b); err != nil {
		return err
	}
	if err := answersSSH(ctx, b); err != nil {
		return err
	}
	return same(ctx, "its file has", "kept", func() (string, error) { return b.inside(ctx, "cat /root/kept") })
}

// end has it do what ends it, which may end who asks for it too.
func (b *box) end(ctx context.Context, how string) error {
	if _, err := b.inside(ctx, "echo kept >/root/kept"); err != nil {
		return err
	}
	_, err := b.inside(ctx, inits[b.init].ends+how)
	if code := exitCode(err); code == 137 || code == 143 {
		return nil
	}
	return err
}

func reboots(ctx context.Context, b *box) error {
	before, err := b.initPID(ctx)
	if err != nil {
		return err
	}
	if err := b.end(ctx, "reboot"); err != nil {
		return err
	}
	err = until(ctx, func() error {
		now, err := b.initPID(ctx)
		if err == nil && (now == before || now == "0") {
			err = fmt.Errorf("its init is %s", now)
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.again(ctx)
}

func powersOff(ctx context.Context, b *box) error {
	if err := b.end(ctx, "poweroff"); err != nil {
		return err
	}
	_, err := lxcboot(ctx, "wait", b.name, "--for", "SHUTOFF")
	return err
}

func starts(ctx context.Context, b *box) error {
	if _, err := lxcboot(ctx, "start", b.name); err != nil {
		return err
	}
	return b.again(ctx)
}

// stops: the init hears it and ends by itself. An idle host sees that within five seconds;
// a busy one gets a minute, in which one that has not heard would be killed.
func stops(ctx context.Context, b *box) error {
	began := time.Now()
	if _, err := lxcboot(ctx, "stop", b.name); err != nil {
		return err
	}
	took := time.Since(began)
	// How the init ended is handed in a moment later, unless stop has killed it.
	var code string
	err := until(ctx, func() (err error) {
		code, err = lxcboot(ctx, "show", b.name, "-f", "value", "-c", "exit_code")
		if err == nil && code == "" {
			err = errors.New("how its init ended is not known")
		}
		return err
	})
	if err == nil && code != "0" {
		err = fmt.Errorf("its init has ended with %s", code)
	}
	if err != nil {
		err = fmt.Errorf("%w, stopped in %v", err, took)
	}
	return err
}

// snapshotIsAnother: what is booted from a snapshot is a machine of its own, with what the
// first has written, beside that one.
func snapshotIsAnother(ctx context.Context, b *box) error {
	volume, err := b.rootVolume(ctx)
	if err != nil {
		return err
	}
	snapshot := b.name + "-s"
	if _, err := lxcboot(ctx, "snapshot", "create", snapshot, "--volume", volume); err != nil {
		return err
	}
	if err := starts(ctx, b); err != nil {
		return err
	}
	other := &box{guest: b.guest, name: b.name + "-2", data: "second"}
	defer lxcboot(context.WithoutCancel(ctx), "delete", other.name)
	if err := other.boot(ctx, "--snapshot", snapshot); err != nil {
		return err
	}
	for _, do := range []func(context.Context, *box) error{comesUp, hasAddress, answersSSH, hasName} {
		if err := do(ctx, other); err != nil {
			return err
		}
	}
	if b.cloudInit {
		if err := hasUserData(ctx, other); err != nil {
			return err
		}
	}
	if b.address == other.address {
		return fmt.Errorf("both have the address %s", b.address)
	}
	return nil
}
