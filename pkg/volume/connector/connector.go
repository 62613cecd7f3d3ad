// Package connector makes a connection into a path on this host: it takes what
// Cinder calls connection_info and yields a block device, or a regular file of
// raw content, and takes it away again. It knows the drivers local, nfs, iscsi,
// rbd, nbd, nvmeof and fibre_channel; iscsi and rbd both through the kernel and
// in user space, nbd in user space only.
//
// What is saved of a device holds no secret, and is enough to take it away after
// a crash at any point.
package connector

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// The transports: who speaks the storage protocol.
const (
	Auto      = "auto"      // the kernel where its driver and tools are there, else user space
	Kernel    = "kernel"    // the kernel's driver, set up with its usual tools
	Userspace = "userspace" // a qemu-storage-daemon per attachment
)

// Options say where and how a Host works.
type Options struct {
	// StateDir is lxcboot's state directory; attachments are kept below
	// StateDir/attachments and shared mounts below StateDir/mounts.
	StateDir string
	// Transport is Auto (also when empty), Kernel or Userspace. It decides for
	// the drivers that have both.
	Transport string
	// IP is the address of this host that is told to the storage service. When
	// empty, the first global address of an interface is taken.
	IP string
	// Timeout bounds each connect and each disconnect; 2 minutes when zero.
	Timeout time.Duration
	// Root is where /sys, /etc, /dev and /lib are; "/" when empty.
	Root string
	// Warn is told when a daemon stays in its caller's control groups, and ends when
	// those are ended; nil: nobody.
	Warn func(error)
	// Run runs the kernel transports' tools; nil runs them for real.
	Run Runner
}

// Request is a connection to be made on this host.
type Request struct {
	AttachmentID string
	VolumeID     string
	Connection   volume.Connection // may hold secrets; nothing of it is saved but names
}

// Device is a path on this host, planned or connected. It holds no secret.
type Device struct {
	Driver    string `json:"driver"`    // driver_volume_type
	Transport string `json:"transport"` // Kernel or Userspace
	Path      string `json:"path"`      // block device or regular file of raw content; may be empty until connected
	ReadOnly  bool   `json:"readonly"`
	// Hold says that the block device is this host's own, where others could use it too: who
	// uses it keeps them out.
	Hold  bool            `json:"hold,omitempty"`
	State json.RawMessage `json:"state,omitempty"` // the driver's own notes
}

// Acquires says whether Connect takes something on this host that Disconnect has to give
// back: then the planned device has to be on disk before.
func (d Device) Acquires() bool { return d.Driver != localType || len(d.State) > 0 }

// Moves says that the path may be another device's once the host has restarted, and that
// Connect alone tells where it is then.
func (d Device) Moves() bool { return d.Driver == localType && (d.Hold || len(d.State) > 0) }

// BusyError says that a device cannot be released because it is still used. It
// is a volume.ErrInUse.
type BusyError struct {
	Path string
	By   string // what uses it
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s is still used by %s; release that first", e.Path, e.By)
}

// Is makes errors.Is(err, volume.ErrInUse) true.
func (e *BusyError) Is(target error) bool { return target == volume.ErrInUse }

// ErrNotFlushed says that written data could not be brought to the storage. The
// device is left connected, so that nothing is lost if the storage comes back.
var ErrNotFlushed = errors.New("not flushed")

// Host connects volumes to this host.
type Host struct {
	o Options
}

