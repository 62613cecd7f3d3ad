//go:build openstack

package openstack_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/wait"
	programs "github.com/lxcboot/lxcboot/test/host"
)

// TestBoot boots containers from Cinder volumes on each back end, from a disk that
// is one filesystem and from one with partitions, with the built binary.
func TestBoot(t *testing.T) {
	binary := build(t, "lxcboot")
	for _, backend := range backends {
		for _, disk := range []string{"unpartitioned", "partitioned"} {
			t.Run(backend+"/"+disk, func(t *testing.T) { boot(t, binary, backend, disk == "partitioned") })
		}
	}
}

// build builds the programs, and gives the path of one of them.
func build(t *testing.T, name string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "bin")
	if err := programs.Build(bin); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(bin, name)
}

// cli runs lxcboot on a state directory of its own, as on a host of its own.
type cli struct {
	*testing.T
	binary, state string
	host          string          // its name; empty: this host's
	hostID        string          // empty: this host's
	ids           map[string]bool // of the instances
}

func newCLI(t *testing.T, binary string) *cli {
	return &cli{T: t, binary: binary, state: t.TempDir(), ids: map[string]bool{}}
}

func (c *cli) hostname() string {
	if c.host != "" {
		return c.host
	}
	name, err := os.Hostname()
	if err != nil {
		c.Fatal(err)
	}
	return name
}

