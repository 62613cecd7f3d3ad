package cmd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/failure"
)

const (
	hookPath = "/etc/libvirt/hooks/lxc.d/lxcboot"
	unitPath = "/etc/systemd/system/lxcboot.service"
	trimPath = "/etc/systemd/system/lxcboot-trim.service"
	weekPath = "/etc/systemd/system/lxcboot-trim.timer"
	linkPath = "/etc/systemd/network/98-lxcboot.link" // before systemd's 99-default, and behind an administrator's
	dropPath = "/etc/systemd/system/lxcfs.service.d/lxcboot.conf"
	ctlPath  = "/etc/sysctl.d/98-lxcboot.conf"
)

// unattended is this program as libvirt's hook and the systemd unit start it, without
// this shell's variables.
func (a *App) unattended() ([]string, error) {
	words, err := a.itself()
	if err != nil || a.config == "" {
		return words, err
	}
	path, err := filepath.Abs(a.config)
	return append(words, "--config", path), err
}

const unit = `[Unit]
Description=Start the LXC instances that were running (lxcboot)
Documentation=man:lxcboot(1)
Wants=libvirtd.service network-online.target
After=libvirtd.service network-online.target local-fs.target

[Service]
Type=oneshot
RemainAfterExit=yes
KillMode=process
ExecStartPre=-%[1]s repair
ExecStart=%[1]s autostart
TimeoutStartSec=infinity
# What keeps the consoles and the volumes has scopes of its own, which end after this.
ExecStop=%[1]s autostart --stop
TimeoutStopSec=3min

[Install]
WantedBy=multi-user.target
`

const trimUnit = `[Unit]
Description=Give back what the volumes of running LXC instances do not use (lxcboot)
Documentation=man:lxcboot-volume-trim(1)

[Service]
Type=oneshot
ExecStart=%[1]s volume trim --all
Nice=19
IOSchedulingClass=idle
`

// trimTimer is as util-linux's fstrim.timer. Debian has that switched on, and it does not
// reach containers' filesystems, which are mounted nowhere on the host.
const trimTimer = `[Unit]
Description=Give back what the volumes of running LXC instances do not use, weekly (lxcboot)
Documentation=man:lxcboot-volume-trim(1)

[Timer]
OnCalendar=weekly
AccuracySec=1h
Persistent=true
RandomizedDelaySec=100min

[Install]
WantedBy=timers.target
`

// wantedPath is the link that switches the timer on.
var wantedPath = filepath.Join(filepath.Dir(weekPath), "timers.target.wants", filepath.Base(weekPath))

// installTimer installs the timer and what it starts. Where there was none it is switched on;
// one that was switched off stays so.
func installTimer(words []string) error {
	if err := install(trimPath, unitText(trimUnit, words), 0o644); err != nil {
		return err
	}
	_, err := os.Lstat(weekPath)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(wantedPath), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(weekPath, wantedPath); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return install(weekPath, trimTimer, 0o644)
}

// link is udev's. Its default gives every virtual interface an address of its own, and
// may do so after libvirt has set the one that a container was promised. libvirt's LXC
// driver calls a container's end vnetN until it is in the container; those of virtual
// machines are called the same, and have another driver.
const link = `# lxcboot: containers have the hardware addresses that libvirt sets.
[Match]
OriginalName=vnet*
Driver=veth

[Link]
MACAddressPolicy=none
`

// sysctl is what this host's kernel is to allow. It counts what all containers watch as the
// host's root's, and its default of 128 is used up by a dozen with systemd, some of whose
// units fail then.
const sysctl = `# lxcboot: for many containers with systemd.
fs.inotify.max_user_instances = 65536
`

// drop is of the unit of lxcfs. What a container has of an lxcfs fails once that has ended.
const drop = `# lxcboot: running containers get the files of an lxcfs that was restarted.
[Service]
ExecStartPost=-%[1]s views --started
ExecStopPost=-%[1]s views
`

// unitText is a text for systemd, which runs this program.
func unitText(format string, words []string) string {
	return fmt.Sprintf(format, strings.ReplaceAll(quoted(words), "%", "%%"))
}

func (a *App) newSetupCmd() *cobra.Command {
	var remove bool
	c := &cobra.Command{
		Use: "setup", Short: "Install libvirt's hook, the systemd units, and what udev, lxcfs and the kernel are to know", Args: cobra.NoArgs,
		Long: `Install libvirt's hook, with which a reboot from inside a container, virsh start and
libvirt's autostart find the container's root again; the systemd unit, with which
a host that comes up starts what was running; a timer, switched on as Debian's
fstrim.timer is, which weekly gives back what the volumes of running containers do not
use; a link file, with which udev leaves
the hardware addresses of containers alone; an addition to the unit of lxcfs, with
which running containers outlive its restart; and a limit of the kernel's, which lets many
containers with systemd run. --remove takes all of them away again.
libvirtd notices a new hook when it restarts; running containers go on meanwhile.`,
		RunE: func(*cobra.Command, []string) error {
			if err := needRoot(); err != nil {
				return err
			}
			if remove {
				for _, path := range []string{hookPath, unitPath, wantedPath, weekPath, trimPath, linkPath, dropPath, ctlPath} {
					if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
						return err
					}
				}
				_ = os.Remove(filepath.Dir(dropPath)) // unless it has others' additions
				_ = os.Remove(filepath.Dir(wantedPath))
				a.say("removed %s, %s, %s, %s, %s, %s and %s", hookPath, unitPath, weekPath, trimPath, linkPath, dropPath, ctlPath)
				return nil
			}
			words, err := a.unattended()
			if err != nil {
				return err
			}
			for _, w := range words {
				if strings.ContainsAny(w, "'\"\\$\n") {
					return failure.Invalid("%q cannot be written into the hook and the unit: it has a quote, a $, a \\ or a newline in it", w)
				}
			}
			if err := install(hookPath, hookScript(words), 0o755); err != nil {
				return err
			}
			a.say("installed %s: restart libvirtd for it to be noticed", hookPath)
			if err := install(unitPath, unitText(unit, words), 0o644); err != nil {
				return err
			}
			a.say("installed %s: switch it on with systemctl enable --now lxcboot.service", unitPath)
			if err := installTimer(words); err != nil {
				return err
			}
			a.say("installed %s: it begins with systemctl daemon-reload and systemctl start lxcboot-trim.timer, or the next start of the host", weekPath)
			if err := install(linkPath, link, 0o644); err != nil {
				return err
			}
			a.say("installed %s", linkPath)
			if err := install(dropPath, unitText(drop, words), 0o644); err != nil {
				return err
			}
			a.say("installed %s: systemctl daemon-reload", dropPath)
			if err := install(ctlPath, sysctl, 0o644); err != nil {
				return err
			}
			a.say("installed %s: sysctl --system", ctlPath)
			return nil
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "take them away again")
	return c
}

// quoted are words as a shell and systemd both read them.
func quoted(words []string) string { return "'" + strings.Join(words, "' '") + "'" }

// hookScript is what libvirt calls; it only hands over to this program. AppArmor's profile
// of libvirtd lets the hook execute nothing below /usr/local, but env, unconfined.
func hookScript(words []string) string {
	return "#!/bin/sh\n# lxcboot: gives a container its root where libvirt starts it by itself.\nexec /usr/bin/env " + quoted(words) + " hook \"$@\"\n"
}

func install(path, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(path, []byte(text), mode)
}
