//go:build e2e

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/test/host"
)

// ramDisk is a block device of this host that is no loop device: a disk in memory, with an
// image's content, and gone with the test. Nothing about it stays but what is on it.
func ramDisk(t *testing.T, image string) string {
	t.Helper()
	path, remove, err := host.RAMDisk(96 << 20)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("this kernel makes no disks in memory (zram): %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	if out, err := exec.Command("dd", "if="+image, "of="+path, "bs=1M", "conv=notrunc,fsync").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// sum is the checksum of a device.
func sum(t *testing.T, device string) string {
	t.Helper()
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// busy says whether somebody has a block device for itself alone.
func busy(device string) bool {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
	if err == nil {
		f.Close()
	}
	return err != nil
}

// large is an image of a root with blocks of 4 KiB, as the sectors of a disk in memory are.
func large(t *testing.T) string {
	t.Helper()
	small, err := images()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	out, err := exec.Command("sh", "-ec", `mkdir "$1/from" "$1/tree"
mount -o ro,loop "$2/disk.raw" "$1/from"
cp -a "$1/from/." "$1/tree"
umount "$1/from"
truncate -s 48M "$1/root.raw"
mke2fs -q -t ext4 -b 4096 -d "$1/tree" "$1/root.raw"`, "sh", dir, small).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "root.raw")
}

// partitioned is an image of a disk with a root on its first partition, and another
// filesystem on its second one.
func partitioned(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("sh", "-ec", `cp "$2" "$1/root.raw"
truncate -s 96M "$1/disk.raw"
printf 'label: gpt\nstart=1MiB,size=48MiB\nstart=64MiB,size=24MiB\n' | sfdisk -q "$1/disk.raw"
dd if="$1/root.raw" of="$1/disk.raw" bs=1M seek=1 conv=notrunc status=none`, "sh", dir, large(t)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "disk.raw")
}

// keeperOf is the number of the process that keeps the console of the world's instance.
func (w *world) keeperOf() int {
	w.t.Helper()
	out, err := exec.Command("pgrep", "-f", "lxcboot-console "+w.state+"/").Output()
	pid, _ := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil || pid == 0 {
		w.t.Fatalf("no process keeps the console: %v, %q", err, out)
	}
	return pid
}

// TestManagedDevice boots from block devices that are not looped: a filesystem over a whole
// one, which is mounted from it, and one on a partition; and gives others to a running
// container. Nobody else of the host can have one as long as the container does.
func TestManagedDevice(t *testing.T) {
	t.Parallel()
	count := newTally(t, "devices")
	w := newStoreWorld(t, "manage", count)
	disk := partitioned(t)
	whole, part, more := ramDisk(t, large(t)), ramDisk(t, disk), ramDisk(t, "/dev/null")
	count.faults.Add(3)
	boot := []string{"boot", "-q", "--flavor", "m1.tiny", "--nic", "none"}

	refused := func(what string, args ...string) {
		t.Helper()
		code, out := w.run(args...)
		w.failed(code, out, 4)
		if !strings.Contains(out, what) {
			t.Errorf("%q does not say %q", out, what)
		}
	}
	// Nothing of an empty disk stays.
	if code, out := w.run("volume", "manage", more); code != 2 || !strings.Contains(out, "nothing of "+more+" stays by which it could be known again") {
		t.Errorf("an empty disk: %d, %s", code, out)
	}
	// Swapped on, and mounted.
	for _, script := range []string{"mkswap -q %[1]s; swapon %[1]s", "swapoff %[1]s; mke2fs -q %[1]s; mount %[1]s /mnt"} {
		if out, err := exec.Command("sh", "-ec", fmt.Sprintf(script, more)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		refused("is in use", "volume", "manage", more)
	}
	if err := exec.Command("umount", "/mnt").Run(); err != nil {
		t.Fatal(err)
	}

	// From the device itself, with no loop device.
	w.must(append(boot, "--boot-volume", whole, "NAME")...)
	w.must("exec", "NAME", "--", "grep", "^"+whole+" / ext4", "/proc/mounts")
	w.must("volume", "trim", whole)
	refused("is managed already", "volume", "manage", whole)
	if !busy(whole) {
		t.Error("others can have it")
	}
	w.must("delete", "-q", "NAME")
	first := sum(t, whole)
	w.must("volume", "unmanage", whole)
	if sum(t, whole) != first {
		t.Error("unmanage changed it")
	}

	// Its first partition, by a loop device; and a block device.
	w.must("volume", "manage", "-q", part, "--name", "disk", "--bootable")
	w.must("volume", "manage", "-q", more, "--name", "more")
	w.must(append(boot, "--boot-volume", "disk", "--block-device", "source=volume,id=more", "NAME")...)
	held := func(want bool, when string) {
		t.Helper()
		until := time.Now().Add(5 * time.Second)
		for busy(part) != want || busy(more) != want {
			if time.Now().After(until) {
				t.Fatalf("%s the devices are held: %v, %v", when, busy(part), busy(more))
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	held(true, "while the container runs")
	w.must("volume", "trim", "disk")
	// Who opens it for itself alone in the container can.
	w.must("exec", "NAME", "--", "sh", "-c", "mke2fs -F /dev/vdb || mkfs.ext2 /dev/vdb || dd if=/dev/zero of=/dev/vdb bs=4k count=16")
	if err := exec.Command("kill", "-9", strconv.Itoa(w.keeperOf())).Run(); err != nil {
		t.Fatal(err)
	}
	held(false, "without the console's process")
	w.must("repair")
	held(true, "after repair")
	w.must("stop", "NAME")
	held(false, "after stop")
	w.must("volume", "trim", "disk")
	if err := exec.Command("mount", "-o", "ro,offset=1048576,loop", part, "/mnt").Run(); err != nil {
		t.Fatal(err)
	}
	refused("it is mounted at /mnt", "start", "NAME")
	if err := exec.Command("umount", "/mnt").Run(); err != nil {
		t.Fatal(err)
	}
	w.must("start", "NAME")
	held(true, "after start")
	w.must("delete", "-q", "NAME")
	held(false, "after delete")
	if code, out := w.run("volume", "delete", "disk"); code != 4 {
		t.Errorf("deleted: %d, %s", code, out)
	}
	w.must("volume", "trim", "disk")
	w.must("volume", "export", "disk", "--output", filepath.Join(w.work, "disk.raw"))
	if sum(t, filepath.Join(w.work, "disk.raw")) != sum(t, part) {
		t.Error("what was exported is not what is on it")
	}
	w.must("volume", "unmanage", "more", "disk")

	if left := w.files(); strings.Join(left, "\n") != strings.Join(w.before, "\n") {
		t.Errorf("the state directory has %q, and not %q", left, w.before)
	}
}

// TestManagedRunning gives volumes on devices to a running container, mounted and as they
// are, and takes them away.
func TestManagedRunning(t *testing.T) {
	t.Parallel()
	count := newTally(t, "devices")
	w := newStoreWorld(t, "manage-running", count)
	w.must(smallArgs...)
	disk := ramDisk(t, partitioned(t))
	count.fault()
	w.must("volume", "manage", "-q", disk, "--name", "disk")
	for range 2 {
		w.must("volume", "attach", "-q", "--mount", "/srv", "NAME", "disk")
		if !busy(disk) {
			t.Error("others can have what is mounted")
		}
		w.must("exec", "NAME", "--", "touch", "/srv/mine")
		in := exec.Command("lxcboot", w.words([]string{"exec", "NAME", "--", "sh", "-c", "cd /srv; echo; read x"})...)
		in.Env = w.env()
		stdin, _ := in.StdinPipe()
		stdout, _ := in.StdoutPipe()
		if err := in.Start(); err != nil {
			t.Fatal(err)
		}
		_, _ = stdout.Read(make([]byte, 1))
		if code, out := w.run("volume", "detach", "NAME", "disk"); code != 4 || !strings.Contains(out, `has its working directory at "/srv"`) {
			t.Errorf("detached under a user: %d, %s", code, out)
		}
		if !busy(disk) {
			t.Error("others can have it after a detach that was refused")
		}
		stdin.Close()
		_ = in.Wait()
		w.must("volume", "detach", "NAME", "disk")
		if busy(disk) {
			t.Error("it is held after its detach")
		}
		w.must("volume", "attach", "-q", "NAME", "disk")
		w.must("exec", "NAME", "--", "test", "-b", "/dev/vdb")
		if !busy(disk) {
			t.Error("others can have a block device of the container")
		}
		w.must("volume", "detach", "NAME", "disk")
		if busy(disk) {
			t.Error("it is held after its detach")
		}
	}
	w.must("delete", "-q", "NAME")
	w.must("volume", "unmanage", "disk")
	state, err := host.Look(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if left := state.Of(disk); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestManagedKilled kills lxcboot at every point while it makes a volume of a part of a file,
// lets go of one, and boots from one that it makes a volume of under way: then all is as it
// was once what was worked on is deleted.
func TestManagedKilled(t *testing.T) {
	t.Parallel()
	count := newTally(t, "kills, each followed by delete")
	w := newWorld(t, "manage-killed", count)
	file := partitioned(t)
	out, err := exec.Command("losetup", "--find", "--show", "--offset", "1048576", "--sizelimit", "50331648", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", device).Run() })
	loops := func() string {
		out, err := exec.Command("losetup", "--noheadings", "--output", "NAME", "--associated", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	manage, unmanage := []string{"volume", "manage", device, "--name", "made"}, []string{"volume", "unmanage", "made"}
	for _, op := range []operation{
		{name: "manage", args: manage, after: [][]string{unmanage}},
		{name: "unmanage", before: [][]string{manage}, args: unmanage, after: [][]string{unmanage}},
		{name: "boot-managed", args: []string{"boot", "--flavor", "m1.tiny", "--nic", "none", "--block-device", "source=volume,id=" + device + ",bootindex=0,shutdown=remove", "NAME"}, after: [][]string{deleteName}},
		{name: "delete-managed", before: [][]string{{"boot", "--flavor", "m1.tiny", "--nic", "none", "--block-device", "source=volume,id=" + device + ",bootindex=0,shutdown=remove", "NAME"}}, args: deleteName, after: [][]string{deleteName}},
	} {
		t.Run(op.name, func(t *testing.T) {
			w.t = t
			for _, point := range share(w.points(op), 0) {
				t.Run(point, func(t *testing.T) {
					w.t = t
					count.fault()
					w.setUp(op)
					w.kill(point, op.args...)
					w.tidy(op)
					w.asBefore()
					until := time.Now().Add(5 * time.Second)
					for loops() != device && time.Now().Before(until) {
						time.Sleep(50 * time.Millisecond)
					}
					if left := loops(); left != device {
						t.Errorf("loop devices: %q", left)
					}
				})
			}
			w.t = t
		})
	}
	w.t = t
}
