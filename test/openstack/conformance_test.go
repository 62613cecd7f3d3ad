//go:build openstack

package openstack_test

import (
	"context"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumetypes"

	hosts "github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/volume/openstack"
	"github.com/lxcboot/lxcboot/pkg/volume/volumetest"
)

// TestConformance runs the suite of volume stores on each of Cinder's back ends,
// reading what it wrote through real connections. Of the lab's drivers only RBD's
// has multiattach.
func TestConformance(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			s := open(t, nil)
			o := volumetest.Options{
				Timeout: 2 * time.Minute, VolumeType: backend, ReadAt: content(host(t)),
				Elsewhere: func(t *testing.T, _ volumetest.Store) volumetest.Store {
					return open(t, func(o *openstack.Options) {
						o.Host = hosts.Host{ID: "id-of-there", Name: "there", BootID: "boot-of-there"}
					})
				},
			}
			if backend == "rbd" {
				o.Multiattach, o.MultiattachType = true, multiattachType(t, backend)
			}
			volumetest.Run(t, func(*testing.T) volumetest.Store { return s }, o)
		})
	}
}

// multiattachType makes a volume type for volumes of several instances.
func multiattachType(t *testing.T, backend string) string {
	cinder := admin(t)
	typ, err := volumetypes.Create(t.Context(), cinder, volumetypes.CreateOpts{
		Name: name(), ExtraSpecs: map[string]string{"multiattach": "<is> True", "volume_backend_name": backend},
	}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := volumetypes.Delete(context.Background(), cinder, typ.ID).ExtractErr(); err != nil {
			t.Error(err)
		}
	})
	return typ.Name
}
