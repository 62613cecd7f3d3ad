package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/doctor"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/volume/connector"
	"github.com/lxcboot/lxcboot/pkg/volume/local"
	"github.com/lxcboot/lxcboot/pkg/volume/lvm"
)

func (a *App) newDoctorCmd() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Look at what a boot needs of this host", Args: cobra.NoArgs,
		Long: "Look at each thing that a boot needs of this host, and say how to mend what is missing. The exit code is 6 when a boot could not work.",
		RunE: func(c *cobra.Command, _ []string) error {
			checks := append(doctor.Host(a.settings.StateDir, checkState), doctor.HostID(a.settings.HostID, host.MachineID()),
				doctor.Check{Name: "libvirt", Run: a.checkLibvirt}, doctor.Check{Name: "network", Run: a.checkNetwork}, doctor.Check{Name: "libvirt hook", Run: a.checkHook}, doctor.Check{Name: "udev", Run: a.checkLink}, doctor.Check{Name: "lxcfs", Run: a.checkLXCFS}, doctor.Check{Name: "host ids", Run: a.checkIDs},
				doctor.Check{Name: "init", Run: checkBeside("lxcboot-init", doctor.Failed)}, doctor.Check{Name: "console", Run: checkBeside("lxcboot-console", doctor.Failed)}, doctor.Check{Name: "copy", Run: checkBeside("lxcboot-copy", doctor.Warning)}, doctor.Check{Name: "volume store", Run: a.checkStore})
			for _, s := range a.connectors().Supported() {
				checks = append(checks, doctor.Check{Name: "transport " + s.Driver + " " + s.Transport, Run: func(context.Context) (string, error) {
					if s.Missing != "" {
						return "", &doctor.Problem{Status: doctor.Warning, Detail: fmt.Sprint(s.Missing), Mend: "see " + docs("transports.md") + ", if volumes of this kind are used"}
					}
					return "ready", nil
				}})
			}
			return a.printChecks(c.Context(), checks, false)
		},
	}
}

// printChecks runs checks and prints what they find. It fails where a boot could not work,
// or, if it is strict, where anything is not well.
func (a *App) printChecks(ctx context.Context, checks []doctor.Check, strict bool) error {
	results, fit := doctor.Run(ctx, checks)
	l := listing{Columns: []string{"Check", "Status", "Detail", "Mend"}}
	for _, r := range results {
		l.Rows = append(l.Rows, []any{r.Check, r.Status, r.Detail, r.Mend})
		fit = fit && (r.Status == doctor.OK || !strict)
	}
	if err := a.print.List(l); err != nil {
		return err
	}
	if !fit {
		return exitError(exitUnfit)
	}
	return nil
}

// checkState is the store's own rule, as doctor tells it.
func checkState(dir string) error {
	err := local.Check(dir)
	if e, ok := errors.AsType[*local.DirError](err); ok {
		return &doctor.Problem{Status: doctor.Failed, Detail: e.Dir + " " + e.Reason, Mend: e.Mend()}
	}
	return err
}

func (a *App) checkLibvirt(ctx context.Context) (string, error) {
	_, err := a.openDomains(ctx)
	switch {
	case errors.Is(err, lxc.ErrNoDriver):
		return "", &doctor.Problem{Status: doctor.Failed, Detail: err.Error(), Mend: "apt-get install libvirt-daemon-driver-lxc, and restart libvirtd"}
	case err != nil:
		return "", &doctor.Problem{Status: doctor.Failed, Detail: err.Error(), Mend: "systemctl start libvirtd, or libvirtd -d without systemd"}
	}
	return a.settings.Connect + " answers", nil
}

func (a *App) checkHook(context.Context) (string, error) {
	return a.checkPart(hookPart, "a reboot from inside a container and virsh start do not find its root")
}

// checkLink looks whether udev leaves the hardware addresses of containers alone.
func (a *App) checkLink(context.Context) (string, error) {
	if _, err := os.Stat("/run/udev/control"); err != nil {
		return "does not run", nil
	}
	return a.checkPart(linkPart, "udev may change the hardware address of a container while libvirt starts it, which is set right only once it runs")
}

