package instance

import (
	"context"
	"errors"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// TestSelection: which filesystem of a volume is meant is said by the spec, else by the
// volume, else by the image that it was made of; a boot and each start after it keep to that,
// and so does what is made of what the boot made.
func TestSelection(t *testing.T) {
	for name, c := range map[string]struct {
		spec          string
		volume, image map[string]string
		want          rootfs.Selection
		invalid       bool
	}{
		"nothing":            {want: rootfs.Selection{}},
		"the spec":           {spec: ",partition=2", volume: map[string]string{"lxcboot_partition": "3"}, want: rootfs.Selection{Partition: "2"}},
		"the volume":         {volume: map[string]string{"lxcboot_partition": "3"}, image: map[string]string{"lxcboot_partition": "4", "lxcboot_subvolume": "@"}, want: rootfs.Selection{Partition: "3", Subvolume: "@"}},
		"a property at odds": {image: map[string]string{"lxcboot_partition": "-1"}, invalid: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			store, err := state.Open(memDir(t), memDir(t))
			if err != nil {
				t.Fatal(err)
			}
			m := w.manager(store)
			v := w.volumes["mine"]
			v.Metadata, v.ImageProps = c.volume, c.image
			w.volumes["mine"] = v
			req := BootRequest{Name: "web1", Spec: testPlan().Spec}
			req.Blocks.BlockDevices = []string{"source=volume,id=mine,dest=volume,bootindex=0,shutdown=preserve" + c.spec}
			ctx := context.Background()
			plan, err := m.Plan(ctx, req)
			if c.invalid {
				if !errors.Is(err, failure.ErrInvalid) {
					t.Errorf("%v", err)
				}
				return
			}
			if err == nil {
				_, err = m.Boot(ctx, plan)
			}
			if err != nil || w.selected != c.want {
				t.Fatalf("selected %+v, %v", w.selected, err)
			}
			w.selected = rootfs.Selection{}
			if _, err := m.Reboot(ctx, "web1", true); err != nil || w.selected != c.want {
				t.Errorf("again: %+v, %v", w.selected, err)
			}
		})
	}
}
