package instance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/connector"
)

// memDir is a directory in memory where there is one: thousands of records are
// saved, and no test here cuts the power.
func memDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "lxcboot-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// world stands for everything outside the record: volumes, devices, mounts,
// domains, processes. It exists to inject faults at each operation on it.
type world struct {
	dir      string // files that devices stand for
	images   map[string]volume.Image
	volumes  map[string]*volume.Volume
	snaps    map[string]volume.Snapshot
	devices  map[string]bool   // connected attachment ids
	mounts   map[string]string // target -> device
	loops    map[int]loop.Device
	domains  map[string]*domain
	launched map[string]bool   // mounted launch directories
	groups   map[string]bool   // the outer groups, by the instance
	confined map[string]bool   // in which its processes are
	growing  map[string]bool   // devices whose filesystems are half grown
	kept     map[string]bool   // paths that were kept
	forgot   bool              // some were, and not put back
	inside   map[string]string // what the running container has mounted: directory -> device
	selected rootfs.Selection  // the last one
	usedBy   string            // who uses every volume in it
	frozen   map[string]bool   // devices whose filesystems are
	carried  bool              // what a container has mounted is found to be so
	guarded  bool              // a console's process thaws them when this one ends
	blind    bool              // it does not: it was killed too
	used     int64             // bytes of memory that a container uses
	blank    map[string]bool   // volumes without a filesystem
	console  map[int]string    // pid -> instance
	next     int
	// badMountpoint is what CheckMountpoint refuses: a device, and a path in it.
	badMountpoint string

	ops   []string // every operation, in order
	fault func(n int, op string, after bool) error
}

type domain struct {
	cfg   lxc.Config
	state string

	memoryMiB, vcpus int // that it was limited to while it ran
}

// crash is what a fake panics with to stand for SIGKILL.
type crash struct{}

var errInjected = errors.New("injected fault")

func newWorld(t *testing.T) *world {
	return &world{
		dir:     t.TempDir(),
		images:  map[string]volume.Image{"img": {ID: "img", Name: "busybox", Status: volume.ImageActive, DiskFormat: "raw", Size: 1 << 20, VirtualSize: 1 << 20}},
		volumes: map[string]*volume.Volume{"mine": {ID: "mine", Name: "mine", Status: volume.StatusAvailable, Size: 2, Bootable: true}},
		snaps:   map[string]volume.Snapshot{},
		devices: map[string]bool{}, mounts: map[string]string{}, loops: map[int]loop.Device{},
		domains: map[string]*domain{}, launched: map[string]bool{}, groups: map[string]bool{}, confined: map[string]bool{}, growing: map[string]bool{}, kept: map[string]bool{}, inside: map[string]string{}, frozen: map[string]bool{}, blank: map[string]bool{}, console: map[int]string{}, next: 1,
	}
}

// do is one operation on the world: effect happens between the two places where
// a fault can strike.
func (w *world) do(ctx context.Context, op string, effect func() error) error {
	n := len(w.ops)
	w.ops = append(w.ops, op)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if w.fault != nil {
		if err := w.fault(n, op, false); err != nil {
			return err
		}
	}
	if err := effect(); err != nil {
		return err
	}
	if w.fault != nil {
		return w.fault(n, op, true)
	}
	return nil
}

func (w *world) id(kind string) string {
	w.next++
	return fmt.Sprintf("%s-%d", kind, w.next)
}

