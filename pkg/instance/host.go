package instance

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
)

// HostRoots are the filesystems of this host.
type HostRoots struct{}

// Probe is rootfs.Probe.
func (HostRoots) Probe(path string) (rootfs.Filesystem, error) { return rootfs.Probe(path) }

// Check is rootfs.Check.
func (HostRoots) Check(ctx context.Context, device string, fs rootfs.Filesystem) error {
	return rootfs.Check(ctx, device, fs)
}

// Mount is rootfs.Mount.
func (HostRoots) Mount(ctx context.Context, device string, fs rootfs.Filesystem, target string, o rootfs.MountOptions) error {
	return rootfs.Mount(ctx, device, fs, target, o)
}

// Unmount is rootfs.Unmount.
func (HostRoots) Unmount(target string) error { return rootfs.Unmount(target) }

// CheckMountpoint is rootfs.CheckMountpoint.
func (HostRoots) CheckMountpoint(root, name string) error { return rootfs.CheckMountpoint(root, name) }

// FindInit is rootfs.FindInit.
func (HostRoots) FindInit(root, init string) (string, error) { return rootfs.FindInit(root, init) }

// Format is rootfs.Format.
func (HostRoots) Format(ctx context.Context, device, fstype string) error {
	return rootfs.Format(ctx, device, fstype)
}

// WriteFile is rootfs.WriteFile.
func (HostRoots) WriteFile(root string, f rootfs.File, ids *rootfs.IDMap) error {
	return rootfs.WriteFile(root, f, ids)
}

// HostLoops are the loop devices of this host.
type HostLoops struct{}

// Attach is loop.Attach.
func (HostLoops) Attach(ctx context.Context, path string, o loop.Options) (loop.Device, *os.File, error) {
	return loop.Attach(ctx, path, o)
}

// Keep is loop.Keep.
func (HostLoops) Keep(f *os.File) error { return loop.Keep(f) }

// Detach is loop.Detach.
func (HostLoops) Detach(dev loop.Device) error { return loop.Detach(dev) }

// HostConsoles start the processes that keep the consoles of instances.
type HostConsoles struct {
	Store    *Store
	Keeper   []string // the program, for console.Start
	Ended    []string // run with the instance's id when its container has ended: calls Manager.Ended
	LogBytes int64    // most of a console log, in bytes
}

// Open is console.Open.
func (c HostConsoles) Open(controller int) (Console, error) {
	t, err := console.Open(controller)
	return hostConsole{c, t}, ignore(err, console.ErrEnded)
}

type hostConsole struct {
	HostConsoles
	*console.Terminal // nil: the container has ended
}

// Start is console.Start.
func (c hostConsole) Start(rec Record) (proc.Process, error) {
	if c.Terminal == nil {
		return proc.Process{}, nil
	}
	return console.Start(c.Keeper, c.Terminal, console.Options{
		LogPath: c.Store.LogPath(rec.ID), MaxBytes: c.LogBytes, SocketPath: c.Store.SocketPath(rec.ID),
		Ended: append(slices.Clone(c.Ended), rec.ID),
	})
}

// Close lets go of the console.
func (c hostConsole) Close() {
	if c.Terminal != nil {
		c.Terminal.Close()
	}
}

// Stop is console.Stop.
func (HostConsoles) Stop(ctx context.Context, p proc.Process) error { return console.Stop(ctx, p) }

// StateDir is the state directory that the records are below.
func (s *Store) StateDir() string { return filepath.Dir(s.dir) }
