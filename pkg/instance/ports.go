package instance

import (
	"context"
	"os"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/seed"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/connector"
)

// Volumes is what the Manager needs of a volume store.
type Volumes interface {
	// StoreID tells the store from others: an instance is for the store alone that
	// its volumes are in.
	StoreID() string
	// Remote says whether the volumes reach this host over a network, so that a volume
	// of an instance may be attached to a host that does not see these records.
	Remote() bool
	Images(ctx context.Context) ([]volume.Image, error)
	Image(ctx context.Context, ref string) (volume.Image, error)
	Volume(ctx context.Context, ref string) (volume.Volume, error)
	// Volumes lists them all; those that can be read also beside an error.
	Volumes(ctx context.Context) ([]volume.Volume, error)
	Snapshot(ctx context.Context, ref string) (volume.Snapshot, error)
	CheckCreate(ctx context.Context, reqs []volume.CreateVolume) error
	CreateVolume(ctx context.Context, req volume.CreateVolume) (volume.Volume, error)
	WaitVolume(ctx context.Context, id string) (volume.Volume, error)
	DeleteVolume(ctx context.Context, id string) error
	UpdateVolume(ctx context.Context, id string, req volume.UpdateVolume) (volume.Volume, error)
	// ExtendVolume makes a volume larger that nobody has, or that only the caller has,
	// by this attachment.
	ExtendVolume(ctx context.Context, id string, sizeGiB int, attachmentID string) (volume.Volume, error)
	VolumesOf(ctx context.Context, instanceID string) ([]volume.Volume, error)
	Reserve(ctx context.Context, volumeID string, by volume.Instance, readOnly bool) (string, error)
	AttachmentsOf(ctx context.Context, volumeID, instanceID string) ([]volume.Attachment, error)
	Connect(ctx context.Context, attachmentID string) (volume.Connection, error)
	Complete(ctx context.Context, attachmentID string) error
	Detach(ctx context.Context, attachmentID string) error
}

// Managing is what a store can besides whose volumes can be devices that the host has.
type Managing interface {
	// CheckManage gives the volume that ManageVolume would make, and changes nothing.
	CheckManage(ctx context.Context, req volume.ManageVolume) (volume.Volume, error)
	ManageVolume(ctx context.Context, req volume.ManageVolume) (volume.Volume, error)
	// UnmanageVolume lets go of one; its content stays.
	UnmanageVolume(ctx context.Context, id string) error
}

// Reaching is what a store can besides whose volumes reach hosts over a network.
type Reaching interface {
	// ConnectionOf says how the host that made an attachment reaches the volume; it has no
	// driver where that host was never told.
	ConnectionOf(ctx context.Context, attachmentID string) (volume.Connection, error)
}

// Devices makes a connection into a path on this host, and undoes it.
type Devices interface {
	Prepare(ctx context.Context, req connector.Request) (connector.Device, error)
	Connect(ctx context.Context, req connector.Request, dev connector.Device) (connector.Device, error)
	Disconnect(ctx context.Context, dev connector.Device) error
	// Fence keeps those who have a volume open now from writing to it, where its storage can
	// do that, and names them.
	Fence(ctx context.Context, req connector.Request) (clients []string, err error)
}

// Roots finds, mounts and releases filesystems on this host.
type Roots interface {
	// Select finds the filesystem of a device, and Hint names the others that might do. Tree
	// looks into one that is the root.
	Select(ctx context.Context, device string, s rootfs.Selection) (rootfs.Filesystem, error)
	Tree(ctx context.Context, device string, fs rootfs.Filesystem) (rootfs.Filesystem, error)
	Hint(ctx context.Context, device string, looked rootfs.Filesystem) string
	Check(ctx context.Context, device string, fs rootfs.Filesystem) error
	Mount(ctx context.Context, device string, fs rootfs.Filesystem, target string, o rootfs.MountOptions) error
	// Grow makes a filesystem as large as its device, as far as that is done before it is
	// mounted; once it has begun, a crash is mended by MendGrown. GrowMounted does the
	// rest, of what is mounted on the host, and GrowRunning all of it while a container has
	// it mounted at a path.
	Grow(ctx context.Context, device string, fs rootfs.Filesystem, begin func() error) (rootfs.Filesystem, error)
	MendGrown(ctx context.Context, device string, fs rootfs.Filesystem) error
	GrowMounted(target string, fs rootfs.Filesystem) error
	GrowRunning(device string, fs rootfs.Filesystem, init int, path string) error
	// OpenTop opens the top of a filesystem by the block device that it is mounted from, and
	// Freeze holds back who writes to it until Thaw, which says whether it was frozen still.
	OpenTop(carrier string, fs rootfs.Filesystem) (*os.File, error)
	Freeze(dir *os.File) error
	Thaw(dir *os.File) (frozen bool, err error)
	// Trim discards what a filesystem does not use; carrier is by what it is mounted, if it is.
	Trim(ctx context.Context, device string, fs rootfs.Filesystem, carrier string) (int64, error)
	MountMemory(target string, size int64) error
	Overlay(lower, upper, target string) error
	Unmount(target string) error
	Mounted(target string) bool
	CheckMountpoint(root, name string) error
	FindInit(root, init string) (string, error)
	Look(root string) (seed.Root, error)
	Format(ctx context.Context, device, fstype string) error
	WriteFile(root string, f rootfs.File, ids *rootfs.IDMap) error
	Keep(root, path, into string, ids *rootfs.IDMap) error
	Restore(root, from string) error
	Forget(from string) error
}

