//go:build guests

package guests_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// A guest is an operating system of Debian's unmodified packages.
type guest struct {
	name      string
	suite     string
	init      string // a key of inits
	network   string // a key of networks, or empty: nothing in it looks after cards
	packages  string // further ones
	setup     string // further programs of the directory setup
	fs        string
	overlay   string // what is over a root that cannot be written to
	cloud     bool   // its disk is as those of Debian's cloud images are
	cloudInit bool
	quick     bool // it is in `make test` too
}

const (
	bookworm = "bookworm"
	trixie   = "trixie"
	// What Debian's cloud images have that does something when they start.
	cloudPackages = "cloud-init,cloud-guest-utils,systemd-timesyncd,sudo,polkitd,unattended-upgrades,locales,ca-certificates"
)

// guests are all that are tried; docs/guests.md has a row for each.
var guests = []guest{
	{name: "debian12-ifupdown", suite: bookworm, init: "systemd", network: "ifupdown", fs: "ext4"},
	{name: "debian12-networkd", suite: bookworm, init: "systemd", network: "networkd", fs: "btrfs"},
	{name: "debian12-netplan", suite: bookworm, init: "systemd", network: "netplan", fs: "ext4"},
	{name: "debian12-networkmanager", suite: bookworm, init: "systemd", network: "NetworkManager", fs: "xfs"},
	{name: "debian12-minimal", suite: bookworm, init: "systemd", fs: "ext4"},
	{name: "debian12-sysvinit", suite: bookworm, init: "sysvinit", network: "ifupdown", fs: "ext4", quick: true},
	{name: "debian12-openrc", suite: bookworm, init: "openrc", network: "ifupdown", fs: "ext4"},
	{name: "debian12-runit", suite: bookworm, init: "runit", network: "ifupdown", fs: "xfs"},
	{name: "debian12-busybox", suite: bookworm, init: "busybox", network: "udhcpc", fs: "btrfs"},
	{name: "debian12-squashfs", suite: bookworm, init: "systemd", network: "networkd", fs: "squashfs", overlay: "tmpfs"},
	{name: "debian12-cloud", suite: bookworm, init: "systemd", network: "cloud-netplan", packages: cloudPackages, setup: "cloud", fs: "ext4", cloud: true, cloudInit: true},
	{name: "debian12-cloud-ifupdown", suite: bookworm, init: "systemd", network: "cloud-ifupdown", packages: cloudPackages, setup: "cloud", fs: "xfs", cloud: true, cloudInit: true},
	{name: "debian13-ifupdown", suite: trixie, init: "systemd", network: "dhcpcd", fs: "ext4"},
	{name: "debian13-networkd", suite: trixie, init: "systemd", network: "networkd", fs: "xfs", quick: true},
	{name: "debian13-netplan", suite: trixie, init: "systemd", network: "netplan", fs: "btrfs"},
	{name: "debian13-networkmanager", suite: trixie, init: "systemd", network: "NetworkManager", fs: "ext4"},
	{name: "debian13-minimal", suite: trixie, init: "systemd", fs: "ext4"},
	{name: "debian13-sysvinit", suite: trixie, init: "sysvinit", network: "dhcpcd", fs: "ext4"},
	{name: "debian13-openrc", suite: trixie, init: "openrc", network: "dhcpcd", fs: "ext4"},
	{name: "debian13-runit", suite: trixie, init: "runit", network: "dhcpcd", fs: "ext4"},
	{name: "debian13-busybox", suite: trixie, init: "busybox", network: "udhcpc", fs: "xfs"},
	{name: "debian13-squashfs", suite: trixie, init: "systemd", network: "networkd", fs: "squashfs", overlay: "ephemeral"},
	{name: "debian13-cloud", suite: trixie, init: "systemd", network: "cloud-netplan", packages: cloudPackages, setup: "cloud", fs: "ext4", cloud: true, cloudInit: true, quick: true},
	{name: "debian13-cloud-btrfs", suite: trixie, init: "systemd", network: "cloud-netplan", packages: cloudPackages, setup: "cloud", fs: "btrfs", cloud: true, cloudInit: true},
}

// networks are what gives a card its address: packages, and a program of the directory setup.
var networks = map[string]struct{ packages, setup string }{
	"ifupdown":       {"ifupdown,isc-dhcp-client", "ifupdown"},
	"dhcpcd":         {"ifupdown,dhcpcd-base", "ifupdown"},
	"networkd":       {"", "networkd"},
	"netplan":        {"netplan.io", "netplan"},
	"NetworkManager": {"network-manager", ""},
	"udhcpc":         {"udhcpc", ""},
	"cloud-netplan":  {"netplan.io,systemd-resolved", "cloud-netplan"},
	"cloud-ifupdown": {"ifupdown,isc-dhcp-client", "cloud-ifupdown"},
}

// everywhere are the packages of every guest.
const everywhere = "openssh-server,iproute2,procps"

// inits are the init systems.
var inits = map[string]struct {
	packages string
	setup    string // programs of the directory setup
	up       string // a shell script that fails, and says why, unless all is up and nothing has failed
	ends     string // comes before reboot and poweroff
}{
	"systemd": {
		packages: "systemd-sysv,dbus,libpam-systemd,udev",
		up:       "systemctl is-system-running && systemctl is-active ssh || { systemctl --failed --no-legend --plain; systemctl list-jobs --no-legend; exit 1; }",
		ends:     "systemctl ",
	},
	"sysvinit": {packages: "sysvinit-core,initscripts,sysv-rc,insserv", up: "runlevel | grep '^N 2' && ! pgrep -l -x 'rc|startpar' && service ssh status"},
	"openrc":   {packages: "openrc,sysvinit-core,initscripts", up: "rc-status -r | grep default && ! pgrep -l -x 'openrc|rc' && ! rc-status --crashed && service ssh status"},
	"runit":    {packages: "runit-init,getty-run", setup: "runit", up: "pgrep -x runsvdir && sv status /etc/service/ssh | grep ^run:"},
	"busybox":  {packages: "busybox-static", setup: "busybox", up: "pgrep -x sshd", ends: "busybox "},
}

// image builds the guest's image, unless it is there, and gives its directory.
func (g guest) image() (string, error) {
	init, network := inits[g.init], networks[g.network]
	var packages []string
	for _, p := range []string{everywhere, init.packages, network.packages, g.packages} {
		if p != "" {
			packages = append(packages, p)
		}
	}
	args := []string{g.name, "--suite", g.suite, "--packages", strings.Join(packages, ","), "--fs", g.fs}
	for _, s := range strings.Fields(init.setup + " " + g.setup + " " + network.setup + " installed") {
		args = append(args, "--setup", filepath.Join("setup", s))
	}
	if g.cloud {
		args = append(args, "--partitioned", "cloud")
	}
	cmd := exec.Command("../setup/debian-image", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}
