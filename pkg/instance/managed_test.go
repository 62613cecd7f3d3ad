package instance

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// managing is a store of the world whose volumes can be devices.
type managing struct{ volumesFake }

func (w managing) CheckManage(_ context.Context, req volume.ManageVolume) (volume.Volume, error) {
	return volume.Volume{Size: 1, Bootable: req.Bootable, Managed: &volume.Managed{Path: req.Device}}, nil
}

func (w managing) ManageVolume(ctx context.Context, req volume.ManageVolume) (v volume.Volume, err error) {
	err = w.do(ctx, "manage", func() error {
		v = volume.Volume{ID: w.id("dev"), Name: req.Name, Status: volume.StatusAvailable, Size: 1, Bootable: req.Bootable, Metadata: req.Metadata, Managed: &volume.Managed{Path: req.Device}}
		w.volumes[v.ID] = &v
		return nil
	})
	return v, err
}

func (w managing) DeleteVolume(ctx context.Context, id string) error {
	if v := w.volumes[id]; v != nil && v.Managed != nil {
		return volume.ErrManaged
	}
	return w.volumesFake.DeleteVolume(ctx, id)
}

func (w managing) UnmanageVolume(ctx context.Context, id string) error {
	return w.do(ctx, "unmanage", func() error {
		switch v := w.volumes[id]; {
		case v == nil:
			return volume.ErrNotFound
		case len(v.Attachments) > 0:
			return volume.ErrInUse
		}
		delete(w.volumes, id)
		return nil
	})
}

// onDevice boots from a device of the host, and has another volume.
func onDevice(remove bool) func(context.Context, *Manager) error {
	return func(ctx context.Context, m *Manager) error {
		m.Volumes = managing{m.Volumes.(volumesFake)}
		plan := testPlan()
		plan.Mappings = plan.Mappings[:2]
		plan.Mappings[0] = bdm.Mapping{Source: bdm.SourceVolume, Dest: bdm.DestVolume, ID: "/dev/vg0/web1", Size: 1, BootIndex: plan.Mappings[0].BootIndex, DeviceName: "/dev/vda", DeleteOnTermination: remove}
		_, err := m.Boot(ctx, plan)
		return err
	}
}

// TestManageFaults: a device that a boot makes a volume of is let go of when that fails,
// wherever that is, and kept when the container has run, unless it is to go with it.
func TestManageFaults(t *testing.T) {
	for name, remove := range map[string]bool{"preserve": false, "remove": true} {
		t.Run(name, func(t *testing.T) {
			strike(t, nil, onDevice(remove), func(t *testing.T, w *world, m *Manager, before string, err error, crashed bool) {
				m.Volumes = managing{volumesFake{w}}
				ran := strings.Contains(w.String(), lxc.Running)
				if crashed || err == nil {
					if _, err := m.Delete(context.Background(), "web1"); err != nil {
						t.Fatalf("delete: %v", err)
					}
					w.die()
					if ran && !remove {
						before = "volume web1-web1 available 0\n" + before
					}
				} else if !errors.Is(err, errInjected) && !errors.Is(err, context.Canceled) {
					t.Errorf("the error hides the fault: %v", err)
				}
				if got := w.String(); got != before {
					t.Errorf("left behind:\n%s\nwant\n%s", got, before)
				}
				if recs := records(t, m); len(recs) != 0 {
					t.Errorf("record left: %+v", recs)
				}
			})
		})
	}
}

// TestPlanDevice: the plan of a boot from a device names it, and says where that cannot be.
func TestPlanDevice(t *testing.T) {
	w, m := booted(t)
	blocks := bdm.Request{Flavor: "small", BlockDevices: []string{"source=volume,id=/dev/vg0/web1,bootindex=0"}}
	req := BootRequest{Name: "web2", Spec: testPlan().Spec, Blocks: blocks}
	_, err := m.Plan(context.Background(), req)
	if !errors.Is(err, volume.ErrUnsupported) || !strings.Contains(err.Error(), "/dev/vg0/web1 is a path on this host, and the volumes are those of a cloud") {
		t.Errorf("a cloud: %v", err)
	}
	m.Volumes = managing{volumesFake{w}}
	plan, err := m.Plan(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	if mp := plan.Mappings[0]; mp.ID != "/dev/vg0/web1" || mp.Size != 1 || mp.DeleteOnTermination {
		t.Errorf("%+v", mp)
	}
	if v := plan.record().Volumes[0]; v.Manage != "/dev/vg0/web1" || v.VolumeID != "" {
		t.Errorf("%+v", v)
	}
	_, err = m.AttachVolume(context.Background(), "web1", bdm.Mapping{Source: bdm.SourceVolume, Dest: bdm.DestVolume, ID: "/dev/sdz"})
	if !errors.Is(err, volume.ErrNotFound) || !strings.Contains(err.Error(), "'lxcboot volume manage /dev/sdz'") {
		t.Errorf("attached a device: %v", err)
	}
}
