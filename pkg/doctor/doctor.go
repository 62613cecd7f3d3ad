// Package doctor looks at what a boot needs of this host, and says of each thing
// whether it is there and how to mend it. It changes nothing.
package doctor

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/host"
)

// The outcomes of a check.
const (
	OK      = "ok"
	Warning = "warning" // boot works, with something less
	Failed  = "failed"  // boot could not work
)

// Result is what was found of one thing.
type Result struct {
	Check  string `json:"check"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Mend   string `json:"mend,omitempty"`
}

// Check looks at one thing. Its error is what is wrong; a Problem says more.
type Check struct {
	Name string
	Run  func(context.Context) (detail string, err error)
}

// Problem is what a check found wrong, and how to mend it.
type Problem struct {
	Status string // Warning or Failed
	Detail string
	Mend   string
}

func (p *Problem) Error() string { return p.Detail }

func failed(mend, format string, args ...any) error {
	return &Problem{Failed, fmt.Sprintf(format, args...), mend}
}

func warning(mend, format string, args ...any) error {
	return &Problem{Warning, fmt.Sprintf(format, args...), mend}
}

// Run runs every check, and says whether a boot can work.
func Run(ctx context.Context, checks []Check) (results []Result, fit bool) {
	fit = true
	for _, c := range checks {
		r := Result{Check: c.Name, Status: OK}
		var err error
		r.Detail, err = c.Run(ctx)
		if err != nil {
			r.Status, r.Detail = Failed, err.Error()
			var p *Problem
			if errors.As(err, &p) {
				r.Status, r.Mend = p.Status, p.Mend
			}
		}
		fit = fit && r.Status != Failed
		results = append(results, r)
	}
	return results, fit
}

// Host is the checks of the host itself. stateRule is the check of the
// state directory that a boot makes too. The commands add those of libvirt and of the volume store.
func Host(stateDir string, stateRule func(dir string) error) []Check {
	return []Check{
		{"root", root},
		{"state directory", func(context.Context) (string, error) { return state(stateDir, stateRule) }},
		{"loop devices", loops},
		{"filesystems", filesystems},
		{"user namespaces", userNamespaces},
		{"idmapped mounts", func(context.Context) (string, error) { return idmapped(stateDir) }},
		{"cgroups", cgroups},
		{"lvm", lvm},
		{"inotify", inotify},
		{"qemu-img", tool("qemu-img", "apt-get install qemu-utils", "images other than raw cannot be imported")},
		{"qemu-storage-daemon", tool("qemu-storage-daemon", "apt-get install qemu-system-common qemu-block-extra", "volumes cannot be reached in user space (iscsi, rbd, nbd, qcow2 files)")},
	}
}

func root(context.Context) (string, error) {
	if os.Geteuid() != 0 {
		return "", failed("run lxcboot as root", "the user id is %d", os.Geteuid())
	}
	return "running as root", nil
}

func state(dir string, rule func(dir string) error) (string, error) {
	if err := rule(dir); err != nil {
		return "", err
	}
	var fs unix.Statfs_t
	switch err := unix.Statfs(dir, &fs); {
	case errors.Is(err, os.ErrNotExist):
		return dir + " is made when it is needed", nil
	case err != nil:
		return "", err
	}
	free := fs.Bavail * uint64(fs.Bsize) >> 20
	if free < 1024 {
		return "", warning("free some space, or move it with --state-dir", "%s has %d MiB free", dir, free)
	}
	return fmt.Sprintf("%s has %d MiB free", dir, free), nil
}

// shipped are machine ids that many hosts have, because they came with an image or a
// guide. The id of a Debian container's image is the MD5 of the day it was made for.
var shipped = []string{"b08dfa6083e7567a1921a715000001fb" /* Whonix, Kicksecure */, "1c4ad377574c4263adbb7c624b6a3429" /* an Ubuntu for the Raspberry Pi */}

func isShipped(id string) bool {
	if slices.Contains(shipped, id) || strings.Trim(id, id[:1]) == "" {
		return true
	}
	for day := time.Date(2014, 1, 1, 0, 0, 0, 0, time.UTC); day.Before(time.Now()); day = day.AddDate(0, 0, 1) {
		if fmt.Sprintf("%x", md5.Sum(fmt.Appendln(nil, day.Unix()))) == id {
			return true
		}
	}
	return false
}

// HostID looks at what tells this host from others: what the setting says, or else the
// machine id. Two hosts of one id would each take the other's instances for their own.
func HostID(setting, machine string) Check {
	return Check{"host id", func(context.Context) (string, error) {
		const mend = "systemd-machine-id-setup, or set host-id to what no other host has"
		switch {
		case setting != "":
			return setting + ", as it is set", nil
		case machine == "":
			return "", warning(mend, "/etc/machine-id is not there, or empty: the host name stands for it")
		case isShipped(machine):
			return "", warning(mend, "the machine id %s came with an image, and other hosts have it too", machine)
		}
		return machine + ", the machine id", nil
	}}
}

func loops(context.Context) (string, error) {
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", failed("modprobe loop", "there is no loop device driver: %v", err)
	}
	defer f.Close()
	return "/dev/loop-control is there", nil
}

func filesystems(context.Context) (string, error) {
	data, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return "", err
	}
	have := strings.Fields(string(data))
	var found, missing []string
	for _, fs := range []string{"ext4", "xfs", "btrfs", "squashfs", "erofs"} {
		if slices.Contains(have, fs) || loadable(fs) {
			found = append(found, fs)
		} else {
			missing = append(missing, fs)
		}
	}
	switch {
	case len(found) == 0:
		return "", failed("use a kernel with ext4", "the kernel has none of %s", strings.Join(missing, ", "))
	case len(missing) > 0:
		return "", warning("a root of such a filesystem needs a kernel that has it", "%s; without %s", strings.Join(found, ", "), strings.Join(missing, ", "))
	}
	return strings.Join(found, ", "), nil
}

// loadable says whether the running kernel has a driver as a module.
func loadable(fs string) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	data, err := os.ReadFile("/lib/modules/" + unix.ByteSliceToString(u.Release[:]) + "/modules.dep")
	return err == nil && strings.Contains(string(data), "/"+fs+".ko")
}

func userNamespaces(context.Context) (string, error) {
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		return "", failed("use --privileged, or a kernel with user namespaces", "the kernel has no user namespaces")
	}
	data, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	if err == nil && strings.TrimSpace(string(data)) == "0" {
		return "", failed("sysctl -w user.max_user_namespaces=10000, or use --privileged", "user namespaces are switched off")
	}
	return "there, at most " + strings.TrimSpace(string(data)), nil
}

// idmapped checks only that the kernel knows the call. Whether the root's filesystem
// supports it is seen when that is mounted.
func idmapped(string) (string, error) {
	err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(unix.Stdin)})
	if errors.Is(err, unix.ENOSYS) {
		return "", failed("use a kernel of 5.12 or newer, or --privileged", "the kernel has no mount_setattr")
	}
	return "the kernel has mount_setattr", nil
}

func cgroups(context.Context) (string, error) {
	unified := unix.Statfs_t{}
	if err := unix.Statfs("/sys/fs/cgroup", &unified); err != nil {
		return "", failed("mount the cgroup filesystem at /sys/fs/cgroup", "there is no /sys/fs/cgroup: %v", err)
	}
	if unified.Type == unix.CGROUP2_SUPER_MAGIC {
		return "version 2", nil
	}
	if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.procs"); err != nil {
		return "version 1", nil
	}
	// libvirt's LXC driver cannot make its directory in the unified part, unless
	// systemd does it: it must not see that mount.
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		return "version 1 with a unified part, under systemd", nil
	}
	how, _ := host.Docs("testing.md")
	return "", warning("run libvirtd in a mount namespace of its own without /sys/fs/cgroup/unified ("+how+" shows how), if containers do not start",
		"version 1 with a unified part, without systemd")
}

// inotify looks at how much all containers together may watch: each with systemd takes
// some ten of what the kernel counts as the host's root's.
func inotify(context.Context) (string, error) {
	data, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return "", err
	}
	return watches(string(data))
}

func watches(limit string) (string, error) {
	n, err := strconv.Atoi(strings.TrimSpace(limit))
	if err != nil {
		return "", err
	}
	if n < 1024 {
		return "", warning("lxcboot setup, then sysctl --system", "fs.inotify.max_user_instances is %d: of a dozen containers with systemd some have units that fail", n)
	}
	return fmt.Sprintf("at most %d instances", n), nil
}

func tool(name, install, without string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", warning(install, "not found: %s", without)
		}
		return path, nil
	}
}
