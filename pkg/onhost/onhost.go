// Package onhost is this host as the Manager of instances needs it: its filesystems, its
// loop devices, its kernel, and the processes that keep consoles.
package onhost

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/inroot"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/seed"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// Roots are the filesystems of this host.
type Roots struct {
	DirectIO bool // of the loop devices that they are mounted by
}

// Select is rootfs.Select.
func (Roots) Select(ctx context.Context, device string, s rootfs.Selection) (rootfs.Filesystem, error) {
	return rootfs.Select(ctx, device, s)
}

// Tree is rootfs.Tree.
func (Roots) Tree(ctx context.Context, device string, fs rootfs.Filesystem) (rootfs.Filesystem, error) {
	return rootfs.Tree(ctx, device, fs)
}

// Hint is rootfs.Hint.
func (Roots) Hint(ctx context.Context, device string, looked rootfs.Filesystem) string {
	return rootfs.Hint(ctx, device, looked)
}

// Check is rootfs.Check.
func (Roots) Check(ctx context.Context, device string, fs rootfs.Filesystem) error {
	return rootfs.Check(ctx, device, fs)
}

// Mount is rootfs.Mount.
func (r Roots) Mount(ctx context.Context, device string, fs rootfs.Filesystem, target string, o rootfs.MountOptions) error {
	o.DirectIO = r.DirectIO
	return rootfs.Mount(ctx, device, fs, target, o)
}

// Grow is rootfs.Grow.
func (Roots) Grow(ctx context.Context, device string, fs rootfs.Filesystem, begin func() error) (rootfs.Filesystem, error) {
	return rootfs.Grow(ctx, device, fs, begin)
}

// MendGrown is rootfs.MendGrown.
func (Roots) MendGrown(ctx context.Context, device string, fs rootfs.Filesystem) error {
	return rootfs.MendGrown(ctx, device, fs)
}

// GrowMounted is rootfs.GrowMounted.
func (Roots) GrowMounted(target string, fs rootfs.Filesystem) error {
	dir, err := os.Open(target)
	if err != nil {
		return err
	}
	defer dir.Close()
	return rootfs.GrowMounted(dir, fs)
}

