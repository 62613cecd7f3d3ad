//go:build openstack

package openstack_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCapture gets what a container wrote out of the cloud again: a snapshot while it runs,
// an image of it when it is stopped, and that image as a file.
func TestCapture(t *testing.T) {
	binary := build(t, "lxcboot")
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) { capture(t, binary, backend) })
	}
}

func capture(t *testing.T, binary, backend string) {
	c := newCLI(t, binary)
	image, one, two, snapshot, copied, golden := name(), name(), name(), name(), name(), name()
	root := one + "-root"
	t.Cleanup(func() {
		// What a failed test leaves must not trouble the next.
		for _, args := range [][]string{{"delete", one}, {"delete", two}, {"volume", "delete", copied}, {"snapshot", "delete", snapshot}, {"volume", "delete", root}, {"image", "delete", golden}, {"image", "delete", image}} {
			c.run(args...)
		}
	})
	c.must("image", "import", busybox(t, false), "--name", image, "--property", "os=busybox")
	c.must("volume", "create", root, "--size", "1", "--image", image, "--type", backend)
	c.must("boot", "--flavor", "m1.tiny", "--nic", "none", "--block-device", "source=volume,id="+root+",dest=volume,bootindex=0", one)
	c.must("exec", one, "--", "sh", "-c", "echo golden > /marker; sync")

	// While it runs: at one moment, where the back end can.
	before := inUse(t, c, root)
	switch _, err := c.run("snapshot", "create", "--volume", root, snapshot); {
	case err == nil:
		c.must("volume", "create", copied, "--size", "1", "--snapshot", snapshot)
		c.must("boot", "--flavor", "m1.tiny", "--nic", "none", "--block-device", "source=volume,id="+copied+",dest=volume,bootindex=0,shutdown=remove", two)
		if out := c.must("exec", two, "--", "cat", "/marker"); strings.TrimSpace(out) != "golden" {
			t.Errorf("a volume of the snapshot has %q", out)
		}
		c.must("delete", two)
		c.must("snapshot", "delete", snapshot)
	case backend == "nfs":
		// Cinder's NFS driver asks Nova for that of a volume in use.
		t.Log(err)
		if exitCode(err) != 1 {
			t.Error("a snapshot that failed has another exit code")
		}
	default:
		t.Error(err)
	}
	if after := inUse(t, c, root); after != before {
		t.Errorf("the volume was %q, and is %q", before, after)
	}
	// It can be written to again, whatever became of the snapshot.
	c.must("exec", one, "--", "sh", "-c", "echo again >> /marker; sync")
	if _, err := c.run("image", "create", golden, "--instance", one); exitCode(err) != 4 {
		t.Errorf("an image of a running one: %v", err)
	}

	// Cinder reads no volume in use, with its default settings, but a copy; its NFS driver
	// makes none, and says what is to be done.
	c.must("stop", one)
	_, err := c.run("image", "create", golden, "--instance", one, "--property", "made=here")
	if backend == "nfs" {
		if exitCode(err) != 4 || !strings.Contains(err.Error(), "delete the instance") {
			t.Errorf("an image of a stopped one: %v", err)
		}
		c.must("delete", one)
		_, err = c.run("image", "create", golden, "--volume", root, "--property", "made=here")
	}
	if err != nil {
		t.Fatal(err)
	}
	if out := c.must("image", "show", golden, "-f", "value", "-c", "status", "-c", "properties"); !strings.Contains(out, "active") || !strings.Contains(out, "here") || !strings.Contains(out, "busybox") {
		t.Errorf("the image is %s", out)
	}
	file := filepath.Join(t.TempDir(), "golden.raw")
	c.must("image", "save", golden, "--output", file)
	mounted := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop,ro,noload", file, mounted).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer exec.Command("umount", mounted).Run()
	if got, err := os.ReadFile(filepath.Join(mounted, "marker")); err != nil || string(got) != "golden\nagain\n" {
		t.Errorf("the saved image has %q, %v", got, err)
	}

	if backend != "nfs" {
		c.must("start", one)
		c.must("delete", one)
	}
	c.must("boot", "--flavor", "m1.tiny", "--nic", "none", "--block-device", "source=image,id="+golden+",dest=volume,size=1,bootindex=0,shutdown=remove", two)
	if out := c.must("exec", two, "--", "cat", "/marker"); out != "golden\nagain\n" {
		t.Errorf("a volume of the image has %q", out)
	}
	c.must("delete", two)
}

// inUse is what Cinder says of a volume.
func inUse(t *testing.T, c *cli, volume string) string {
	t.Helper()
	return strings.TrimSpace(c.must("volume", "show", volume, "-f", "value", "-c", "status"))
}