// New returns a Host. It does no I/O.
func New(o Options) *Host {
	if o.Transport == "" {
		o.Transport = Auto
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Run == nil {
		o.Run = Run
	}
	return &Host{o: o}
}

// A driver handles one driver_volume_type by one transport. Its prepare changes
// nothing; its disconnect works on what prepare returned, and takes "not there"
// as done.
type driver interface {
	prepare(ctx context.Context, req Request, dev Device) (Device, error)
	connect(ctx context.Context, req Request, dev Device) (Device, error)
	disconnect(ctx context.Context, dev Device) error
}

// A choice is a driver and what it needs of the kernel: a module and tools.
type choice struct {
	transport string
	module    string
	tools     []string
	client    string // the filesystem that mount(8) mounts, by the kernel and a helper
	make      func(*Host) driver
}

// drivers lists, by driver_volume_type, the ways there are; the first whose
// needs are met is taken by Auto.
var drivers = map[string][]choice{
	localType: {{transport: Kernel, make: func(h *Host) driver { return localDriver{} }}},
	"nfs":     {{transport: Kernel, tools: []string{"mount", "umount"}, client: "nfs", make: func(h *Host) driver { return nfsDriver{h} }}},
	"iscsi": {
		{transport: Kernel, module: "iscsi_tcp", tools: []string{"iscsiadm"}, make: func(h *Host) driver { return kernelISCSI{h} }},
		{transport: Userspace, tools: []string{storageDaemon}, make: func(h *Host) driver { return userspaceDriver{h, iscsiNodes} }},
	},
	"rbd": {
		{transport: Kernel, module: "rbd", tools: []string{"rbd"}, make: func(h *Host) driver { return kernelRBD{h} }},
		{transport: Userspace, tools: []string{storageDaemon}, make: func(h *Host) driver { return userspaceDriver{h, rbdNodes} }},
	},
	"nbd": {{transport: Userspace, tools: []string{storageDaemon}, make: func(h *Host) driver { return userspaceDriver{h, nbdNodes} }}},
	"nvmeof": {
		{transport: Kernel, module: "nvme_fabrics", tools: []string{"nvme"}, make: func(h *Host) driver { return nvmeDriver{h} }},
	},
	"fibre_channel": {{transport: Kernel, module: "scsi_transport_fc", make: func(h *Host) driver { return fcDriver{h} }}},
}

// Known returns the driver_volume_types that can be connected, sorted.
func Known() []string { return slices.Sorted(maps.Keys(drivers)) }

// Support says of one way to connect whether this host has what it needs.
type Support struct {
	Driver    string
	Transport string
	Missing   string // what is not there, empty when usable
}

// Supported lists every way to connect and what it lacks on this host.
func (h *Host) Supported() []Support {
	var all []Support
	for _, name := range Known() {
		for _, c := range drivers[name] {
			all = append(all, Support{name, c.transport, cmp.Or(h.missing(c), h.missingClient(c.client))})
		}
	}
	return all
}

// pick chooses how a driver_volume_type is connected on this host.
func (h *Host) pick(name string) (choice, error) {
	all, ok := drivers[name]
	if !ok {
		return choice{}, failure.Of(volume.ErrUnsupported, "volume driver type %q is not known; known are %s", name, strings.Join(Known(), ", "))
	}
	switch h.o.Transport {
	case Auto, Kernel, Userspace:
	default:
		return choice{}, failure.Invalid("there is no transport %q; use %s, %s or %s", h.o.Transport, Auto, Kernel, Userspace)
	}
	var lacks []string
	for _, c := range all {
		// A driver that has one way only is not for the option to decide.
		if len(all) > 1 && h.o.Transport != Auto && h.o.Transport != c.transport {
			continue
		}
		lack := h.missing(c)
		if lack == "" {
			return c, nil
		}
		lacks = append(lacks, fmt.Sprintf("transport %s lacks %s", c.transport, lack))
	}
	return choice{}, failure.Of(volume.ErrUnsupported, "volume driver type %s cannot be had on this host: %s", name, strings.Join(lacks, "; "))
}

var attachmentID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// Prepare decides how the volume will be connected and names everything that
// will be used. It changes nothing; its result is to be saved before Connect.
// The error wraps volume.ErrUnsupported for a driver or transport that cannot
// be had here, failure.ErrInvalid for a connection that makes no sense.
func (h *Host) Prepare(ctx context.Context, req Request) (Device, error) {
	conn := req.Connection
	if len(req.AttachmentID) > 128 || !attachmentID.MatchString(req.AttachmentID) {
		return Device{}, failure.Invalid("the attachment id %q cannot be the name of a file", req.AttachmentID)
	}
	if !filepath.IsAbs(h.o.StateDir) {
		return Device{}, failure.Invalid("state directory %q is not an absolute path", h.o.StateDir)
	}
	c, err := h.pick(conn.Driver)
	if err != nil {
		return Device{}, err
	}
	if info(conn.Data).boolean("encrypted") {
		return Device{}, failure.Of(volume.ErrUnsupported, "volume %s is encrypted; lxcboot has no keys to open it", req.VolumeID)
	}
	dev, err := c.make(h).prepare(ctx, req, Device{
		Driver:    conn.Driver,
		Transport: c.transport,
		ReadOnly:  conn.ReadOnly || info(conn.Data).str("access_mode") == "ro",
	})
	if err != nil {
		return Device{}, fmt.Errorf("volume %s over %s: %w", req.VolumeID, conn.Driver, redacted(err, secretsOf(conn.Data)))
	}
	return dev, nil
}

// Connect makes the prepared device, and returns it with the path that is now
// there. A device that is connected and alive is returned as it is; one whose
// daemon died is made anew. When it fails it takes back what it made.
func (h *Host) Connect(ctx context.Context, req Request, dev Device) (Device, error) {
	d, err := h.driverOf(dev)
	if err != nil {
		return Device{}, err
	}
	bounded, cancel := context.WithTimeout(ctx, h.o.Timeout)
	defer cancel()
	out, err := d.connect(bounded, req, dev)
	if err == nil {
		return out, nil
	}
	err = fmt.Errorf("volume %s over %s (%s): %w", req.VolumeID, dev.Driver, dev.Transport, redacted(err, secretsOf(req.Connection.Data)))
	if undo := h.Disconnect(context.WithoutCancel(ctx), dev); undo != nil {
		err = fmt.Errorf("%w; and taking it back: %w", err, undo)
	}
	return Device{}, err
}

// Disconnect flushes and takes the device away. It works on a device that was
// only prepared or half connected, and on one that is gone already. The error
// wraps volume.ErrInUse when something on this host still uses it, and
// ErrNotFlushed when the storage did not take what was written.
func (h *Host) Disconnect(ctx context.Context, dev Device) error {
	d, err := h.driverOf(dev)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, h.o.Timeout)
	defer cancel()
	if err := d.disconnect(ctx, dev); err != nil {
		return fmt.Errorf("disconnecting %s volume %s: %w", dev.Driver, dev.Path, err)
	}
	return nil
}