// checkPart looks whether a part that setup installs is there, and says what comes of it if not.
func (a *App) checkPart(name, without string) (string, error) {
	p, err := a.part(name)
	if err != nil {
		return "", &doctor.Problem{Status: doctor.Warning, Detail: err.Error(), Mend: "give it another name"}
	}
	path, err := p.inPlace()
	if problem, ok := errors.AsType[*doctor.Problem](err); ok {
		problem.Detail += ": " + without
	}
	return path, err
}

// checkIDs looks where containers' host ids come from.
func (a *App) checkIDs(context.Context) (string, error) {
	pool, err := a.ids()
	if err != nil {
		return "", &doctor.Problem{Status: doctor.Failed, Detail: err.Error(), Mend: "mend these files, or use --privileged"}
	}
	return pool.From, nil
}

// checkLXCFS looks whether containers see what is theirs, also after lxcfs was restarted.
func (a *App) checkLXCFS(context.Context) (string, error) {
	runs, err := lxc.LXCFSRuns(a.settings.LXCFS)
	switch {
	case err != nil:
		return "", &doctor.Problem{Status: doctor.Warning, Detail: err.Error(), Mend: "restart lxcfs, then lxcboot repair"}
	case !runs:
		return "", &doctor.Problem{Status: doctor.Warning, Detail: "does not run at " + a.settings.LXCFS + ": containers see the memory, CPUs, load and uptime of the host", Mend: "apt-get install lxcfs, and start it"}
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		if _, err := a.checkPart(lxcfsPart, "after a restart of lxcfs containers cannot read /proc/meminfo until lxcboot repair"); err != nil {
			return "", err
		}
	}
	return a.settings.LXCFS, nil
}

// checkBeside looks for a program that has to be installed beside this one.
func checkBeside(name string, missing string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		path, err := host.Program(name)
		if err != nil {
			return "", &doctor.Problem{Status: missing, Detail: err.Error(), Mend: "install " + name + " there, as this user, writable by that one alone (make install does)"}
		}
		return path, nil
	}
}

// checkPool looks at the thin pool that volumes are made in.
func checkPool(ctx context.Context, name string) (string, error) {
	used, err := lvm.Named(name, connector.Run).Usage(ctx)
	if err != nil {
		return "", &doctor.Problem{Status: doctor.Failed, Detail: err.Error(), Mend: "mend the settings volume-group and thin-pool"}
	}
	detail := fmt.Sprintf("local: %.0f %% of the data and %.0f %% of the metadata of the thin pool %s are in use", used.Data, used.Metadata, name)
	if max(used.Data, used.Metadata) > lvm.FullAt {
		return "", &doctor.Problem{Status: doctor.Warning, Detail: detail + ": nothing is made in it", Mend: "delete volumes, or make it larger with lvextend"}
	}
	return detail, nil
}

func (a *App) checkStore(ctx context.Context) (string, error) {
	backend, why := a.choose()
	if backend == "local" { // the state directory is all that it needs, and opening it would make it
		if pool := a.settings.thinPool(); pool != "" {
			return checkPool(ctx, pool)
		}
		return fmt.Sprintf("%s: %s", backend, why), nil
	}
	a.settings.NoTokens = true // whether signing in works is looked at, too
	s, err := a.openStore(ctx)
	if err == nil {
		if p, ok := s.(interface{ Ping(context.Context) error }); ok {
			err = p.Ping(ctx)
		}
	}
	if err != nil {
		return "", &doctor.Problem{Status: doctor.Failed, Detail: fmt.Sprintf("%s (%s): %v", backend, why, err), Mend: "mend the settings, or use --backend local"}
	}
	if d, ok := s.(interface{ Describe() string }); ok {
		why += "; " + d.Describe()
	}
	return fmt.Sprintf("%s: %s", backend, why), nil
}
