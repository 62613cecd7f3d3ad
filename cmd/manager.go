package cmd

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/volume/local"
)

// undoContext is a context for undoing, which an interrupt does not end.
func (a *App) undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), a.settings.Timeout)
}

// records opens the records of the instances, by the same rule for the state directory.
func (a *App) records() (*instance.Store, error) {
	if err := local.MakeDir(a.settings.StateDir); err != nil {
		return nil, err
	}
	return instance.OpenStore(a.settings.StateDir, a.settings.RunDir)
}

// dialDomains begins to connect to libvirt, once.
func (a *App) dialDomains(ctx context.Context) *lxc.Host {
	if a.domains == nil {
		a.domains = lxc.Dial(ctx, a.settings.Connect)
	}
	return a.domains
}

// openDomains connects to libvirt, once.
func (a *App) openDomains(ctx context.Context) (*lxc.Host, error) {
	d := a.dialDomains(ctx)
	return d, d.Ready(ctx)
}

// manager is the Manager of the instances. It needs root.
func (a *App) manager(ctx context.Context) (*instance.Manager, error) {
	m, err := a.dialingManager(ctx)
	if err == nil {
		_, err = a.openDomains(ctx)
	}
	return m, err
}

// dialingManager is manager that does not wait for libvirt: for what asks libvirt
// before it changes anything, and has other things to look at first.
func (a *App) dialingManager(ctx context.Context) (*instance.Manager, error) {
	if err := needRoot(); err != nil {
		return nil, err
	}
	domains := a.dialDomains(ctx)
	store, err := a.openStore(ctx)
	if err != nil {
		return nil, err
	}
	m, err := a.offlineManager()
	if err != nil {
		return nil, err
	}
	m.Volumes, m.Domains = store, domains
	return m, nil
}

// offlineManager is a Manager that knows neither volumes nor libvirt.
func (a *App) offlineManager() (*instance.Manager, error) {
	records, err := a.records()
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	itself, err := a.itself()
	if err != nil {
		return nil, err
	}
	return &instance.Manager{
		Store: records, Devices: a.connectors(), Roots: instance.HostRoots{}, Loops: instance.HostLoops{},
		Consoles: instance.HostConsoles{Store: records, Keeper: keeper(itself[0]), Ended: append(itself, "ended"), LogBytes: a.settings.LogBytes},
		Host:     host, IDBase: a.settings.IDBase, MaxLocal: a.settings.MaxLocal,
		UndoTimeout: a.settings.Timeout, StopTimeout: a.settings.StopTime, Stopping: hostStopping,
	}, nil
}

// itself is this program as others are to start it.
func (a *App) itself() ([]string, error) {
	exe, err := os.Executable()
	return []string{exe, "--state-dir", a.settings.StateDir, "--run-dir", a.settings.RunDir, "--connect", a.settings.Connect}, err
}

// keeper is the program that keeps a console: the small one beside this one, which is
// up in a moment and takes little memory, or this one where that is not installed. What
// another user could have put there is not run.
func keeper(exe string) []string {
	small := filepath.Join(filepath.Dir(exe), "lxcboot-console")
	var st unix.Stat_t
	if unix.Lstat(small, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o022 == 0 &&
		int(st.Uid) == os.Geteuid() && unix.Access(small, unix.X_OK) == nil {
		return []string{small}
	}
	return []string{exe, "console-serve"}
}

// hostStopping asks systemd, where there is one, whether the host is going down.
func hostStopping(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output()
	return strings.TrimSpace(string(out)) == "stopping"
}
