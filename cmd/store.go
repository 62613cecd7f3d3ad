package cmd

import (
	"context"
	"os"
	"path/filepath"

	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
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
	CreateImage(ctx context.Context, req volume.CreateImage) (volume.Image, error)
	SaveImage(ctx context.Context, id string, to *os.File, progress func(done, total int64)) error
	UpdateImage(ctx context.Context, id string, req volume.UpdateImage) (volume.Image, error)
	DeleteImage(ctx context.Context, id string) error
	// PruneImages removes what is kept of images only to be quick, and gives those that had
	// something.
	PruneImages(ctx context.Context) ([]volume.Image, error)
	ExportVolume(ctx context.Context, req volume.ExportVolume) error
	Snapshots(ctx context.Context) ([]volume.Snapshot, error)
	CreateSnapshot(ctx context.Context, req volume.CreateSnapshot) (volume.Snapshot, error)
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
	return connector.New(connector.Options{StateDir: a.settings.StateDir, Transport: a.settings.Transport, Timeout: a.settings.Timeout, Warn: a.warnOf})
}

// tokenDir is where tokens are kept between commands; empty when they are not to be.
func (a *App) tokenDir() string {
	if a.settings.NoTokens {
		return ""
	}
	return filepath.Join(a.settings.StateDir, "tokens")
}

// filesystemOn is the UUID of the filesystem on a device; empty: there is none.
func filesystemOn(device string) string {
	found, _ := rootfs.Probe(device)
	return found.UUID
}

// openStore opens the volume store, once.
func (a *App) openStore(ctx context.Context) (Store, error) {
	if a.store != nil {
		return a.store, nil
	}
	here, err := a.here()
	if err != nil {
		return nil, err
	}
	if backend, _ := a.choose(); backend == "local" {
		if err := a.stateThere(); err != nil {
			return nil, err
		}
		s, err := local.Open(a.settings.StateDir, local.Options{
			Host: here, Wait: a.settings.Timeout, Content: filesystemOn, Pool: a.settings.thinPool(), Run: connector.Run,
			Progress: a.progress,
		})
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
		Warn: func(text string) { a.warn("%s", text) }, Waiting: func(text string) { a.say("%s", text) }, Log: a.log,
		TokenDir: a.tokenDir(),
	})
	if err != nil {
		return nil, err
	}
	a.store = s
	return s, nil
}
