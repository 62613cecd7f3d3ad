// Package lxc runs containers with libvirt's LXC driver: the domain's XML, its
// start and end, its console, commands inside it, and what it uses.
package lxc

import (
	"encoding/xml"
	"maps"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
	"github.com/lxcboot/lxcboot/pkg/failure"
)

// MetadataURI is the XML namespace of our own part of a domain's metadata.
const MetadataURI = "https://github.com/lxcboot/lxcboot/instance/1"

// ErrInvalid is wrapped by errors about a Config or options that cannot be.
var ErrInvalid = failure.ErrInvalid

// cpuPeriod is the period of the CPU quota in microseconds, the kernel's default.
const cpuPeriod = 100_000

// Config is a container, from which its domain is made. Its limits are libvirt's and the
// container's root can lift them: those that hold are of the outer group (cgroup.Make),
// which must be there before libvirt starts it.
type Config struct {
	UUID        string // the instance's id
	Name        string // the domain's name
	Title       string
	Description string
	MemoryMiB   int // of which it sees the use, and the limit
	SwapMiB     int // as the memory; 0: it sees the host's
	VCPUs       int // how many CPUs' worth of time it may use

	Launch       string // directory on the host that a Launch is mounted at
	Root         string // directory on the host
	RootReadOnly bool
	IDMap        *IDMap // nil: no user namespace, root inside is root outside

	Filesystems []Filesystem
	Disks       []Disk
	Interfaces  []Interface
}

// IDMap maps the container's users and groups 0 … Count-1 to HostID … on the host.
type IDMap struct{ HostID, Count uint32 }

// Filesystem is a directory of the host mounted in the container.
type Filesystem struct {
	Source   string // directory on the host
	Target   string // absolute path in the container
	ReadOnly bool
}

// Disk is a block device of the host that the container gets as /dev/Target.
type Disk struct {
	Source   string // block device on the host
	Target   string // vdb, or /dev/vdb
	ReadOnly bool
}

// Interface is a network interface: of a bridge or of a libvirt network.
type Interface struct {
	Bridge    string   `json:"bridge,omitempty"` // of a network's: as LiveInterfaces found it
	Network   string   `json:"network,omitempty"`
	MAC       string   `json:"mac,omitempty"`       // empty: libvirt picks one
	Name      string   `json:"name,omitempty"`      // in the container; empty: eth0, eth1, …
	Addresses []string `json:"addresses,omitempty"` // as 192.0.2.7/24; set before init runs
	Gateway   string   `json:"gateway,omitempty"`   // the default route of IPv4
	Gateway6  string   `json:"v6_gateway,omitempty"`
	DNS       []string `json:"dns,omitempty"` // for the seed
}

// Gateways are the default routes, of either family.
func (n Interface) Gateways() []string {
	return slices.DeleteFunc([]string{n.Gateway, n.Gateway6}, func(s string) bool { return s == "" })
}

// metadata is what the domain says of itself in our namespace.
type metadata struct {
	XMLName   xml.Name `xml:"instance"`
	NS        string   `xml:"xmlns,attr"` // libvirt gives it back without
	ID        string   `xml:"id"`
	CreatedBy string   `xml:"createdBy"`
}

