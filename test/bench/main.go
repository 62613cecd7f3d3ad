// Bench measures a boot from an existing volume against the bare line that does
// the same by hand: losetup, mount, virsh create, umount. Both are measured in
// turns in the same run, each from the start of the first process to the end of
// the last, and both containers are of the same definition, with a busybox root on a
// 1 GiB ext4 volume.
//
//	go run ./test/bench [-n 30] [-max 1.10] [-lxcboot bin/lxcboot]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/moby/sys/mountinfo"
	"libvirt.org/go/libvirtxml"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lxc"
)

var (
	pairs  = flag.Int("n", 30, "how many times each is measured, after two that do not count")
	most   = flag.Float64("max", 1.10, "fail when lxcboot's median is more than this times the bare line's")
	binary = flag.String("lxcboot", "bin/lxcboot", "the program to measure")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A contender boots a container and, not measured, removes it again.
type contender struct {
	name      string
	up, down  []string
	durations []time.Duration
}

func run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "lxcboot-bench-")
	if err != nil {
		return err
	}
	image, root := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "root")
	var both []*contender
	defer func() {
		end := context.Background()
		for _, c := range both { // whichever of them is up
			_ = do(end, c.down)
		}
		_ = do(end, []string{"umount", root})
		// A mount that is left, wherever below, must not be emptied.
		mounts, e := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if e == nil && len(mounts) > 0 {
			e = fmt.Errorf("%s is still mounted", mounts[0].Mountpoint)
		}
		if e == nil {
			e = os.RemoveAll(dir)
		}
		err = errors.Join(err, e)
	}()
	path, err := filepath.Abs(*binary)
	if err != nil {
		return err
	}
	os.Setenv("LXCBOOT_STATE_DIR", filepath.Join(dir, "state"))
	id := "bench" + dir[len(dir)-4:]
	owner := fmt.Sprint(host.FirstID, ":", host.FirstID)

	// The bare line's volume is the same filesystem in a file of the same size.
	for _, c := range [][]string{
		{"test/setup/busybox-image", image},
		{path, "image", "import", image, "--name", "busybox"},
		{path, "volume", "create", "--image", "busybox", "--size", "1", "bench"},
		{"truncate", "--size", "1G", image},
		// The bare line has no idmapped mount: its root belongs to the container's.
		{"mkdir", root},
		{"chmod", "711", dir},
		{"mount", "-o", "loop", image, root},
		{"chown", "--recursive", owner, root},
		{"umount", root},
	} {
		if err := do(ctx, c); err != nil {
			return err
		}
	}
	desc, err := domain(id+"-bare", root)
	if err != nil {
		return err
	}
	xml := filepath.Join(dir, "domain.xml")
	if err := os.WriteFile(xml, []byte(desc), 0o600); err != nil {
		return err
	}
	both = []*contender{
		{
			name: "lxcboot boot",
			up: []string{path, "boot", "--quiet", "--flavor", "m1.tiny", "--nic", "none",
				"--block-device", "source=volume,id=bench,dest=volume,shutdown=preserve,bootindex=0", id},
			down: []string{path, "delete", id},
		},
		{
			name: "losetup, mount, virsh create, umount",
			up: []string{"sh", "-ec", `loop=$(losetup --find --show "$1"); mount "$loop" "$2"; virsh -q -c lxc:/// create "$3"; umount "$2"`,
				"sh", image, root, xml},
			down: []string{"sh", "-ec", `virsh -q -c lxc:/// destroy "$1" || :; loop=$(losetup --noheadings --output NAME --associated "$2"); test -z "$loop" || losetup --detach $loop`,
				"sh", id + "-bare", image},
		},
	}
	const warm = 2
	for i := range *pairs + warm {
		order := slices.Clone(both)
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, c := range order {
			start := time.Now()
			if err := do(ctx, c.up); err != nil {
				return err
			}
			took := time.Since(start)
			if err := do(ctx, c.down); err != nil {
				return err
			}
			if i >= warm {
				c.durations = append(c.durations, took)
			}
		}
	}
	return report(both[0], both[1])
}

func report(ours, bare *contender) error {
	// The machine may become slower or faster meanwhile: what ran together is compared.
	var ratios []float64
	for i := range ours.durations {
		ratios = append(ratios, float64(ours.durations[i])/float64(bare.durations[i]))
	}
	slices.Sort(ratios)
	for _, c := range []*contender{ours, bare} {
		slices.Sort(c.durations)
		n := len(c.durations)
		fmt.Printf("%-38s median %4d ms   quartiles %d to %d ms   %d runs\n", c.name,
			median(c.durations).Milliseconds(), c.durations[n/4].Milliseconds(), c.durations[n*3/4].Milliseconds(), n)
	}
	ratio := median(ratios)
	fmt.Printf("%-38s median %.2f\n", "ratio of the two that ran together", ratio)
	if ratio > *most {
		return fmt.Errorf("a boot takes %.2f times what the bare line takes; at most %.2f was wanted", ratio, *most)
	}
	return nil
}

// median is of sorted values.
func median[T time.Duration | float64](v []T) T {
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

func do(ctx context.Context, command []string) error {
	if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, out)
	}
	return nil
}

// domain is the one that lxcboot defines, of the same features, with the root mounted
// as the bare line does it and its init run by libvirt itself.
func domain(name, root string) (string, error) {
	text, err := lxc.Config{
		UUID: uuid.NewString(), Name: name, MemoryMiB: 512, VCPUs: 1, Root: root, Launch: "/launch",
		IDMap: &lxc.IDMap{HostID: host.FirstID, Count: 65_536},
	}.XML()
	if err != nil {
		return "", err
	}
	var d libvirtxml.Domain
	if err := d.Unmarshal(text); err != nil {
		return "", err
	}
	d.OS.Init = "/sbin/init"
	d.Resource = nil // nobody makes it a group of its own
	d.Devices.Filesystems = slices.DeleteFunc(d.Devices.Filesystems, func(f libvirtxml.DomainFilesystem) bool {
		return f.Source.Mount.Dir == "/launch"
	})
	return d.Marshal()
}
