//go:build faults

package local

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// A process is killed at each point between two effects. What it was told to be
// done before is there; nothing that is there is half; what it left is listed and
// repaired (with a kill in the middle of that as well); and then everything can be
// deleted, to the last file.
func TestKilledAtEveryPoint(t *testing.T) {
	killedAtEveryPoint(t, func() *Store { return newStore(t) }, 1)
}

// killedAtEveryPoint kills at one in so many points, with a new store each time.
func killedAtEveryPoint(t *testing.T, newStore func() *Store, oneIn int) {
	image := qcow2File(t)
	log := filepath.Join(t.TempDir(), "points")
	cmd, out := process(t, newStore(), []string{"LXCBOOT_FAULT_LOG=" + log}, "scenario", image)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	points := strings.Fields(string(b))
	if len(points) < 20 {
		t.Fatalf("only %d points: %q", len(points), points)
	}
	for i, point := range points {
		if i%oneIn != 0 {
			continue
		}
		t.Run(strings.ReplaceAll(point, "/", "-"), func(t *testing.T) {
			s, ctx := newStore(), t.Context()
			cmd, out := process(t, s, []string{"LXCBOOT_FAULT=" + point + "=kill"}, "scenario", image)
			if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
				t.Fatalf("it was not killed: %v\n%s", err, out)
			}
			whole(t, ctx, s, out)
			if _, err := s.Repair(ctx); err != nil {
				t.Errorf("repair: %v", err)
			}
			whole(t, ctx, s, out)
			if left, err := s.Repair(ctx); err != nil || len(left) != 0 {
				t.Errorf("after repair there is %q, %v", left, err)
			}
			emptied(t, ctx, s)
		})
	}
}

// whole checks what is in the store against what was reported done.
func whole(t *testing.T, ctx context.Context, s *Store, out *bytes.Buffer) {
	t.Helper()
	done := map[string]string{}
	for line := range strings.Lines(out.String()) {
		what, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		done[what] = id
	}
	images, err := s.Images(ctx)
	if err != nil {
		t.Error(err)
	}
	volumes, err := s.Volumes(ctx)
	if err != nil {
		t.Error(err)
	}
	snapshots, err := s.Snapshots(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, o := range []struct {
		kind, status string
		n            int
		maybe        bool // its deletion may have begun
	}{
		{"image", volume.ImageActive, len(images), done["nosnapshot"] != ""},
		{"volume", volume.StatusAvailable, len(volumes), done["detached"] != ""},
		{"snapshot", volume.StatusAvailable, len(snapshots), done["novolume"] != ""},
	} {
		switch {
		case done["no"+o.kind] != "" && o.n != 0:
			t.Errorf("a deleted %s is there", o.kind)
		case done[o.kind] != "" && o.n != 1 && !o.maybe:
			t.Errorf("a %s that was reported done is not there", o.kind)
		}
	}
	for _, i := range images {
		switch raw, err := os.ReadFile(s.rawOf(i.ID)); {
		case errors.Is(err, os.ErrNotExist):
		case err != nil || len(raw) != 1<<20 || string(raw[:7]) != "content":
			t.Errorf("the image's raw form has %d bytes, %v", len(raw), err)
		case done["pruned"] != "":
			t.Error("a raw form that was pruned is there")
		}
		if done["image"] != "" && i.Status != volume.ImageActive {
			t.Errorf("the image is %+v", i)
		}
	}
	for _, n := range snapshots {
		if done["snapshot"] != "" && n.Status != volume.StatusAvailable {
			t.Errorf("the snapshot is %+v", n)
		}
	}
	for _, v := range volumes {
		_, later := done["detached"]
		for step, status := range map[string][]string{
			"volume":    {"available", "reserved", "attaching", "in-use"},
			"reserved":  {"reserved", "attaching", "in-use", "available"},
			"completed": {"in-use", "available"},
			"detached":  {"available"},
		} {
			if done[step] != "" && !strings.Contains(strings.Join(status, " "), v.Status) {
				t.Errorf("after %s the volume is %s", step, v.Status)
			}
		}
		if done["extended"] != "" && v.Size != 2 {
			t.Errorf("the extended volume has %d GiB", v.Size)
		}
		if done["reserved"] != "" && done["completed"] == "" && len(v.Attachments) != 1 && !later {
			t.Errorf("a reserved volume has the attachments %v", v.Attachments)
		}
		if done["volume"] == "" {
			continue
		}
		head := make([]byte, 7)
		if v.Pool != "" {
			if readLV(t, s, v, head, 0); string(head) != "content" {
				t.Errorf("the volume holds %q", head)
			}
			continue
		}
		conformance.ReadAt(t, s, v, head, 0)
		if fi, err := os.Stat(s.dataOf(v.ID)); err != nil || fi.Size() < int64(v.Size)<<30 || string(head) != "content" {
			t.Errorf("the volume holds %q, %d bytes, %v", head, fi.Size(), err)
		}
	}
}

// emptied deletes everything, and checks that nothing at all is left.
func emptied(t *testing.T, ctx context.Context, s *Store) {
	t.Helper()
	volumes, err := s.Volumes(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, v := range volumes {
		for _, a := range v.Attachments {
			if err := s.Detach(ctx, a.ID); err != nil {
				t.Error(err)
			}
		}
		if err := s.DeleteVolume(ctx, v.ID); err != nil {
			t.Error(err)
		}
	}
	snapshots, err := s.Snapshots(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, n := range snapshots {
		if err := s.DeleteSnapshot(ctx, n.ID); err != nil {
			t.Error(err)
		}
	}
	images, err := s.Images(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, i := range images {
		if err := s.DeleteImage(ctx, i.ID); err != nil {
			t.Error(err)
		}
	}
	for _, dir := range []string{s.images.dir, s.volumes.dir, s.snapshots.dir} {
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s holds %v, %v", dir, left, err)
		}
	}
}

// Several processes want an image at once: it is converted by one of them.
func TestConvertedByOne(t *testing.T) {
	s := newStore(t)
	img := importRaw(t, s, qcow2File(t))
	log := filepath.Join(t.TempDir(), "points")
	t.Setenv("LXCBOOT_FAULT_LOG", log)
	fill := []string{"fill", img.ID}
	together(t, s, fill, fill, fill, fill, fill, fill)
	b, err := os.ReadFile(log)
	if n := strings.Count(string(b), "local/convert-image/after-rename#"); err != nil || n != 1 {
		t.Errorf("converted %d times, %v", n, err)
	}
	if n := strings.Count(string(b), "local/create-volume/after-available#"); n != 6 {
		t.Errorf("%d volumes were made", n)
	}
}
