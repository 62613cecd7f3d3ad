//go:build guests

package guests_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A box is an instance of a guest, as the checks go through it.
type box struct {
	guest
	name    string
	data    string // word of its user data
	key     string // the file of the ssh key that it is told of
	address netip.Addr
	notes   []string // what a check has seen beside what it had to be
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
	{"address", guest.onNetwork, hasAddress},
	{"ssh", guest.onNetwork, answersSSH},
	{"user data", guest.hasCloudInit, hasUserData},
	{"name", nil, hasName},
	{"size", nil, hasSize},
	{"reboot", nil, reboots},
	{"poweroff", nil, powersOff},
	{"start", nil, starts},
	{"stop", nil, stops},
	{"snapshot", nil, snapshotIsAnother},
}

func (g guest) onNetwork() bool { return g.network != "" }

func (g guest) hasCloudInit() bool { return g.cloudInit }

// inside runs a shell script in the guest.
func (b *box) inside(ctx context.Context, script string) (string, error) {
	return lxcboot(ctx, "exec", b.name, "--", "sh", "-c", script)
}

// rootVolume is the first of its volumes; that of an overlay comes behind it.
func (b *box) rootVolume(ctx context.Context) (string, error) {
	all, err := lxcboot(ctx, "show", b.name, "-f", "value", "-c", "volumes_attached")
	root, _, _ := strings.Cut(all, ",")
	return root, err
}

// Volumes are larger than the images and the snapshots that they are made of.
const (
	volumeGiB = 3
	secondGiB = 4
)

// flavor is of 2 GiB of memory and a disk of 20 GiB.
const flavor = "m1.small"

// boot boots it from a volume of its own, made of an image or a snapshot.
func (b *box) boot(ctx context.Context, source, id string, gib int) error {
	volume := fmt.Sprintf("source=%s,id=%s,dest=volume,size=%d,shutdown=remove,bootindex=0", source, id, gib)
	if b.overlay != "" {
		volume += ",overlay=" + b.overlay
	}
	args := []string{"boot", "--flavor", flavor, "--nic", "net-name=guests", "--ssh-key", b.key + ".pub", "--block-device", volume}
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
	return b.boot(ctx, "image", b.guest.name, volumeGiB)
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
	return b.sshWith(ctx, b.key, script)
}

func (b *box) sshWith(ctx context.Context, key, script string) (string, error) {
	return command(ctx, "ssh", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
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

func hasSize(ctx context.Context, b *box) error { return b.sized(ctx, volumeGiB) }

// sized: all of / is the filesystem's, of a volume of so many GiB. What is not, its own
// tables and other partitions, is less than a tenth; an image is less than a half of it.
func (b *box) sized(ctx context.Context, gib int64) error {
	switch b.overlay {
	case "tmpfs":
		gib = 1 // half of the flavor's memory
	case "ephemeral":
		gib = 20 // the flavor's disk
	}
	out, err := b.inside(ctx, "stat -f -c '%b %S' /")
	if err != nil {
		return err
	}
	var blocks, size int64
	if _, err := fmt.Sscan(out, &blocks, &size); err != nil {
		return fmt.Errorf("%q: %w", out, err)
	}
	has, all := blocks*size, gib<<30
	if has > all || has < all/10*9 {
		return fmt.Errorf("its root is of %d MiB, and its volume of %d GiB", has>>20, gib)
	}
	return nil
}

func (b *box) initPID(ctx context.Context) (string, error) {
	return lxcboot(ctx, "show", b.name, "-f", "value", "-c", "init_pid")
}

// again waits until it is back, after an end or a reboot, with what was written before, or
// without that if it was written to memory.
func (b *box) again(ctx context.Context) error {
	if err := b.back(ctx); err != nil {
		return err
	}
	return b.keeps(ctx, b.overlay != "tmpfs")
}

func (b *box) back(ctx context.Context) error {
	all := []func(context.Context, *box) error{comesUp}
	if b.onNetwork() {
		all = append(all, hasAddress, answersSSH)
	}
	for _, do := range all {
		if err := do(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// keeps sees whether it has the file that end has written.
func (b *box) keeps(ctx context.Context, it bool) error {
	want := "gone"
	if it {
		want = "kept"
	}
	return same(ctx, "its file is", want, func() (string, error) { return b.inside(ctx, "cat /root/kept 2>/dev/null || echo gone") })
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
	b.notes = append(b.notes, fmt.Sprintf("stopped in %.1f s", took.Seconds()))
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

// snapshotIsAnother: what is booted from a snapshot, beside the first and from a larger
// volume, has what the first has written, and is a machine of its own.
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
	other := &box{guest: b.guest, name: b.name + "-2", data: "second", key: filepath.Join(site.work, "key2")}
	defer lxcboot(context.WithoutCancel(ctx), "delete", other.name)
	err = other.isAnother(ctx, b, snapshot)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		b.notes = append(b.notes, other.explain(ctx))
	}
	return err
}

func (b *box) isAnother(ctx context.Context, first *box, snapshot string) error {
	if err := b.boot(ctx, "snapshot", snapshot, secondGiB); err != nil {
		return err
	}
	if err := b.back(ctx); err != nil {
		return err
	}
	if err := hasName(ctx, b); err != nil {
		return err
	}
	if err := b.sized(ctx, secondGiB); err != nil {
		return err
	}
	// What is written over a root is not in a snapshot of that.
	if err := b.keeps(ctx, b.overlay == ""); err != nil {
		return err
	}
	if b.cloudInit {
		if err := hasUserData(ctx, b); err != nil {
			return err
		}
	}
	if b.onNetwork() {
		if b.address == first.address {
			return fmt.Errorf("both have the address %s", b.address)
		}
		// cloud-init leaves the keys of a user that is there already.
		if out, err := b.sshWith(ctx, first.key, "echo ok"); !b.cloudInit && exitCode(err) != 255 {
			return fmt.Errorf("the first one's key opens it too: %q, %v", out, err)
		}
	}
	return b.differs(ctx, first)
}

// identities are what tells a machine from others, by what prints it.
func (g guest) identities() map[string]string {
	all := map[string]string{}
	if g.init == "systemd" {
		all["machine id"] = "cat /etc/machine-id"
	}
	if g.cloudInit {
		all["instance-id"] = "cat /var/lib/cloud/data/instance-id"
		for _, kind := range []string{"ecdsa", "ed25519", "rsa"} {
			all["ssh host key "+kind] = "cut -d ' ' -f 2 /etc/ssh/ssh_host_" + kind + "_key.pub"
		}
	}
	return all
}

// differs: it has nothing that another is told by.
func (b *box) differs(ctx context.Context, from *box) error {
	for what, look := range b.identities() {
		mine, err := b.inside(ctx, look)
		if err != nil {
			return err
		}
		theirs, err := from.inside(ctx, look)
		if err != nil {
			return err
		}
		if mine == "" || theirs == "" || mine == theirs {
			return fmt.Errorf("%s: it has %q, and what it was copied from %q", what, mine, theirs)
		}
	}
	return nil
}