// driverOf finds the driver that prepared dev, whatever Options say today.
func (h *Host) driverOf(dev Device) (driver, error) {
	for _, c := range drivers[dev.Driver] {
		if c.transport == dev.Transport {
			return c.make(h), nil
		}
	}
	return nil, failure.Of(volume.ErrUnsupported, "no driver for %q by transport %q", dev.Driver, dev.Transport)
}

// missing names what this host lacks for a choice, or returns "".
func (h *Host) missing(c choice) string {
	if c.module != "" && !h.hasModule(c.module) {
		return "the kernel module " + c.module
	}
	for _, tool := range c.tools {
		if _, err := findTool(tool); err != nil {
			return "the program " + tool
		}
	}
	return ""
}

// missingClient names what mount(8) needs for a filesystem and is not there. It is told,
// and refuses nothing: a helper may do without the kernel.
func (h *Host) missingClient(fs string) string {
	if fs == "" {
		return ""
	}
	list, _ := os.ReadFile(h.fs("proc/filesystems"))
	if !slices.Contains(strings.Fields(string(list)), fs) && !h.hasModule(fs) {
		return "the kernel's filesystem " + fs
	}
	if _, err := findTool("mount." + fs); err != nil {
		return "the program mount." + fs
	}
	return ""
}

// hasModule says whether the kernel's module is loaded, built in or can be
// loaded by the tools on demand.
func (h *Host) hasModule(name string) bool {
	if _, err := os.Stat(h.fs("sys/module", name)); err == nil {
		return true
	}
	release, err := os.ReadFile(h.fs("proc/sys/kernel/osrelease"))
	if err != nil {
		return false
	}
	dir := h.fs("lib/modules", strings.TrimSpace(string(release)))
	for _, list := range []string{"modules.builtin", "modules.dep"} {
		b, err := os.ReadFile(filepath.Join(dir, list))
		for line := range strings.Lines(string(b)) {
			file, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			base, _, _ := strings.Cut(filepath.Base(file), ".")
			if err == nil && strings.ReplaceAll(base, "-", "_") == name {
				return true
			}
		}
	}
	return false
}

// fs is a path of this host, below Options.Root.
func (h *Host) fs(elem ...string) string {
	return filepath.Join(append([]string{h.o.Root}, elem...)...)
}

// encode puts a driver's notes into a device.
func encode(dev Device, state any) (Device, error) {
	b, err := json.Marshal(state)
	if err != nil {
		return Device{}, fmt.Errorf("noting the state of %s: %w", dev.Path, err)
	}
	dev.State = b
	return dev, nil
}

// decode reads a driver's notes of a device.
func decode(dev Device, state any) error {
	if err := json.Unmarshal(dev.State, state); err != nil {
		return failure.Invalid("the saved state of %s device %s: %v", dev.Driver, dev.Path, err)
	}
	return nil
}
