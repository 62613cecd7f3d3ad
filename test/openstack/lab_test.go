//go:build openstack

// Package openstack tests against the real Keystone, Glance and Cinder of the lab
// (see lab/README.md), which test/openstack/run starts and stops.
package openstack_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/gophercloud/gophercloud/v2"
	cloud "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/attachments"

	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/connector"
	"github.com/lxcboot/lxcboot/pkg/volume/local"
	"github.com/lxcboot/lxcboot/pkg/volume/openstack"
	"github.com/lxcboot/lxcboot/pkg/volume/volumetest"
)

// backends are the lab's volume types.
var backends = []string{"nfs", "iscsi", "rbd"}

// labDir is where the lab keeps its state.
func labDir() string {
	if dir := os.Getenv("LAB_DIR"); dir != "" {
		return dir
	}
	return "/var/tmp/lxcboot-lab"
}

// TestMain checks that the tests leave nothing in the cloud.
func TestMain(m *testing.M) {
	if openstack.Configured() == "" {
		fmt.Fprintln(os.Stderr, "no cloud is set: run test/openstack/run, or set the OS_* variables of the lab")
		os.Exit(1)
	}
	os.Setenv("CEPH_CONF", filepath.Join(labDir(), "etc/ceph.conf"))
	before, err := inventory()
	code := m.Run()
	after, err2 := inventory()
	if err != nil || err2 != nil {
		fmt.Fprintln(os.Stderr, "what is in the cloud:", err, err2)
		code = 1
	}
	for thing := range after {
		if !before[thing] {
			fmt.Fprintln(os.Stderr, "--- FAIL: the tests left in the cloud:", thing)
			code = 1
		}
	}
	os.Exit(code)
}

// inventory lists all there is of the lab's user: images, volumes, snapshots and
// attachments.
func inventory() (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	all := map[string]bool{}
	s, err := openstack.Open(ctx, openstack.Options{})
	if err != nil {
		return nil, err
	}
	images, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range images {
		all["image "+i.ID+" "+i.Name] = true
	}
	volumes, err := s.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		all["volume "+v.ID+" "+v.Name] = true
	}
	snapshots, err := s.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range snapshots {
		all["snapshot "+n.ID+" "+n.Name] = true
	}
	cinder, err := client(ctx, "go")
	if err != nil {
		return nil, err
	}
	pages, err := attachments.List(cinder, attachments.ListOpts{}).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	held, err := attachments.ExtractAttachments(pages)
	for _, a := range held {
		all["attachment "+a.ID+" of volume "+a.VolumeID] = true
	}
	return all, err
}

// open opens the store of the lab's user, or with other options.
func open(t *testing.T, change func(*openstack.Options)) *openstack.Store {
	t.Helper()
	o := openstack.Options{Timeout: 2 * time.Minute, Connector: host(t).Properties, Inspect: local.Inspect}
	if change != nil {
		change(&o)
	}
	s, err := openstack.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// host connects volumes to this machine, in user space where there is a choice.
func host(t *testing.T) *connector.Host {
	return connector.New(connector.Options{StateDir: t.TempDir(), Transport: connector.Auto, IP: "127.0.0.1"})
}

// exports are the lines of `openstack-lab env`.
var exports = regexp.MustCompile(`(?m)^export (OS_\w+)=(.*)$`)

// client speaks to Cinder as one of the lab's users: go (the ordinary one), or
// admin.
func client(ctx context.Context, who string) (*gophercloud.ServiceClient, error) {
	out, err := exec.CommandContext(ctx, "lab/openstack-lab", "env", who).Output()
	if err != nil {
		return nil, fmt.Errorf("openstack-lab env %s: %w", who, err)
	}
	env := map[string]string{}
	for _, m := range exports.FindAllStringSubmatch(string(out), -1) {
		env[m[1]] = m[2]
	}
	provider, err := cloud.AuthenticatedClient(ctx, gophercloud.AuthOptions{
		IdentityEndpoint: env["OS_AUTH_URL"], Username: env["OS_USERNAME"], Password: env["OS_PASSWORD"],
		TenantName: env["OS_PROJECT_NAME"], DomainName: "Default",
	})
	if err != nil {
		return nil, err
	}
	cinder, err := cloud.NewBlockStorageV3(provider, gophercloud.EndpointOpts{})
	if err == nil {
		cinder.Microversion = "3.54"
	}
	return cinder, err
}

// admin is client for the administrator.
func admin(t *testing.T) *gophercloud.ServiceClient {
	t.Helper()
	c, err := client(t.Context(), "admin")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// content reads volumes through a real connection to this machine. The suite
// looks at the first few MiB and at the end: those are read once and kept.
func content(h *connector.Host) func(*testing.T, volumetest.Store, volume.Volume, []byte, int64) {
	const head, tail = 8 << 20, 64 << 10
	type key struct {
		id   string
		size int
	}
	kept := map[key][]byte{}
	return func(t *testing.T, s volumetest.Store, v volume.Volume, p []byte, offset int64) {
		t.Helper()
		k, end := key{v.ID, v.Size}, int64(v.Size)<<30
		if kept[k] == nil {
			kept[k] = make([]byte, head+tail)
			if v.Type == "nfs" && v.SnapshotID != "" && v.Size > 1 {
				// This Cinder's NFS driver leaves such a volume as small as its snapshot,
				// and then refuses to connect it ("virtual_size does not match").
				t.Logf("volume %s, larger than its snapshot, is read from the export itself", v.ID)
				f, err := os.Open(filepath.Join(labDir(), "state/nfs-export/volume-"+v.ID))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if _, err := f.ReadAt(kept[k][:head], 0); err != nil {
					t.Fatal(err)
				}
				copy(p, kept[k][min(offset, head):])
				return
			}
			connected(t, s, h, v.ID, func(path string) {
				f, err := os.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if size, err := f.Seek(0, io.SeekEnd); err != nil || size != end {
					t.Errorf("volume %s is %d bytes at %s, %v; want %d", v.ID, size, path, err, end)
				}
				for at, part := range map[int64][]byte{0: kept[k][:head], end - tail: kept[k][head:]} {
					if _, err := f.ReadAt(part, at); err != nil {
						t.Fatalf("reading %s at %d: %v", path, at, err)
					}
				}
			})
		}
		switch n := int64(len(p)); {
		case offset+n <= head:
			copy(p, kept[k][offset:])
		case offset >= end-tail:
			copy(p, kept[k][head+offset-(end-tail):])
		default:
			t.Fatalf("nobody read volume %s at %d", v.ID, offset)
		}
	}
}

// connected does something with a volume while it is attached to this machine.
func connected(t *testing.T, s volumetest.Store, h *connector.Host, volumeID string, use func(path string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	id, err := s.Reserve(ctx, volumeID, volume.Instance{ID: uuid.NewString()}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Detach(ctx, id); err != nil {
			t.Error(err)
		}
	}()
	conn, err := s.Connect(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	req := connector.Request{AttachmentID: id, VolumeID: volumeID, Connection: conn}
	dev, err := h.Prepare(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.Disconnect(ctx, dev); err != nil {
			t.Error(err)
		}
	}()
	if dev, err = h.Connect(ctx, req, dev); err != nil {
		t.Fatal(err)
	}
	if err := s.Complete(ctx, id); err != nil {
		t.Fatal(err)
	}
	use(dev.Path)
}

// name makes one that nobody else uses.
func name() string { return "lxcboot-test-" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12] }
