package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/doctor"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/volume/local"
)

const (
	hookPath = "/etc/libvirt/hooks/lxc.d/lxcboot"
	unitPath = "/etc/systemd/system/lxcboot.service"
)

// newHookCmd is what libvirt's hook runs: NAME prepare|start|started|stopped|release
// begin|end -, with the domain's XML on stdin.
func (a *App) newHookCmd() *cobra.Command {
	return &cobra.Command{
		Use: "hook NAME MOMENT SUB EXTRA", Hidden: true, Args: cobra.RangeArgs(2, 4),
		RunE: func(c *cobra.Command, args []string) error {
			switch args[1] {
			case instance.HookPrepare, instance.HookStarted, instance.HookRelease:
			default:
				return nil
			}
			text, err := io.ReadAll(io.LimitReader(a.In, 4<<20))
			if err != nil {
				return err
			}
			domain, err := lxc.ParseDomain(string(text))
			if err != nil {
				return fmt.Errorf("cannot read the domain that libvirt gave: %w", err)
			}
			m, err := a.offlineManager()
			if err != nil {
				return err
			}
			if rec, err := m.Store.Find(domain.ID); err != nil || m.Store.Held(rec.ID) {
				return nil // not ours, or in the hands of a command of ours
			}
			if m.Volumes, err = a.openStore(c.Context()); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), a.settings.Timeout)
			defer cancel()
			return m.Hook(ctx, domain.ID, args[1], domain.Controller)
		},
	}
}

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
# The processes that keep the consoles are started here, and outlive it.
KillMode=process
ExecStart=%s autostart
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
`

func (a *App) newSetupCmd() *cobra.Command {
	var remove bool
	c := &cobra.Command{
		Use: "setup", Short: "Install libvirt's hook and the systemd unit", Args: cobra.NoArgs,
		Long: `Install libvirt's hook, with which a reboot from inside a container, virsh start and
libvirt's autostart find the container's root again, and the systemd unit, with which
a host that comes up starts what was running. --remove takes both away again.
libvirtd notices a new hook when it restarts; running containers go on meanwhile.`,
		RunE: func(*cobra.Command, []string) error {
			if err := needRoot(); err != nil {
				return err
			}
			if remove {
				for _, path := range []string{hookPath, unitPath} {
					if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
						return err
					}
				}
				a.say("removed %s and %s", hookPath, unitPath)
				return nil
			}
			words, err := a.unattended()
			if err != nil {
				return err
			}
			for _, w := range words {
				if strings.ContainsAny(w, "'\"\\$\n") {
					return usagef("%q cannot be written into the hook and the unit: it has a quote, a $, a \\ or a newline in it", w)
				}
			}
			if err := install(hookPath, hookScript(words), 0o755); err != nil {
				return err
			}
			a.say("installed %s: restart libvirtd for it to be noticed", hookPath)
			if err := install(unitPath, fmt.Sprintf(unit, strings.ReplaceAll(quoted(words), "%", "%%")), 0o644); err != nil {
				return err
			}
			a.say("installed %s: switch it on with systemctl enable lxcboot.service", unitPath)
			return nil
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "take both away again")
	return c
}

// quoted are words as a shell and systemd both read them.
func quoted(words []string) string { return "'" + strings.Join(words, "' '") + "'" }

// hookScript is what libvirt calls; it only hands over to this program.
func hookScript(words []string) string {
	return "#!/bin/sh\n# lxcboot: gives a container its root where libvirt starts it by itself.\nexec " + quoted(words) + " hook \"$@\"\n"
}

func install(path, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(path, []byte(text), mode)
}

func (a *App) newAutostartCmd() *cobra.Command {
	return &cobra.Command{
		Use: "autostart", Short: "Start the instances that were running when the host went down", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.manager(c.Context())
			if err != nil {
				return err
			}
			started, err := m.Autostart(c.Context())
			for _, name := range started {
				a.say("started %s", name)
			}
			return err
		},
	}
}

func (a *App) newRepairCmd() *cobra.Command {
	return &cobra.Command{
		Use: "repair", Short: "Finish everything that was interrupted", Args: cobra.NoArgs,
		Long: `Finish everything that was interrupted: boots and deletes that were cut short are
undone, starts and stops are ended, and what ended containers left on the host is
released. It prints what it did.`,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.manager(c.Context())
			if err != nil {
				return err
			}
			did, err := m.Repair(c.Context())
			if s, ok := m.Volumes.(interface {
				Repair(context.Context) ([]string, error)
			}); ok {
				more, e := s.Repair(c.Context())
				did, err = append(did, more...), errors.Join(err, e)
			}
			for _, d := range did {
				fmt.Fprintln(a.Out, sanitize(d, false))
			}
			return err
		},
	}
}

func (a *App) newDoctorCmd() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Look at what a boot needs of this host", Args: cobra.NoArgs,
		Long: "Look at each thing that a boot needs of this host, and say how to mend what is missing. The exit code is 6 when a boot could not work.",
		RunE: func(c *cobra.Command, _ []string) error {
			checks := append(doctor.Host(a.settings.StateDir, checkState),
				doctor.Check{Name: "libvirt", Run: a.checkLibvirt}, doctor.Check{Name: "libvirt hook", Run: a.checkHook},
				doctor.Check{Name: "console", Run: checkKeeper}, doctor.Check{Name: "volume store", Run: a.checkStore})
			for _, s := range a.connectors().Supported() {
				checks = append(checks, doctor.Check{Name: "transport " + s.Driver + " " + s.Transport, Run: func(context.Context) (string, error) {
					if s.Missing != "" {
						return "", &doctor.Problem{Status: doctor.Warning, Detail: fmt.Sprint(s.Missing), Mend: "see docs/transports.md, if volumes of this kind are used"}
					}
					return "ready", nil
				}})
			}
			results, fit := doctor.Run(c.Context(), checks)
			l := listing{columns: []string{"Check", "Status", "Detail", "Mend"}}
			for _, r := range results {
				l.rows = append(l.rows, []any{r.Check, r.Status, r.Detail, r.Mend})
			}
			if err := a.printList(l); err != nil {
				return err
			}
			if !fit {
				return exitError(exitUnfit)
			}
			return nil
		},
	}
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
	words, err := a.unattended()
	if err != nil {
		return "", err
	}
	switch data, err := os.ReadFile(hookPath); {
	case err != nil:
		return "", &doctor.Problem{Status: doctor.Warning, Detail: "not installed: a reboot from inside a container and virsh start do not find its root", Mend: "lxcboot setup"}
	case string(data) != hookScript(words):
		return "", &doctor.Problem{Status: doctor.Warning, Detail: hookPath + " is of another lxcboot or state directory", Mend: "lxcboot setup"}
	}
	return hookPath, nil
}

func checkKeeper(context.Context) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	program := keeper(exe)
	if program[0] == exe {
		return "", &doctor.Problem{Status: doctor.Warning, Detail: "lxcboot keeps each running container's console itself, which takes more memory", Mend: "install lxcboot-console beside " + exe + ", as the same user, writable by that one alone"}
	}
	return program[0], nil
}

func (a *App) checkStore(ctx context.Context) (string, error) {
	backend, why := a.choose()
	if backend == "local" { // the state directory is all that it needs, and opening it would make it
		return fmt.Sprintf("%s: %s", backend, why), nil
	}
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
