package cmd

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/onhost"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume/local"
)

// undoContext is a context for undoing, which an interrupt does not end.
func (a *App) undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), a.settings.Timeout)
}

// records opens the records of the instances, by the same rule for the state directory.
func (a *App) records() (*state.Store, error) {
	if err := a.stateThere(); err != nil {
		return nil, err
	}
	if err := local.MakeDir(a.settings.StateDir); err != nil {
		return nil, err
	}
	s, err := state.Open(a.settings.StateDir, a.settings.RunDir)
	if err == nil {
		s.Registry = state.DefaultRegistry
	}
	return s, err
}

// ids are where containers' host ids come from.
func (a *App) ids() (host.IDPool, error) {
	if a.settings.IDBase != 0 {
		return host.IDsFrom(a.settings.IDBase), nil
	}
	return host.IDs()
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

// manager is the Manager of the instances. It needs root, and knows no volumes: what
// only looks at instances or ends them is not to wait for a cloud, or fail with it.
func (a *App) manager(ctx context.Context) (*instance.Manager, error) {
	if err := needRoot(); err != nil {
		return nil, err
	}
	domains := a.dialDomains(ctx)
	m, err := a.offlineManager()
	if errors.Is(err, errNoState) {
		return nil, cmp.Or(domains.Ready(ctx), err)
	}
	if err != nil {
		return nil, err
	}
	m.Domains = domains
	return m, domains.Ready(ctx)
}

// storeManager is manager with the volume store.
func (a *App) storeManager(ctx context.Context) (*instance.Manager, error) {
	m, err := a.dialingManager(ctx)
	if err == nil {
		_, err = a.openDomains(ctx)
	}
	return m, err
}

// dialingManager is storeManager that does not wait for libvirt: for what asks libvirt
// before it changes anything, and has other things to look at first.
func (a *App) dialingManager(ctx context.Context) (*instance.Manager, error) {
	if err := needRoot(); err != nil {
		return nil, err
	}
	domains := a.dialDomains(ctx)
	m, err := a.offlineManager() // makes the state directory, where tokens of the cloud are kept
	if err != nil {
		return nil, err
	}
	store, err := a.openStore(ctx)
	if err != nil {
		return nil, err
	}
	m.Volumes, m.Domains = store, domains
	return m, nil
}

// offlineManager is a Manager that knows neither volumes nor libvirt.
func (a *App) offlineManager() (*instance.Manager, error) {
	here, err := a.here()
	if err != nil {
		return nil, err
	}
	records, err := a.records()
	if err != nil {
		return nil, err
	}
	itself, err := a.itself()
	if err != nil {
		return nil, err
	}
	records.Wait = a.settings.Timeout
	return &instance.Manager{
		Store: records, Devices: a.connectors(), Roots: onhost.Roots{DirectIO: a.settings.DirectIO == "on"}, Loops: onhost.Loops{DirectIO: a.settings.DirectIO == "on"},
		Kernel:   onhost.Kernel{Init: func() (string, error) { return host.Program("lxcboot-init") }, LXCFS: a.settings.LXCFS, Warn: a.warnOf},
		Consoles: onhost.Consoles{Store: records, Keeper: func() (string, error) { return host.Program("lxcboot-console") }, Ended: append(itself, a.endedWords()...), LogBytes: a.settings.LogBytes, Warn: a.warnOf},
		Host:     here, Machine: host.Machine(), Warn: a.warn, IDs: a.ids, MaxLocal: a.settings.MaxLocal,
		UndoTimeout: a.settings.Timeout, StopTimeout: a.settings.StopTime, Stopping: hostStopping,
	}, nil
}

// here is this host, as it is set to be.
func (a *App) here() (host.Host, error) { return host.Here(a.settings.HostID, a.settings.HostName) }

// itself is this program as others are to start it.
func (a *App) itself() ([]string, error) {
	exe, err := os.Executable()
	words := []string{exe, "--state-dir", a.settings.StateDir, "--run-dir", a.settings.RunDir, "--connect", a.settings.Connect}
	if a.settings.HostID != "" {
		words = append(words, "--host-id", a.settings.HostID)
	}
	return words, err
}

// hostStopping asks systemd, where there is one, whether the host is going down.
func hostStopping(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output()
	return strings.TrimSpace(string(out)) == "stopping"
}
