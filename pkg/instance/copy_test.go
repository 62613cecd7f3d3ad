package instance

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// A volume is still when nobody has it that writes to it: nobody, a stopped instance, or one
// that only reads. As long as it is copied the instance is not started.
func TestCopyVolume(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	store, err := state.Open(memDir(t), memDir(t))
	if err != nil {
		t.Fatal(err)
	}
	store.Wait = 50 * time.Millisecond
	m := w.manager(store)
	copied := func(do func(volume.Copying)) volume.Copying {
		t.Helper()
		ran := 0
		var got volume.Copying
		if err := m.CopyVolume(ctx, "mine", func(how volume.Copying) error {
			ran, got = ran+1, how
			if do != nil {
				do(how)
			}
			return nil
		}); err != nil || ran != 1 {
			t.Fatalf("it ran %d times, %v", ran, err)
		}
		return got
	}
	copied(nil) // nobody has it
	if _, err := m.Boot(ctx, testPlan()); err != nil {
		t.Fatal(err)
	}
	if how := copied(nil); how.Still {
		t.Error("the volume of a running instance is said to be still")
	}
	if _, err := m.Stop(ctx, "web1", true); err != nil {
		t.Fatal(err)
	}
	how := copied(func(volume.Copying) {
		if _, err := m.Start(ctx, "web1"); !errors.Is(err, state.ErrBusy) {
			t.Errorf("started while its volume is copied: %v", err)
		}
	})
	if !how.Still {
		t.Error("the volume of a stopped instance is not said to be still")
	}
	if _, err := m.Start(ctx, "web1"); err != nil {
		t.Error(err)
	}
	// Somebody else has it, of whom nothing is known here.
	w.volumes["mine"].Attachments = []volume.Attachment{{ID: "a", VolumeID: "mine", InstanceID: "elsewhere"}}
	if how := copied(nil); how.Still {
		t.Error("a volume that another has is said to be still")
	}
	failed := errors.New("failed")
	if err := m.CopyVolume(ctx, "mine", func(volume.Copying) error { return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if err := m.CopyVolume(ctx, "nothere", func(volume.Copying) error { return nil }); !errors.Is(err, volume.ErrNotFound) {
		t.Error(err)
	}
}