func (c *cli) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	argv := []string{c.binary, "--state-dir", c.state, "--backend", "openstack"}
	if c.hostID != "" {
		argv = append(argv, "--host-id", c.hostID)
	}
	argv = append(argv, args...)
	if c.host != "" {
		argv = append([]string{"unshare", "--uts", "sh", "-c", `hostname "$0" && exec "$@"`, c.host}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	if args[0] != "logs" {
		c.Logf("%5.1f s: lxcboot %s", time.Since(start).Seconds(), strings.Join(args, " "))
	}
	for _, text := range []string{stdout.String(), stderr.String()} {
		if strings.Contains(text, os.Getenv("OS_PASSWORD")) {
			c.Errorf("lxcboot %v shows the password", args)
		}
	}
	if err != nil {
		err = fmt.Errorf("lxcboot %s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), err
}

func (c *cli) must(args ...string) string {
	c.Helper()
	out, err := c.run(args...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

// eventually waits for something to be seen.
func (c *cli) eventually(what string, seen func() bool) {
	c.Helper()
	for end := time.Now().Add(30 * time.Second); !seen(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			c.Fatalf("%s was not seen", what)
		}
	}
}

func boot(t *testing.T, binary, backend string, partitioned bool) {
	s := open(t, nil)
	ctx := context.Background()
	c := newCLI(t, binary)
	elsewhere := newCLI(t, binary)
	elsewhere.host = "lxcboot-other-host"
	image, one, two := name(), name(), name()
	t.Cleanup(func() {
		// What a failed test leaves must not trouble the next.
		for _, n := range []string{one, two} {
			c.run("delete", n)
			elsewhere.run("delete", n)
		}
		if img, err := s.Image(ctx, image); err == nil {
			s.DeleteImage(ctx, img.ID)
		}
	})
	c.must("image", "import", busybox(t, partitioned), "--name", image)

	// The volume is made by the boot, and goes with the instance.
	device := "dest=volume,size=1,bootindex=0,volume_type=" + backend
	c.must("boot", "--flavor", "m1.tiny", "--block-device", "source=image,id="+image+",shutdown=remove,"+device, one)
	v := c.holding(s, one)
	if v.Type != backend {
		t.Errorf("the volume has the type %q", v.Type)
	}
	c.running(one)
	c.must("delete", one)
	if _, err := s.Volume(ctx, v.ID); err == nil {
		t.Errorf("volume %s is still there", v.ID)
	}
	c.clean()

	// The volume survives, and what was written to it.
	c.must("boot", "--flavor", "m1.tiny", "--block-device", "source=image,id="+image+",shutdown=PRESERVE,"+device, one)
	v = c.holding(s, one)
	c.running(one)
	c.must("exec", one, "--", "/bin/sh", "-c", "echo kept >/root/note && sync")
	if _, err := c.run("boot", "--flavor", "m1.tiny", "--block-device", "source=volume,id="+v.ID+",dest=volume,bootindex=0", two); err == nil {
		t.Errorf("a volume in use was booted a second time")
	}
	// Without the cloud, as in a shell that has not its settings, nothing is taken for gone.
	if _, err := c.run("--backend", "local", "delete", one); exitCode(err) != 4 || !strings.Contains(err.Error(), `are in the store "openstack project `) {
		t.Errorf("delete without the cloud: %v", err)
	}
	c.must("delete", one)
	if got, err := s.Volume(ctx, v.ID); err != nil || got.Status != "available" {
		t.Errorf("%+v, %v", got, err)
	}
	c.clean()

	snapshot, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: name(), VolumeID: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	c.must("boot", "--flavor", "m1.tiny", "--block-device", "source=snapshot,id="+snapshot.ID+",dest=volume,bootindex=0,shutdown=remove",
		"--block-device", "source=blank,dest=volume,size=1,bootindex=-1,shutdown=remove,volume_type="+backend, two)
	if out := c.must("exec", two, "--", "/bin/cat", "/root/note"); strings.TrimSpace(out) != "kept" {
		t.Errorf("from the snapshot: %q", out)
	}
	c.must("exec", two, "--", "/bin/sh", "-c", "test -b /dev/vdb")
	c.must("delete", two)
	c.clean()
	if err := s.DeleteSnapshot(ctx, snapshot.ID); err != nil {
		t.Error(err)
	}

	// From the volume, on a host of another name.
	elsewhere.must("boot", "--flavor", "m1.tiny", "--block-device", "source=volume,id="+v.ID+",dest=volume,size=1,bootindex=0,shutdown=remove", two)
	if again := elsewhere.holding(s, two); again.ID != v.ID {
		t.Errorf("it holds %+v", again)
	}
	if out := elsewhere.must("exec", two, "--", "/bin/cat", "/root/note"); strings.TrimSpace(out) != "kept" {
		t.Errorf("from the volume: %q", out)
	}
	elsewhere.must("delete", two)
	if _, err := s.Volume(ctx, v.ID); err == nil {
		t.Errorf("volume %s is still there", v.ID)
	}
	elsewhere.clean()
	c.must("image", "delete", image)
}

// holding finds the volume that an instance holds, and checks what Cinder says.
func (c *cli) holding(s interface {
	Volume(context.Context, string) (volume.Volume, error)
}, instance string) volume.Volume {
	c.Helper()
	var shown map[string]any
	out := c.must("show", instance, "-f", "json")
	if err := json.Unmarshal([]byte(out), &shown); err != nil {
		c.Fatalf("show: %v\n%s", err, out)
	}
	id, _ := shown["id"].(string)
	c.ids[id] = true
	volumes, _ := shown["volumes_attached"].([]any)
	if len(volumes) == 0 {
		c.Fatalf("instance %q has no volume: %s", instance, out)
	}
	v, err := s.Volume(context.Background(), fmt.Sprint(volumes[0]))
	if err != nil {
		c.Fatal(err)
	}
	if v.Status != "in-use" || len(v.Attachments) != 1 || v.Attachments[0].InstanceID != id || v.Attachments[0].Host != c.hostname() {
		c.Errorf("the volume of a running instance: %+v", v)
	}
	return v
}

// running checks that the container lives.
func (c *cli) running(instance string) {
	c.Helper()
	if out := c.must("list", "-f", "json"); !strings.Contains(out, instance) || !strings.Contains(out, "ACTIVE") {
		c.Errorf("list: %s", out)
	}
	c.eventually("the init's first line in the log", func() bool {
		out, _ := c.run("logs", instance)
		return strings.Contains(out, "lxcboot test: init is up")
	})
	if out := c.must("exec", instance, "--", "/bin/cat", "/etc/issue"); strings.TrimSpace(out) != "from a volume" {
		c.Errorf("exec: %q", out)
	}
}

// clean checks that no mount, loop device or process is left on the host, by the
// state directory and by the instances' ids.
func (c *cli) clean() {
	c.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		c.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if c.ours(line) {
			c.Errorf("a mount is left: %s", line)
		}
	}
	if left := c.left("/sys/block/loop*/loop/backing_file"); len(left) > 0 {
		c.Errorf("loop devices are left: %q", left)
	}
	// What kept the console still looks after the instance when delete has ended.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var left []string
	err = wait.Until(ctx, 10*time.Millisecond, time.Second, func() (bool, error) {
		left = c.left("/proc/[0-9]*/cmdline")
		return len(left) == 0, nil
	})
	if err != nil {
		c.Errorf("processes are left: %q", left)
	}
}

// left is what files of /proc or /sys say of this test's instances.
func (c *cli) left(pattern string) (left []string) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		c.Fatal(err)
	}
	for _, file := range files {
		if b, err := os.ReadFile(file); err == nil && c.ours(string(b)) {
			left = append(left, fmt.Sprintf("%s: %s", file, b))
		}
	}
	return left
}

// ours says whether a text is about this test's instances.
func (c *cli) ours(text string) bool {
	for id := range c.ids {
		if strings.Contains(text, id) {
			return true
		}
	}
	return strings.Contains(text, c.state)
}

// busybox makes a disk with a small root filesystem.
func busybox(t *testing.T, partitioned bool) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "sbin", "etc", "proc", "sys", "dev", "tmp", "root", "run", "var"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("%v: apt-get install busybox-static", err)
	}
	for file, content := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"bin/busybox": {string(b), 0o755},
		"etc/inittab": {"::sysinit:/bin/echo lxcboot test: init is up\n::respawn:/bin/sleep 3600\n", 0o644},
		"etc/issue":   {"from a volume\n", 0o644},
		"etc/passwd":  {"root:x:0:0:root:/root:/bin/sh\n", 0o644},
	} {
		if err := os.WriteFile(filepath.Join(root, file), []byte(content.text), content.mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"bin/sh", "bin/cat", "bin/echo", "bin/sleep", "bin/ps", "bin/sync", "bin/test", "sbin/init"} {
		if err := os.Symlink("/bin/busybox", filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	disk := filepath.Join(dir, "disk.raw")
	tool := func(stdin string, argv ...string) {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 96<<20); err != nil {
		t.Fatal(err)
	}
	if partitioned {
		tool("label: dos\nstart=2048, size=131072, type=83\ntype=83\n", "sfdisk", "-q", disk)
		tool("", "mke2fs", "-q", "-t", "ext4", "-d", root, "-E", "offset=1048576", disk, "65536k")
	} else {
		tool("", "mke2fs", "-q", "-t", "ext4", "-d", root, disk)
	}
	return disk
}
