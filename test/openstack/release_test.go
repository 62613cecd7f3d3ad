//go:build openstack

package openstack_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// TestRelease takes a volume from a host that is gone, on each back end, and boots from it on
// another one. Ceph keeps the client out that had it.
func TestRelease(t *testing.T) {
	binary := build(t, "lxcboot")
	disk := busybox(t, false)
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) { release(t, binary, disk, backend) })
	}
}

func release(t *testing.T, binary, disk, backend string) {
	s, ctx := open(t, nil), context.Background()
	one, two := newCLI(t, binary), newCLI(t, binary)
	one.host, one.hostID = "lxcboot-gone", "id-of-gone"
	two.host, two.hostID = "lxcboot-next", "id-of-next"
	image, a, b := name(), name(), name()
	volumeID := ""
	t.Cleanup(func() {
		one.run("delete", a)
		two.run("delete", b)
		if volumeID != "" {
			s.DeleteVolume(ctx, volumeID)
		}
		if img, err := s.Image(ctx, image); err == nil {
			s.DeleteImage(ctx, img.ID)
		}
	})
	one.must("image", "import", disk, "--name", image)
	one.must("boot", "--flavor", "m1.tiny", "--nic", "none", "--block-device", "source=image,id="+image+",dest=volume,size=1,bootindex=0,shutdown=preserve,volume_type="+backend, a)
	v := one.holding(s, a)
	volumeID = v.ID
	one.running(a)
	one.must("exec", a, "--", "/bin/sh", "-c", "echo kept >/root/note && sync")
	if out := two.must("list", "--all-hosts", "-f", "value", "-c", "Name", "-c", "Host", "-c", "Volumes"); !strings.Contains(out, a+" lxcboot-gone "+volumeID) {
		t.Errorf("list --all-hosts: %s", out)
	}

	// The next host is refused at one look.
	refused := func(host *cli, code int, says string, args ...string) {
		t.Helper()
		if _, err := host.run(args...); exitCode(err) != code || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; want code %d and %q", args, err, code, says)
		}
	}
	refused(two, 4, "on host lxcboot-gone", "boot", "--flavor", "m1.tiny", "--nic", "none", "--boot-volume", volumeID, b)
	refused(one, 4, "which this host has", "volume", "release", volumeID, "--host", "lxcboot-gone", "--yes")
	refused(two, 2, "--yes", "volume", "release", volumeID, "--host", "lxcboot-gone")
	refused(two, 4, "lxcboot-gone", "volume", "release", volumeID, "--host", "lxcboot-next", "--yes")

	// With Ceph the host is only cut off, and its container runs.
	if backend != "rbd" {
		one.must("stop", "--force", a)
	}
	two.must("volume", "release", volumeID, "--host", "lxcboot-gone", "--yes")
	if got, err := s.Volume(ctx, volumeID); err != nil || got.Status != "available" || strings.Contains(fmt.Sprint(got.Metadata), "lxcboot_attached") {
		t.Errorf("%+v, %v", got, err)
	}
	if backend == "rbd" {
		out, err := exec.Command("ceph", "--conf", filepath.Join(labDir(), "etc/ceph.conf"), "--keyring", filepath.Join(labDir(), "state/ceph/admin.keyring"), "osd", "blocklist", "ls").CombinedOutput()
		if err != nil || !regexp.MustCompile(`(?m)^127\.0\.0\.1:0/\d+ `).Match(out) {
			t.Errorf("nobody is on the blocklist: %v\n%s", err, out)
		}
		if out, err := one.run("exec", a, "--", "/bin/sh", "-c", "busybox dd if=/dev/zero of=/root/note bs=64k count=16 conv=fsync 2>&1"); exitCode(err) == 0 {
			t.Errorf("the host that was cut off goes on writing: %s", out)
		} else if !regexp.MustCompile("I/O error|Input/output error|Read-only file system").MatchString(err.Error()) {
			t.Errorf("the container of the host that was cut off is told %v", err)
		}
		if killed := one.killDaemons(); killed != 1 {
			t.Errorf("%d daemons were there for one volume", killed)
		}
		one.must("stop", "--force", a)
	}
	two.must("boot", "--flavor", "m1.tiny", "--nic", "none", "--boot-volume", volumeID, b)
	if out := two.must("exec", b, "--", "/bin/cat", "/root/note"); strings.TrimSpace(out) != "kept" {
		t.Errorf("from the volume: %q", out)
	}

	// The host that comes back does nothing to it.
	refused(one, 4, "lxcboot-next", "start", a)
	one.must("delete", a)
	two.running(b)
	two.must("delete", b)
	if err := s.DeleteVolume(ctx, volumeID); err != nil {
		t.Error(err)
	}
	one.must("image", "delete", image)
	one.clean()
	two.clean()
}

// TestReleaseReservation takes a volume from a host that died while it reserved it: before it
// could note which attachment is its own.
func TestReleaseReservation(t *testing.T) {
	s, ctx := open(t, nil), t.Context()
	c := newCLI(t, build(t, "lxcboot"))
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Name: name(), Size: 1, Type: "nfs"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.DeleteVolume(context.Background(), v.ID)
	if _, err := s.WaitVolume(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	cinder, err := client(ctx, "go")
	if err != nil {
		t.Fatal(err)
	}
	instance, now := uuid.NewString(), time.Now().UTC().Format(time.RFC3339)
	post(t, cinder, "volumes/"+v.ID+"/metadata", map[string]any{"metadata": map[string]string{
		"lxcboot_attached_" + instance: "reserving since " + now,
		"lxcboot_host_" + instance:     "id-of-gone boot-of-gone reserving since " + now,
		"lxcboot_name_" + instance:     "web1 since " + now + " on lxcboot-gone",
	}})
	post(t, cinder, "attachments", map[string]any{"attachment": map[string]any{"volume_uuid": v.ID}})
	c.must("volume", "release", v.ID, "--host", "lxcboot-gone", "--yes")
	if got, err := s.Volume(ctx, v.ID); err != nil || got.Status != "available" {
		t.Errorf("%+v, %v", got, err)
	}
}