// XML is the domain's description for libvirt. It does no I/O, and fails with
// ErrInvalid on what libvirt would misread or refuse.
func (c Config) XML() (string, error) {
	if err := c.check(); err != nil {
		return "", err
	}
	meta, err := xml.Marshal(metadata{NS: MetadataURI, ID: c.UUID, CreatedBy: "lxcboot"})
	if err != nil {
		return "", err
	}
	kib := uint(c.MemoryMiB) * 1024
	d := libvirtxml.Domain{
		Type: "lxc", UUID: c.UUID, Name: c.Name, Title: c.Title, Description: c.Description,
		Metadata: &libvirtxml.DomainMetadata{XML: string(meta)},
		Memory:   &libvirtxml.DomainMemory{Value: kib, Unit: "KiB"},
		MemoryTune: &libvirtxml.DomainMemoryTune{
			HardLimit: &libvirtxml.DomainMemoryTuneLimit{Value: uint64(kib), Unit: "KiB"},
		},
		// The number of vcpus limits nothing in an LXC domain: the quota does.
		VCPU: &libvirtxml.DomainVCPU{Value: uint(c.VCPUs)},
		CPUTune: &libvirtxml.DomainCPUTune{
			Period: &libvirtxml.DomainCPUTunePeriod{Value: cpuPeriod},
			Quota:  &libvirtxml.DomainCPUTuneQuota{Value: int64(c.VCPUs) * cpuPeriod},
		},
		Resource: &libvirtxml.DomainResource{Partition: cgroup.Partition(c.UUID)},
		OS: &libvirtxml.DomainOS{
			Type: &libvirtxml.DomainOSType{Type: "exe"},
			Init: path.Join(launchTarget, programName),
		},
		Features: &libvirtxml.DomainFeatureList{
			// Without a network namespace of its own the container would have the
			// host's, with the host's abstract sockets.
			PrivNet:      &libvirtxml.DomainFeature{},
			Capabilities: capabilities(c.IDMap != nil),
		},
		Clock:      &libvirtxml.DomainClock{Offset: "utc"},
		OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
		Devices: &libvirtxml.DomainDeviceList{
			Consoles: []libvirtxml.DomainConsole{{
				Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
			}},
		},
	}
	if c.SwapMiB > 0 {
		// libvirt's limit is of memory and swap together.
		d.MemoryTune.SwapHardLimit = &libvirtxml.DomainMemoryTuneLimit{Value: uint64(kib) + uint64(c.SwapMiB)*1024, Unit: "KiB"}
	}
	if c.IDMap != nil {
		r := []libvirtxml.DomainIDMapRange{{Start: 0, Target: uint(c.IDMap.HostID), Count: uint(c.IDMap.Count)}}
		d.IDMap = &libvirtxml.DomainIDMap{UIDs: r, GIDs: r}
	}
	// libvirt mounts in the order of the list: a target comes after its parents.
	mounts := slices.SortedStableFunc(slices.Values(append(slices.Clone(c.Filesystems), Filesystem{c.Launch, launchTarget, true})), func(a, b Filesystem) int {
		return strings.Compare(path.Clean(a.Target)+"/", path.Clean(b.Target)+"/")
	})
	mounts = append([]Filesystem{{c.Root, "/", c.RootReadOnly}}, mounts...)
	for _, m := range mounts {
		d.Devices.Filesystems = append(d.Devices.Filesystems, m.device())
	}
	for _, disk := range c.Disks {
		d.Devices.Disks = append(d.Devices.Disks, disk.device())
	}
	for i, nic := range c.Interfaces {
		d.Devices.Interfaces = append(d.Devices.Interfaces, nic.device(hostInterface(c.UUID, i)))
	}
	return d.Marshal()
}

// capabilities is the set that a container keeps; all others are gone from the
// bounding set of its init, as policy deny names what stays, and knows nothing of
// the newest ones (audit_read, perfmon, bpf, checkpoint_restore). What is
// here lets systemd and its services run. Gone are, among others, sys_module,
// sys_rawio, sys_time, syslog, mknod, dac_read_search (open_by_handle_at), mac_*,
// audit_control, linux_immutable and wake_alarm. Without a user namespace they
// are capabilities over the host, and sys_ptrace and sys_resource go too, as
// with podman; sys_admin remains, or systemd could not mount anything.
func capabilities(userNamespace bool) *libvirtxml.DomainFeatureCapabilities {
	on := &libvirtxml.DomainFeatureCapability{State: "on"}
	caps := &libvirtxml.DomainFeatureCapabilities{
		Policy:     "deny",
		AuditWrite: on, Chown: on, DACOverride: on, FOwner: on, FSetID: on, IPCLock: on, IPCOwner: on,
		Kill: on, Lease: on, NetAdmin: on, NetBindService: on, NetBroadcast: on, NetRaw: on,
		SetFCap: on, SetGID: on, SetPCap: on, SetUID: on,
		SysAdmin: on, SysBoot: on, SysChRoot: on, SysNice: on, SysTTYCnofig: on,
	}
	if userNamespace {
		caps.SysPTrace, caps.SysResource = on, on
	}
	return caps
}

func (f Filesystem) device() libvirtxml.DomainFilesystem {
	d := libvirtxml.DomainFilesystem{
		Source: &libvirtxml.DomainFilesystemSource{Mount: &libvirtxml.DomainFilesystemSourceMount{Dir: f.Source}},
		Target: &libvirtxml.DomainFilesystemTarget{Dir: path.Clean(f.Target)},
	}
	if f.ReadOnly {
		d.ReadOnly = &libvirtxml.DomainFilesystemReadOnly{}
	}
	return d
}

func (k Disk) device() libvirtxml.DomainDisk {
	d := libvirtxml.DomainDisk{
		Device: "disk",
		Source: &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: k.Source}},
		Target: &libvirtxml.DomainDiskTarget{Dev: deviceTarget(k.Target)}, // no bus: libvirt refuses lxc
	}
	if k.ReadOnly {
		d.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	return d
}

func (n Interface) device(host string) libvirtxml.DomainInterface {
	d := libvirtxml.DomainInterface{Source: &libvirtxml.DomainInterfaceSource{}, Target: &libvirtxml.DomainInterfaceTarget{Dev: host}}
	if n.Bridge != "" {
		d.Source.Bridge = &libvirtxml.DomainInterfaceSourceBridge{Bridge: n.Bridge}
	} else {
		d.Source.Network = &libvirtxml.DomainInterfaceSourceNetwork{Network: n.Network}
	}
	if n.MAC != "" {
		d.MAC = &libvirtxml.DomainInterfaceMAC{Address: n.MAC}
	}
	if n.Name != "" {
		d.Guest = &libvirtxml.DomainInterfaceGuest{Dev: n.Name}
	}
	for _, a := range n.Addresses {
		p := netip.MustParsePrefix(a) // checked
		d.IP = append(d.IP, libvirtxml.DomainInterfaceIP{Address: p.Addr().String(), Family: family(p.Addr()), Prefix: uint(p.Bits())})
	}
	for _, gateway := range n.Gateways() {
		gw := netip.MustParseAddr(gateway)
		all := "0.0.0.0"
		if gw.Is6() {
			all = "::"
		}
		d.Route = append(d.Route, libvirtxml.DomainInterfaceRoute{Family: family(gw), Address: all, Gateway: gw.String()})
	}
	return d
}