// String is the state of the world, for comparison.
func (w *world) String() string {
	var s []string
	for _, id := range slices.Sorted(maps.Keys(w.volumes)) {
		v := w.volumes[id]
		s = append(s, fmt.Sprintf("volume %s %s %d", v.Name, v.Status, len(v.Attachments)))
	}
	for _, id := range slices.Sorted(maps.Keys(w.devices)) {
		s = append(s, "device "+id)
	}
	for _, id := range slices.Sorted(maps.Keys(w.frozen)) {
		s = append(s, "frozen "+id)
	}
	for _, id := range slices.Sorted(maps.Keys(w.mounts)) {
		s = append(s, "mount "+id)
	}
	for _, id := range slices.Sorted(maps.Keys(w.launched)) {
		s = append(s, "mount "+id)
	}
	for _, id := range slices.Sorted(maps.Keys(w.groups)) {
		s = append(s, fmt.Sprint("groups ", id, w.confined[id]))
	}
	for _, id := range slices.Sorted(maps.Keys(w.loops)) {
		s = append(s, fmt.Sprint("loop ", id))
	}
	for _, id := range slices.Sorted(maps.Keys(w.domains)) {
		s = append(s, "domain "+id+" "+w.domains[id].state)
	}
	if w.running() {
		for _, dir := range slices.Sorted(maps.Keys(w.inside)) {
			s = append(s, "inside "+dir)
		}
	}
	for _, pid := range slices.Sorted(maps.Keys(w.console)) {
		s = append(s, fmt.Sprint("console ", pid))
	}
	return strings.Join(s, "\n")
}

func (w *world) running() bool {
	for _, d := range w.domains {
		if d.state == lxc.Running {
			return true
		}
	}
	return false
}

// die is what the kernel does when the process ends: autoclear loop devices that
// nothing holds go, and console readers of dead containers end.
func (w *world) die() {
	if w.guarded && !w.blind {
		clear(w.frozen)
	}
	w.guarded = false
	for n, l := range w.loops {
		if l.Autoclear {
			delete(w.loops, n)
		}
	}
	for pid, id := range w.console {
		if d := w.domains[id]; d == nil || d.state != lxc.Running {
			delete(w.console, pid)
		}
	}
}

func (w *world) manager(store *state.Store) *Manager {
	return &Manager{Store: store, Volumes: volumesFake{w}, Devices: devicesFake{w}, Roots: rootsFake{w}, Loops: loopsFake{w},
		Domains: domainsFake{w}, Kernel: kernelFake{w}, Consoles: consolesFake{w}, Host: host.Host{ID: "here", Name: "here", BootID: "boot"}, IDs: func() (host.IDPool, error) { return host.IDsFrom(1_000_000), nil }, UndoTimeout: time.Minute, StopTimeout: time.Second}
}

type volumesFake struct{ *world }

func (w volumesFake) Images(context.Context) ([]volume.Image, error) {
	return slices.Collect(maps.Values(w.images)), nil
}

func (w volumesFake) Image(_ context.Context, ref string) (volume.Image, error) {
	for _, i := range w.images {
		if i.ID == ref || i.Name == ref {
			return i, nil
		}
	}
	return volume.Image{}, fmt.Errorf("image %q: %w", ref, volume.ErrNotFound)
}

func (w volumesFake) Volume(_ context.Context, ref string) (volume.Volume, error) {
	for _, v := range w.volumes {
		if v.ID == ref || v.Name == ref {
			return *v, nil
		}
	}
	return volume.Volume{}, fmt.Errorf("volume %q: %w", ref, volume.ErrNotFound)
}

func (w volumesFake) Volumes(context.Context) (all []volume.Volume, err error) {
	for _, v := range w.volumes {
		all = append(all, *v)
	}
	return all, nil
}

func (w volumesFake) Snapshot(_ context.Context, ref string) (volume.Snapshot, error) {
	if s, ok := w.snaps[ref]; ok {
		return s, nil
	}
	return volume.Snapshot{}, fmt.Errorf("snapshot %q: %w", ref, volume.ErrNotFound)
}

func (w volumesFake) CheckCreate(context.Context, []volume.CreateVolume) error { return nil }

