package cmd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/doctor"
	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/failure"
)

const (
	unitDir  = "/etc/systemd/system"
	weekPath = unitDir + "/" + weekUnit
	bootUnit = "lxcboot.service"
	weekUnit = "lxcboot-trim.timer"
)

// wantedPath is the link that switches the timer on.
var wantedPath = filepath.Join(unitDir, "timers.target.wants", weekUnit)

func (a *App) newSetupCmd() *cobra.Command {
	var remove, check bool
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
libvirtd notices a new hook when it restarts; running containers go on meanwhile.

What Debian's package or make install has installed, for the same program with the same
settings, is left as it is, and --remove leaves it there. --check changes nothing, and says
of each whether it is there: the exit code is 6 where one is not.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if remove && check {
				return failure.Invalid("--remove and --check exclude each other")
			}
			parts, err := a.parts()
			if err != nil {
				return err
			}
			if check {
				return a.checkSetup(c.Context(), parts)
			}
			if err := needRoot(); err != nil {
				return err
			}
			if remove {
				return a.removeParts(parts)
			}
			return a.installParts(parts)
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "take them away again")
	c.Flags().BoolVar(&check, "check", false, "only say whether they are there")
	return c
}

// installParts installs what is not there. A timer that is new is switched on; one that was
// switched off stays so.
func (a *App) installParts(parts []part) error {
	for _, p := range parts {
		if p.shippedRight() {
			a.say("%s is there: %s", p.shipped, p.then)
			continue
		}
		if p.path == weekPath {
			if err := switchOn(); err != nil {
				return err
			}
		}
		if err := install(p.path, p.text, p.mode); err != nil {
			return err
		}
		a.say("installed %s: %s", p.path, p.then)
	}
	return nil
}

// switchOn makes the link that switches the timer on, unless there is a timer already.
func switchOn() error {
	if _, err := os.Lstat(weekPath); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(wantedPath), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(weekPath, wantedPath); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// removeParts takes away what setup installed. A hook that came with the units is left, as
// the package's, without settings of its own.
func (a *App) removeParts(parts []part) error {
	if to, err := os.Readlink(wantedPath); err == nil && to == weekPath {
		if err := os.Remove(wantedPath); err != nil {
			return err
		}
	}
	for _, p := range parts {
		if p.shipped == "" && a.packaged() {
			if err := a.restoreHook(p); err != nil {
				return err
			}
			continue
		}
		switch err := os.Remove(p.path); {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		}
		a.say("removed %s", p.path)
	}
	for _, dir := range []string{lxcfsDir, filepath.Dir(wantedPath)} {
		_ = os.Remove(dir) // unless it has others' additions
	}
	return nil
}

// checkSetup prints of each part whether it is there, and of the units whether they are
// switched on.
func (a *App) checkSetup(ctx context.Context, parts []part) error {
	var checks []doctor.Check
	for _, p := range parts {
		checks = append(checks, doctor.Check{Name: p.name, Run: func(context.Context) (string, error) { return p.inPlace() }})
	}
	for _, unit := range []string{bootUnit, weekUnit} {
		checks = append(checks, doctor.Check{Name: unit, Run: func(context.Context) (string, error) { return switchedOn(unit) }})
	}
	return a.printChecks(ctx, checks, true)
}

// switchedOn looks whether a unit starts with the host.
func switchedOn(unit string) (string, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return "this host has no systemd", nil
	}
	if links, _ := filepath.Glob(filepath.Join(unitDir, "*.wants", unit)); len(links) > 0 {
		return "switched on by " + links[0], nil
	}
	return "", &doctor.Problem{Status: doctor.Warning, Detail: "is not switched on", Mend: "systemctl enable --now " + unit}
}

func install(path, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(path, []byte(text), mode)
}
