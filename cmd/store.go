package cmd

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/flavor"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/connector"
	"github.com/lxcboot/lxcboot/pkg/volume/local"
	"github.com/lxcboot/lxcboot/pkg/volume/openstack"
)

// Store is what the commands need of a volume store: what the Manager needs, and
// what images, volumes and snapshots are managed with.
type Store interface {
	instance.Volumes
	ImportImage(ctx context.Context, req volume.ImportImage) (volume.Image, error)
	DeleteImage(ctx context.Context, id string) error
	Volumes(ctx context.Context) ([]volume.Volume, error)
	ExtendVolume(ctx context.Context, id string, sizeGiB int) (volume.Volume, error)
	UpdateVolume(ctx context.Context, id string, req volume.UpdateVolume) (volume.Volume, error)
	Snapshots(ctx context.Context) ([]volume.Snapshot, error)
	CreateSnapshot(ctx context.Context, name, volumeID string) (volume.Snapshot, error)
	DeleteSnapshot(ctx context.Context, id string) error
}

// choose says which store is used, and why.
func (a *App) choose() (backend, why string) {
	switch cloud := openstack.Configured(); {
	case a.settings.Backend != "auto":
		return a.settings.Backend, "the backend is set to it"
	case a.settings.Cloud != "":
		return "openstack", "the cloud " + a.settings.Cloud + " is set"
	case cloud != "":
		return "openstack", cloud + " is set"
	}
	return "local", "no cloud is configured"
}

// connectors makes connections into paths on this host.
func (a *App) connectors() *connector.Host {
	return connector.New(connector.Options{StateDir: a.settings.StateDir, Transport: a.settings.Transport, Timeout: a.settings.Timeout})
}

// openStore opens the volume store, once.
func (a *App) openStore(ctx context.Context) (Store, error) {
	if a.store != nil {
		return a.store, nil
	}
	here, err := host.Here("", "")
	if err != nil {
		return nil, err
	}
	if backend, _ := a.choose(); backend == "local" {
		s, err := local.Open(a.settings.StateDir, local.Options{Host: here, Wait: a.settings.Timeout})
		if err != nil {
			return nil, err
		}
		a.closers = append(a.closers, func() { _ = s.Close() })
		a.store = s
		return s, nil
	}
	s, err := openstack.Open(ctx, openstack.Options{
		Cloud: a.settings.Cloud, ServiceCloud: a.settings.Service, Timeout: a.settings.Timeout,
		Connector: a.connectors().Properties, Inspect: local.Inspect, Host: here,
	})
	if err != nil {
		return nil, err
	}
	a.store = s
	return s, nil
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

// flavors are the flavors there are.
func (a *App) flavors() (flavor.Flavors, error) { return flavor.New(a.settings.Flavors) }

// completer completes arguments with what a function lists. Completion never fails
// loudly: without names the shell offers none.
func (a *App) completer(list func(ctx context.Context) ([]string, error), many bool) cobra.CompletionFunc {
	return func(c *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(given) > 0 && !many || a.load(c) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer a.close()
		// Whoever typed it waits.
		ctx, cancel := context.WithTimeout(c.Context(), 5*time.Second)
		defer cancel()
		names, err := list(ctx)
		if err != nil && len(names) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// labels are what things are called: by their names, and by their ids where they have
// none or share it.
func labels[T any](all []T, face func(T) (name, id string)) []string {
	count := map[string]int{}
	for _, x := range all {
		name, _ := face(x)
		count[name]++
	}
	var names []string
	for _, x := range all {
		name, id := face(x)
		switch {
		case name == "":
			name = id
		case count[name] > 1:
			name = cobra.CompletionWithDesc(id, name)
		}
		names = append(names, name)
	}
	return names
}

func (a *App) imageNames(ctx context.Context) (names []string, err error) {
	s, err := a.openStore(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.Images(ctx)
	return labels(all, func(i volume.Image) (string, string) { return i.Name, i.ID }), err
}

func (a *App) volumeNames(ctx context.Context) (names []string, err error) {
	s, err := a.openStore(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.Volumes(ctx)
	return labels(all, func(v volume.Volume) (string, string) { return v.Name, v.ID }), err
}

func (a *App) snapshotNames(ctx context.Context) (names []string, err error) {
	s, err := a.openStore(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.Snapshots(ctx)
	return labels(all, func(s volume.Snapshot) (string, string) { return s.Name, s.ID }), err
}

func (a *App) flavorNames(context.Context) (names []string, err error) {
	all, err := a.flavors()
	for _, f := range all {
		names = append(names, f.Name)
	}
	return names, err
}

func (a *App) instanceNames(context.Context) (names []string, err error) {
	s, err := a.records()
	if err != nil {
		return nil, err
	}
	all, err := s.List()
	for _, r := range all {
		names = append(names, r.Name)
	}
	return names, err
}