func family(a netip.Addr) string {
	if a.Is6() {
		return "ipv6"
	}
	return "ipv4"
}

var (
	deviceName = regexp.MustCompile(`^(/dev/)?[a-z][a-z0-9]{0,15}$`)
	envName    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	ifaceName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)
)

// check refuses what XML cannot carry or libvirt would take for something else.
func (c Config) check() error {
	if _, err := uuid.Parse(c.UUID); err != nil {
		return invalid("the instance id %q is not a UUID", c.UUID)
	}
	if strings.TrimSpace(c.Name) == "" || strings.Contains(c.Name, "/") {
		return invalid("the domain name %q cannot be: it must not be empty or hold a '/'", c.Name)
	}
	if c.MemoryMiB < 1 || c.MemoryMiB > 1<<30 || c.VCPUs < 1 || c.VCPUs > 1<<15 || c.SwapMiB < 0 || c.SwapMiB > 1<<30 {
		return invalid("memory of %d MiB, swap of %d MiB and %d vcpus cannot be", c.MemoryMiB, c.SwapMiB, c.VCPUs)
	}
	if m := c.IDMap; m != nil && (m.Count == 0 || uint64(m.HostID)+uint64(m.Count) > 1<<32-1) {
		return invalid("the user namespace range %d+%d cannot be", m.HostID, m.Count)
	}
	texts := map[string][]string{
		"name": {c.Name}, "title": {c.Title}, "root": {c.Root}, "launch directory": {c.Launch},
	}
	absolute := map[string]string{"root": c.Root, "launch directory": c.Launch}
	for _, f := range c.Filesystems {
		texts["mount"] = append(texts["mount"], f.Source, f.Target)
		absolute["mount source "+f.Source] = f.Source
		absolute["mount point "+f.Target] = f.Target
		if path.Clean(f.Target) == "/" {
			return invalid("a second filesystem cannot be mounted at /")
		}
	}
	for _, d := range c.Disks {
		texts["disk"] = append(texts["disk"], d.Source)
		absolute["disk "+d.Source] = d.Source
		if !deviceName.MatchString(d.Target) {
			return invalid("%q is not the name of a disk: use one like vdb", d.Target)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(texts)) {
		for _, s := range texts[what] {
			if !printable(s, false) {
				return invalid("the %s %q holds characters that cannot be passed on", what, s)
			}
		}
	}
	if !printable(c.Description, true) {
		return invalid("the description %q holds characters that cannot be passed on", c.Description)
	}
	for _, what := range slices.Sorted(maps.Keys(absolute)) {
		if !path.IsAbs(absolute[what]) {
			return invalid("the %s must be an absolute path, not %q", what, absolute[what])
		}
	}
	for _, n := range c.Interfaces {
		if err := n.check(); err != nil {
			return err
		}
	}
	return nil
}

func (n Interface) check() error {
	switch {
	case (n.Bridge == "") == (n.Network == ""):
		return invalid("a network interface needs a bridge or a network, and one only")
	case !printable(n.Network, false) || n.Bridge != "" && !ifaceName.MatchString(n.Bridge):
		return invalid("there can be no bridge or network named %q", n.Bridge+n.Network)
	case n.Name != "" && !ifaceName.MatchString(n.Name):
		return invalid("%q is not the name of a network interface", n.Name)
	}
	if n.MAC != "" {
		if hw, err := net.ParseMAC(n.MAC); err != nil || len(hw) != 6 || hw[0]&1 == 1 {
			return invalid("%q is not the MAC address of an interface", n.MAC)
		}
	}
	for _, a := range n.Addresses {
		if p, err := netip.ParsePrefix(a); err != nil || p.Addr().Zone() != "" {
			return invalid("%q is not an address with its prefix, like 192.0.2.7/24", a)
		}
	}
	for _, gateway := range n.Gateways() {
		if a, err := netip.ParseAddr(gateway); err != nil || a.Zone() != "" {
			return invalid("%q is not the address of a gateway", gateway)
		}
	}
	return nil
}

// printable says whether XML can carry s and a terminal can show it.
func printable(s string, lines bool) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		if r == '\n' || r == '\t' {
			return !lines
		}
		return unicode.IsControl(r) || r == 0xFFFE || r == 0xFFFF || r == utf8.RuneError
	})
}

func invalid(format string, args ...any) error {
	return failure.Invalid(format, args...)
}
