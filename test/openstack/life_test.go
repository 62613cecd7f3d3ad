//go:build openstack

package openstack_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestCommands types the commands for images, volumes and snapshots. They show the
// same columns and properties as with the embedded store.
func TestCommands(t *testing.T) {
	binary, disk := build(t, "lxcboot"), busybox(t, false)
	shown := map[string][][]string{}
	for _, backend := range []string{"openstack", "local"} {
		c := newCLI(t, binary)
		do := func(args ...string) {
			t.Helper()
			out := c.must(append([]string{"--backend", backend, "-f", "json"}, args...)...)
			shown[backend] = append(shown[backend], keys(t, out))
		}
		image, one, two, snapshot := name(), name(), name(), name()
		do("image", "import", disk, "--name", image, "--property", "os=busybox", "--min-ram", "64")
		do("image", "list")
		do("image", "show", image)
		do("volume", "create", one, "--size", "1", "--image", image, "--property", "a=b")
		do("volume", "create", two, "--size", "1")
		do("volume", "list")
		do("volume", "show", one)
		do("volume", "extend", two, "--size", "2")
		if out := c.must("--backend", backend, "volume", "show", two, "-f", "value", "-c", "status", "-c", "size"); !slices.Equal(strings.Fields(out), []string{"available", "2"}) {
			t.Errorf("%s: after extend: %q", backend, out)
		}
		do("snapshot", "create", "--volume", one, snapshot)
		do("snapshot", "list")
		do("snapshot", "show", snapshot)
		// What is refused reserves nothing.
		if _, err := c.run("--backend", backend, "boot", "--flavor", "m1.tiny", "--boot-volume", one, "--swap", "1", name()); exitCode(err) != 2 {
			t.Errorf("%s: a flavor without swap: %v", backend, err)
		}
		if out := c.must("--backend", backend, "volume", "show", one, "-f", "value", "-c", "status"); strings.TrimSpace(out) != "available" {
			t.Errorf("%s: after a refused boot the volume is %s", backend, out)
		}
		c.must("--backend", backend, "snapshot", "delete", snapshot)
		c.must("--backend", backend, "volume", "delete", one, two)
		c.must("--backend", backend, "image", "delete", image)
		if _, err := c.run("--backend", backend, "volume", "show", one); exitCode(err) != 3 {
			t.Errorf("%s: a deleted volume: %v", backend, err)
		}
	}
	for i, cloud := range shown["openstack"] {
		if here := shown["local"][i]; !reflect.DeepEqual(cloud, here) {
			t.Errorf("command %d shows %q, and with the embedded store %q", i, cloud, here)
		}
	}
}

// keys are the columns of a list, or the properties of one thing.
func keys(t *testing.T, out string) []string {
	t.Helper()
	var one map[string]any
	if json.Unmarshal([]byte(out), &one) != nil {
		var all []map[string]any
		if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) == 0 {
			t.Fatalf("%v: %s", err, out)
		}
		one = all[0]
	}
	return slices.Sorted(maps.Keys(one))
}

// exitCode is that of a command that ended by itself, else the signal's negative number.
func exitCode(err error) int {
	exit, exited := errors.AsType[*exec.ExitError](err)
	if !exited {
		return 0
	}
	if status := exit.Sys().(syscall.WaitStatus); status.Signaled() {
		return -int(status.Signal())
	}
	return exit.ExitCode()
}

// TestCutShort kills and interrupts boots between two effects: delete, or the
// interrupted boot itself, leaves neither volume nor attachment in the cloud, and
// nothing on the host.
func TestCutShort(t *testing.T) {
	binary := build(t, "lxcboot-faults")
	setup := newCLI(t, binary)
	image := name()
	setup.must("image", "import", busybox(t, true), "--name", image)
	defer setup.must("image", "delete", image)
	list := func() string { return setup.must("volume", "list", "-f", "value", "-c", "ID", "-c", "Status") }
	before := list()
	for i, point := range []string{"volume created", "volume reserved", "volume connection made", "device connected", "attachment completed", "filesystem mounted", "domain started"} {
		for k, action := range []string{"kill", "int"} {
			backend := backends[(i+k)%len(backends)]
			t.Run(fmt.Sprintf("%s/%s/%s", action, point, backend), func(t *testing.T) {
				c := newCLI(t, binary)
				one := name()
				t.Cleanup(func() { c.run("delete", one) })
				t.Setenv("LXCBOOT_FAULT", point+"="+action)
				_, err := c.run("boot", "--flavor", "m1.tiny", "--block-device",
					"source=image,id="+image+",dest=volume,size=1,bootindex=0,shutdown=preserve,volume_type="+backend, one)
				t.Setenv("LXCBOOT_FAULT", "")
				switch code := exitCode(err); {
				case action == "kill" && code == -int(syscall.SIGKILL):
					c.must("delete", one)
				case action == "int" && code == 130:
				default:
					t.Fatalf("exit code %d: %v", code, err)
				}
				if _, err := c.run("show", one); exitCode(err) != 3 {
					t.Errorf("the instance is still there: %v", err)
				}
				var left []string
				for line := range strings.Lines(list()) {
					if id, status, _ := strings.Cut(strings.TrimSpace(line), " "); !strings.Contains(before, id) {
						left = append(left, status)
						setup.must("volume", "delete", id)
					}
				}
				// A container that was seen to run has data: its volume is preserved.
				var want []string
				if action == "kill" && point == "domain started" {
					want = []string{"available"}
				}
				if !slices.Equal(left, want) {
					t.Errorf("volumes of state %q are left, not %q", left, want)
				}
				c.clean()
			})
		}
	}
}

// TestDaemonKilled kills the process through which a container has its volume: the
// container gets I/O errors, the host goes on, and delete cleans up.
func TestDaemonKilled(t *testing.T) {
	c := newCLI(t, build(t, "lxcboot"))
	image, one := name(), name()
	t.Cleanup(func() {
		c.run("delete", one)
		c.run("image", "delete", image)
	})
	c.must("image", "import", busybox(t, false), "--name", image)
	c.must("boot", "--flavor", "m1.tiny", "--block-device", "source=image,id="+image+",dest=volume,size=1,bootindex=0,shutdown=remove,volume_type=iscsi", one)
	v := c.holding(open(t, nil), one)
	write := []string{"exec", one, "--", "/bin/sh", "-c", "busybox dd if=/dev/zero of=/root/zeros bs=64k count=16 conv=fsync 2>&1"}
	c.must(write...)
	if killed := c.killDaemons(); killed != 1 {
		t.Fatalf("%d daemons were there for one volume", killed)
	}
	if out, err := c.run(write...); exitCode(err) == 0 {
		t.Errorf("writing after the daemon was killed: %s", out)
	} else if !strings.Contains(err.Error(), "I/O error") && !strings.Contains(err.Error(), "Read-only file system") && !strings.Contains(err.Error(), "Input/output error") {
		t.Errorf("the container was told %v", err)
	}
	c.must("delete", one)
	c.clean()
	if _, err := c.run("volume", "show", v.ID); exitCode(err) != 3 {
		t.Errorf("the volume is still there: %v", err)
	}
	c.must("image", "delete", image)
}

// killDaemons kills what serves volumes to a host, as its power switch would, and counts it.
func (c *cli) killDaemons() (killed int) {
	c.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		args, err := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(args), "qemu-storage-daemon\x00") && !strings.Contains(string(args), "/qemu-storage-daemon\x00") || !strings.Contains(string(args), c.state) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			c.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			c.Fatal(err)
		}
		killed++
	}
	return killed
}