func (w volumesFake) CreateVolume(ctx context.Context, req volume.CreateVolume) (v volume.Volume, err error) {
	err = w.do(ctx, "create volume", func() error {
		v = volume.Volume{ID: w.id("vol"), Name: req.Name, Status: volume.StatusCreating, Size: req.Size, Metadata: req.Metadata}
		w.volumes[v.ID] = &v
		return nil
	})
	return v, err
}

func (w volumesFake) WaitVolume(ctx context.Context, id string) (v volume.Volume, err error) {
	err = w.do(ctx, "wait for volume", func() error {
		w.volumes[id].Status = volume.StatusAvailable
		v = *w.volumes[id]
		return nil
	})
	return v, err
}

func (w volumesFake) DeleteVolume(ctx context.Context, id string) error {
	return w.do(ctx, "delete volume", func() error {
		v := w.volumes[id]
		switch {
		case v == nil:
			return volume.ErrNotFound
		case len(v.Attachments) > 0:
			return volume.ErrInUse
		}
		delete(w.volumes, id)
		return nil
	})
}

func (w volumesFake) UpdateVolume(ctx context.Context, id string, req volume.UpdateVolume) (v volume.Volume, err error) {
	err = w.do(ctx, "update volume", func() error {
		if w.volumes[id].Metadata == nil {
			w.volumes[id].Metadata = map[string]string{}
		}
		maps.Copy(w.volumes[id].Metadata, req.Metadata)
		v = *w.volumes[id]
		return nil
	})
	return v, err
}

func (w volumesFake) ExtendVolume(ctx context.Context, id string, size int, att string) (v volume.Volume, err error) {
	err = w.do(ctx, "extend volume", func() error {
		if all := w.volumes[id].Attachments; len(all) > 0 && all[0].ID != att {
			return volume.ErrInUse
		}
		w.volumes[id].Size = size
		v = *w.volumes[id]
		return nil
	})
	return v, err
}

func (w volumesFake) VolumesOf(ctx context.Context, instance string) (found []volume.Volume, err error) {
	err = w.do(ctx, "find volumes", func() error {
		for _, v := range w.volumes {
			if v.Metadata[volume.MetaInstance] == instance {
				found = append(found, *v)
			}
		}
		return nil
	})
	return found, err
}

func (w volumesFake) StoreID() string { return "fake" }

func (w volumesFake) Remote() bool { return false }

func (w volumesFake) Reserve(ctx context.Context, id string, by volume.Instance, ro bool) (att string, err error) {
	err = w.do(ctx, "reserve", func() error {
		v := w.volumes[id]
		if v.Status != volume.StatusAvailable {
			return fmt.Errorf("volume %s: %w", id, volume.ErrInUse)
		}
		att = w.id("att")
		v.Status = volume.StatusReserved
		v.Attachments = []volume.Attachment{{ID: att, VolumeID: id, InstanceID: by.ID}}
		return nil
	})
	return att, err
}

func (w volumesFake) AttachmentsOf(ctx context.Context, id, instance string) (found []volume.Attachment, err error) {
	err = w.do(ctx, "find attachments", func() error {
		if v := w.volumes[id]; v != nil && len(v.Attachments) > 0 && (instance == "" || v.Attachments[0].InstanceID == instance) {
			found = v.Attachments
		}
		return nil
	})
	return found, err
}

func (w volumesFake) attached(att string) *volume.Volume {
	for _, v := range w.volumes {
		if slices.ContainsFunc(v.Attachments, func(a volume.Attachment) bool { return a.ID == att }) {
			return v
		}
	}
	return nil
}

func (w volumesFake) Connect(ctx context.Context, att string) (conn volume.Connection, err error) {
	err = w.do(ctx, "connect", func() error {
		if v := w.attached(att); v.Status == volume.StatusReserved {
			v.Status = volume.StatusAttaching
		}
		conn = volume.Connection{Driver: "iscsi"}
		return nil
	})
	return conn, err
}

func (w volumesFake) Complete(ctx context.Context, att string) error {
	return w.do(ctx, "complete", func() error {
		w.attached(att).Status = volume.StatusInUse
		return nil
	})
}