// Loops makes block devices of files. Attach's open file keeps an autoclear
// device alive; Keep takes the autoclear off.
type Loops interface {
	Attach(ctx context.Context, path string, o loop.Options) (loop.Device, *os.File, error)
	Keep(f *os.File) error
	Resize(path string) error
	Detach(dev loop.Device) error
}

// Domains is libvirt's LXC driver.
type Domains interface {
	State(ctx context.Context, id string) (lxc.Info, error)
	// Running gives those that run, by id; State tells more of each.
	Running(ctx context.Context) (map[string]lxc.Info, error)
	ByName(ctx context.Context, name string) (lxc.Info, error)
	Define(ctx context.Context, cfg lxc.Config) error
	Start(ctx context.Context, id string) (lxc.Info, error)
	WaitInit(ctx context.Context, info lxc.Info) (lxc.Info, error)
	Shutdown(ctx context.Context, id string) error
	Destroy(ctx context.Context, id string) error
	Undefine(ctx context.Context, id string) error
	CanLimitSwap() error
	// Limit limits what a running container may use from now on.
	Limit(ctx context.Context, id string, memoryMiB, vcpus int) error
	// Usage is what a running container uses.
	Usage(ctx context.Context, id string) (lxc.Usage, error)
	AttachDisk(ctx context.Context, id string, d lxc.Disk) error
	DetachDisk(ctx context.Context, id string, d lxc.Disk) error
}

// Kernel is what is known of containers without asking libvirt.
type Kernel interface {
	// Ready says why no container can be started here; nil: it can.
	Ready() error
	// Look gives the container of a name; it runs when it has an init.
	Look(name string) (lxc.Live, error)
	// WaitStart waits until the init that was just let go has outlived its first moments,
	// or has ended.
	WaitStart(controller int)
	// CheckInit says why an init below a root cannot be run.
	CheckInit(root, init string) error
	// MakeGroups makes the control groups of a container that has not started, with its
	// limits, and gives what its Launch has to name; one that runs has these limits from then
	// on. RemoveGroups removes them after its end.
	MakeGroups(ctx context.Context, id string, ids *lxc.IDMap, l cgroup.Limits) (string, error)
	RemoveGroups(ctx context.Context, id string) error
	// Launch puts lxcboot-init and what it is told at a mountpoint; Unlaunch takes it away.
	Launch(dir string, l lxc.Launch) error
	Unlaunch(dir string) error
	// Hold keeps the init from running until its Gate is released or this process
	// ends; Release lets one go that nobody holds.
	Hold(dir string) (Gate, error)
	Release(ctx context.Context, dir string) error
	// Finish does what libvirt leaves undone, while the init is held: the process is put
	// into the groups that libvirt made none in, interfaces get their addresses, and what
	// the kernel says of memory, CPUs and load is made the container's own.
	Finish(id string, init int, nics []lxc.Interface) error
	// ShowViews does the last of these once more, for a container that runs, and says
	// whether that changed anything.
	ShowViews(init int) (bool, error)
	// Mount mounts at a directory of a running container, which is made where it is missing,
	// what is mounted at target on the host; Mounted says whether the container has the
	// filesystem of a device there.
	Mount(init int, target, dir string, ids *rootfs.IDMap) error
	Mounted(init int, device, dir string) (bool, error)
	// Unmount undoes Mount. Where anything else uses the device the error wraps
	// inuse.ErrUsed; so does CheckIdle's, which changes nothing. An empty directory is none.
	Unmount(ctx context.Context, init int, device, dir string) error
	CheckIdle(ctx context.Context, init int, device, dir string) error
	// WaitAlone waits until no loop device on this one that can write is in use; where one
	// stays so, the error wraps inuse.ErrUsed.
	WaitAlone(ctx context.Context, device string) error
	// Take takes a block device of this host for this process, and whom it gives the file to,
	// alone, once nobody uses it; where one does, the error wraps inuse.ErrUsed. again is for
	// one that the container has.
	Take(ctx context.Context, device string, again bool) (*os.File, error)
	// Carrier is the block device by which a filesystem is mounted anywhere; empty: it is
	// not.
	Carrier(device string) (string, error)
	// Arrange sees that a container whose init is held has what is mounted at directories of
	// the host where that belongs, and nowhere else.
	Arrange(init int, dirs map[string]string, ids *rootfs.IDMap) error
	// Interfaces gives a running container's interfaces as they are now.
	Interfaces(id string, init int, asked []lxc.Interface) ([]lxc.Interface, error)
}

// Gate holds a container's init.
type Gate interface{ Release() }

// Consoles keeps containers' consoles. Open takes hold of one, and of how the init ends,
// before anything of either can be lost. Stop waits until the process that keeps it has
// written the container's last words, and ends it when it does not.
type Consoles interface {
	// Ready says why no console can be kept here; nil: it can.
	Ready() error
	Open(container lxc.Live) (Console, error)
	Stop(ctx context.Context, id string, p proc.Process) error
	// Claim has the process that keeps a console claim a block device until the container has
	// ended, or Unclaim.
	Claim(ctx context.Context, id string, p proc.Process, device string) error
	Unclaim(ctx context.Context, id string, p proc.Process, device string) error
	Alive(p proc.Process) bool
	// Guard has the process thaw the filesystem of a directory when this one ends, or release
	// is called, and after some seconds at the latest.
	Guard(ctx context.Context, id string, p proc.Process, dir *os.File) (release func(), err error)
}

// Console is an open console. Start starts the process that keeps it from then on; the
// zero process where the container has ended. It has the claimed devices from then on. It
// must be closed.
type Console interface {
	Start(id string, claimed []*os.File) (proc.Process, error)
	Close()
}