// GrowRunning is rootfs.GrowRunning for a path in a container.
func (Roots) GrowRunning(device string, fs rootfs.Filesystem, init int, path string) error {
	dir, err := lxc.OpenDir(init, path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return rootfs.GrowRunning(device, fs, dir)
}

// OpenTop is rootfs.OpenTop.
func (Roots) OpenTop(carrier string, fs rootfs.Filesystem) (*os.File, error) {
	return rootfs.OpenTop(carrier, fs)
}

// Freeze is rootfs.Freeze.
func (Roots) Freeze(dir *os.File) error { return rootfs.Freeze(dir) }

// Thaw is rootfs.Thaw.
func (Roots) Thaw(dir *os.File) (bool, error) { return rootfs.Thaw(dir) }

// Trim is rootfs.Trim.
func (Roots) Trim(ctx context.Context, device string, fs rootfs.Filesystem, carrier string) (int64, error) {
	return rootfs.Trim(ctx, device, fs, carrier)
}

// MountMemory is rootfs.MountMemory.
func (Roots) MountMemory(target string, size int64) error { return rootfs.MountMemory(target, size) }

// Overlay is rootfs.Overlay.
func (Roots) Overlay(lower, upper, target string) error { return rootfs.Overlay(lower, upper, target) }

// Unmount is rootfs.Unmount.
func (Roots) Unmount(target string) error { return rootfs.Unmount(target) }

// Mounted says whether something is mounted at a path.
func (Roots) Mounted(target string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, target, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// CheckMountpoint is rootfs.CheckMountpoint.
func (Roots) CheckMountpoint(root, name string) error { return rootfs.CheckMountpoint(root, name) }

// FindInit is rootfs.FindInit.
func (Roots) FindInit(root, init string) (string, error) { return rootfs.FindInit(root, init) }

// Look is seed.Look.
func (Roots) Look(root string) (seed.Root, error) {
	dir, err := inroot.Dir(root)
	if err != nil {
		return seed.Root{}, err
	}
	defer dir.Close()
	return seed.Look(inroot.FS(dir)), nil
}

// Format is rootfs.Format.
func (Roots) Format(ctx context.Context, device, fstype string) error {
	return rootfs.Format(ctx, device, fstype)
}

// WriteFile is rootfs.WriteFile.
func (Roots) WriteFile(root string, f rootfs.File, ids *rootfs.IDMap) error {
	return rootfs.WriteFile(root, f, ids)
}

// Loops are the loop devices of this host.
type Loops struct {
	DirectIO bool
}

// Attach is loop.Attach.
func (l Loops) Attach(ctx context.Context, path string, o loop.Options) (loop.Device, *os.File, error) {
	o.DirectIO = l.DirectIO
	return loop.Attach(ctx, path, o)
}

// Keep is loop.Keep.
func (Loops) Keep(f *os.File) error { return loop.Keep(f) }

// Resize is loop.Resize of a whole file.
func (Loops) Resize(path string) error {
	_, err := loop.Resize(path, 0, 0)
	return err
}

// Detach is loop.Detach.
func (Loops) Detach(dev loop.Device) error { return loop.Detach(dev) }

// Keep is rootfs.Keep.
func (Roots) Keep(root, path, into string, ids *rootfs.IDMap) error {
	return rootfs.Keep(root, path, into, ids)
}

// Restore is rootfs.Restore.
func (Roots) Restore(root, from string) error { return rootfs.Restore(root, from) }

// Forget is rootfs.Forget.
func (Roots) Forget(from string) error { return rootfs.Forget(from) }

// Kernel looks at this host's containers, and readies what runs first in them.
type Kernel struct {
	Init  func() (string, error) // the path of lxcboot-init
	LXCFS string                 // where lxcfs is mounted, if it runs
	Warn  func(error)            // told of an lxcfs that does not answer; nil: nobody is
}

// Ready looks for lxcboot-init.
func (k Kernel) Ready() error {
	_, err := k.Init()
	return err
}

// Look is lxc.Look.
func (Kernel) Look(name string) (lxc.Live, error) { return lxc.Look(name) }

// WaitStart is lxc.WaitStart.
func (Kernel) WaitStart(controller int) { lxc.WaitStart(controller) }

// CheckInit is lxc.CheckInit.
func (Kernel) CheckInit(root, init string) error { return lxc.CheckInit(root, init) }

// Launch is lxc.Launch's Mount, with this host's lxcboot-init.
func (k Kernel) Launch(dir string, l lxc.Launch) (err error) {
	if l.Program, err = k.Init(); err != nil {
		return err
	}
	return l.Mount(dir)
}

// Unlaunch is lxc.UnmountLaunch.
func (Kernel) Unlaunch(dir string) error { return lxc.UnmountLaunch(dir) }

// MakeGroups is cgroup.Make.
func (Kernel) MakeGroups(ctx context.Context, id string, ids *lxc.IDMap, l cgroup.Limits) (string, error) {
	owner := 0
	if ids != nil {
		owner = int(ids.HostID)
	}
	return cgroup.Make(ctx, id, owner, l)
}

// RemoveGroups is cgroup.Remove.
func (Kernel) RemoveGroups(ctx context.Context, id string) error { return cgroup.Remove(ctx, id) }

// Hold is lxc.HoldInit.
func (Kernel) Hold(dir string) (instance.Gate, error) { return lxc.HoldInit(dir) }

// Release is lxc.ReleaseInit.
func (Kernel) Release(ctx context.Context, dir string) error { return lxc.ReleaseInit(ctx, dir) }

// Finish is cgroup.Confine, lxc.SetHardwareAddresses and lxc.ShowViews, without which a
// container works.
func (k Kernel) Finish(id string, init int, nics []lxc.Interface) error {
	_, err := k.ShowViews(init)
	if err != nil && !errors.Is(err, lxc.ErrNotRunning) && k.Warn != nil {
		k.Warn(err)
	}
	return errors.Join(cgroup.Confine(id, init), lxc.SetHardwareAddresses(id, init, nics))
}

// ShowViews is lxc.ShowViews.
func (k Kernel) ShowViews(init int) (bool, error) { return lxc.ShowViews(init, k.LXCFS) }

// Interfaces is lxc.LiveInterfaces.
func (Kernel) Interfaces(id string, init int, asked []lxc.Interface) ([]lxc.Interface, error) {
	return lxc.LiveInterfaces(id, init, asked)
}

// Consoles start the processes that keep the consoles of instances.
type Consoles struct {
	Store    *state.Store
	Keeper   func() (string, error) // the path of lxcboot-console
	Ended    []string               // run with the instance's id when its container has ended: calls Manager.Ended
	LogBytes int64                  // most of a console log, in bytes
	Warn     func(error)            // as in console.Options
}

// Ready looks for lxcboot-console.
func (c Consoles) Ready() error {
	_, err := c.Keeper()
	return err
}

// Open is console.Open. The console is worth more than how the init ends.
func (c Consoles) Open(container lxc.Live) (instance.Console, error) {
	t, err := console.Open(container.Controller)
	if err == nil {
		if err := t.HoldInit(container.Init); err != nil && c.Warn != nil {
			c.Warn(err)
		}
	}
	if errors.Is(err, console.ErrEnded) {
		err = nil
	}
	return keptConsole{c, t}, err
}

type keptConsole struct {
	Consoles
	*console.Terminal // nil: the container has ended
}

// Start is console.Start.
func (c keptConsole) Start(id string, claimed []*os.File) (proc.Process, error) {
	if c.Terminal == nil {
		return proc.Process{}, nil
	}
	keeper, err := c.Keeper()
	if err != nil {
		return proc.Process{}, err
	}
	return console.Start([]string{keeper}, c.Terminal, console.Options{
		LogPath: c.Store.LogPath(id), MaxBytes: c.LogBytes, SocketPath: c.Store.SocketPath(id),
		Devices: claimed, Claim: c.Store.ClaimPath(id), Warn: c.Warn, Ended: append(slices.Clone(c.Ended), id),
	})
}

// Close lets go of the console.
func (c keptConsole) Close() {
	if c.Terminal != nil {
		c.Terminal.Close()
	}
}

// lastWords is how long a console's process may take to write what the container said
// last, before it is ended.
const lastWords = 2 * time.Second

// Stop waits until the process that keeps a console has taken its socket away, as it does
// when the log is whole: what it does then waits for the instance's lock, which the
// caller has. One that does not is ended by console.Stop.
func (c Consoles) Stop(ctx context.Context, id string, p proc.Process) error {
	if self, err := proc.Of(os.Getpid()); err == nil && self == p {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	err := wait.Until(limited, time.Millisecond, 10*time.Millisecond, func() (bool, error) {
		_, err := os.Lstat(c.Store.SocketPath(id))
		return err != nil || !p.Alive(), nil
	})
	if err == nil {
		return nil
	}
	return console.Stop(ctx, p)
}

// Guard is console.Guard.
func (c Consoles) Guard(ctx context.Context, id string, p proc.Process, dir *os.File) (func(), error) {
	return console.Guard(ctx, c.Store.SocketPath(id), p, dir)
}

// Claim is console.Claim.
func (c Consoles) Claim(ctx context.Context, id string, p proc.Process, device string) error {
	return console.Claim(ctx, c.Store.SocketPath(id), p, device)
}

// Unclaim is console.Unclaim.
func (c Consoles) Unclaim(ctx context.Context, id string, p proc.Process, device string) error {
	return console.Unclaim(ctx, c.Store.SocketPath(id), p, device)
}

// Alive is proc.Process.Alive.
func (Consoles) Alive(p proc.Process) bool { return p.Alive() }