func (w volumesFake) Detach(ctx context.Context, att string) error {
	return w.do(ctx, "detach", func() error {
		v := w.attached(att)
		if v == nil {
			return volume.ErrNotFound
		}
		if w.devices[att] {
			return errors.New("detached under its device")
		}
		v.Attachments = slices.DeleteFunc(v.Attachments, func(a volume.Attachment) bool { return a.ID == att })
		if len(v.Attachments) == 0 {
			v.Attachments, v.Status = nil, volume.StatusAvailable
		}
		return nil
	})
}

type devicesFake struct{ *world }

func (w devicesFake) Prepare(_ context.Context, req connector.Request) (connector.Device, error) {
	path := filepath.Join(w.dir, req.AttachmentID)
	return connector.Device{Driver: "iscsi", Path: path, State: []byte(`"` + req.AttachmentID + `"`)}, nil
}

func (w devicesFake) Connect(ctx context.Context, req connector.Request, dev connector.Device) (connector.Device, error) {
	err := w.do(ctx, "connect device", func() error {
		w.devices[req.AttachmentID] = true
		return os.WriteFile(dev.Path, nil, 0o600)
	})
	return dev, err
}

func (w devicesFake) Disconnect(ctx context.Context, dev connector.Device) error {
	return w.do(ctx, "disconnect device", func() error {
		for target, path := range w.mounts {
			if path == dev.Path {
				return fmt.Errorf("disconnected under the mount at %s", target)
			}
		}
		for dir, path := range w.inside {
			if path == dev.Path && w.running() {
				return fmt.Errorf("disconnected under the container's %s", dir)
			}
		}
		for _, l := range w.loops {
			if l.BackingFile == dev.Path {
				return fmt.Errorf("disconnected under %s", l.Path)
			}
		}
		delete(w.devices, filepath.Base(dev.Path))
		return nil
	})
}

func (w devicesFake) Fence(ctx context.Context, req connector.Request) ([]string, error) {
	return nil, w.do(ctx, "fence", func() error {
		if volumesFake(w).attached(req.AttachmentID) == nil {
			return errors.New("fenced after it was let go of")
		}
		return nil
	})
}

type loopsFake struct{ *world }

func (w loopsFake) Attach(ctx context.Context, path string, o loop.Options) (dev loop.Device, f *os.File, err error) {
	err = w.do(ctx, "attach loop", func() error {
		w.next++
		dev = loop.Device{Number: w.next, Path: fmt.Sprint("/dev/loop", w.next), BackingFile: path, Autoclear: o.Autoclear}
		w.loops[dev.Number] = dev
		f, err = os.Open(path)
		return err
	})
	if err != nil {
		w.die() // nothing holds it
	}
	return dev, f, err
}

func (w loopsFake) Resize(string) error {
	return w.do(context.Background(), "resize loop", func() error { return nil })
}

func (w loopsFake) Keep(f *os.File) error {
	return w.do(context.Background(), "keep loop", func() error {
		for n, l := range w.loops {
			if l.BackingFile == f.Name() {
				l.Autoclear = false
				w.loops[n] = l
			}
		}
		return nil
	})
}

func (w loopsFake) Detach(dev loop.Device) error {
	return w.do(context.Background(), "detach loop", func() error {
		if dev.Autoclear {
			return fmt.Errorf("%s would go with its last user, should it be in use", dev.Path)
		}
		for id, d := range w.domains {
			if d.state == lxc.Running && slices.ContainsFunc(d.cfg.Disks, func(k lxc.Disk) bool { return linked(k.Source) == dev.Path }) {
				return fmt.Errorf("detached %s under container %s", dev.Path, id)
			}
		}
		delete(w.loops, dev.Number)
		return nil
	})
}

// linked is where a link leads.
func linked(path string) string {
	to, _ := os.Readlink(path)
	return to
}
