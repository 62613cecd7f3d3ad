package volumetest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

func (s *suite) images() {
	var done, total int64
	img := s.image(volume.ImportImage{
		MinDisk:    2,
		MinRAM:     64,
		Properties: map[string]string{"os_distro": "lxcboot-test"},
		Progress: func(d, t int64) {
			if d < done {
				s.Errorf("progress goes back from %d to %d", done, d)
			}
			done, total = d, t
		},
	})
	if done == 0 || done != total {
		s.Errorf("progress ended at %d of %d", done, total)
	}
	check := func(what string, got volume.Image) {
		s.Helper()
		if got.ID != img.ID || got.Name != img.Name || got.Status != volume.ImageActive || got.DiskFormat != "raw" ||
			got.Size != payload || got.MinDisk != 2 || got.MinRAM != 64 || got.Properties["os_distro"] != "lxcboot-test" {
			s.Errorf("%s: %+v", what, got)
		}
	}
	check("imported", img)
	for _, ref := range []string{img.ID, img.Name} {
		got, err := s.Image(s.ctx(), ref)
		if err != nil {
			s.Fatalf("image %s: %v", ref, err)
		}
		check("shown by "+ref, got)
	}
	all, err := s.Images(s.ctx())
	if err != nil {
		s.Fatal(err)
	}
	got, ok := find(all, img.ID, imageID)
	if !ok {
		s.Fatalf("image %s is not in the list", img.ID)
	}
	check("listed", got)

	name, long := uniqueName(), string(slices.Repeat([]byte{'x'}, 256))
	_, err = s.UpdateImage(s.ctx(), img.ID, volume.UpdateImage{Name: &long})
	s.is(err, failure.ErrInvalid, "an overlong name")
	_, err = s.UpdateImage(s.ctx(), newID(), volume.UpdateImage{Name: &name})
	s.is(err, volume.ErrNotFound, "changing an unknown image")
	for range 2 { // a property that is new, and one that is there
		got, err = s.UpdateImage(s.ctx(), img.ID, volume.UpdateImage{Name: &name, Properties: map[string]string{"os_version": "2", "a/b~c": "3"}})
		if err != nil || got.Name != name || got.Properties["os_version"] != "2" || got.Properties["os_distro"] != "lxcboot-test" || got.Properties["a/b~c"] != "3" {
			s.Errorf("a changed image is %+v, %v", got, err)
		}
	}
	made := s.volume(volume.CreateVolume{Size: 2, ImageID: img.ID})
	if made.ImageProps["os_version"] != "2" {
		s.Errorf("a volume of it has the properties %v", made.ImageProps)
	}

	if err := s.DeleteImage(s.ctx(), img.ID); err != nil {
		s.Fatalf("deleting image: %v", err)
	}
	_, err = s.Image(s.ctx(), img.ID)
	s.is(err, volume.ErrNotFound, "showing a deleted image")
	s.is(s.DeleteImage(s.ctx(), img.ID), volume.ErrNotFound, "deleting an image twice")
}

func (s *suite) imageFormat() {
	qcow2 := s.qcow2("2G")
	img := s.image(volume.ImportImage{Path: qcow2})
	if img.DiskFormat != "qcow2" {
		s.Errorf("a qcow2 file became an image of format %q", img.DiskFormat)
	}
	before := s.countImages()
	for what, req := range map[string]volume.ImportImage{
		"raw as qcow2":         {Path: s.rawFile(), DiskFormat: "qcow2"},
		"qcow2 as raw":         {Path: qcow2, DiskFormat: "raw"},
		"an unknown format":    {Path: qcow2, DiskFormat: "floppy"},
		"a backing file":       {Path: s.qcow2("2G", "-b", qcow2, "-F", "qcow2")},
		"an empty file":        {Path: os.DevNull},
		"a directory":          {Path: s.TempDir()},
		"a negative minimum":   {Path: qcow2, MinDisk: -1},
		"a control character":  {Path: qcow2, Name: uniqueName() + "\n"},
		"a name far too long":  {Path: qcow2, Name: uniqueName() + string(slices.Repeat([]byte{'x'}, 256))},
		"not even a file path": {Path: ""},
	} {
		if req.Name == "" {
			req.Name = uniqueName()
		}
		img, err := s.ImportImage(s.ctx(), req)
		if err == nil {
			s.Errorf("importing %s worked", what)
			s.gone("image", s.DeleteImage(s.ctx(), img.ID))
			continue
		}
		s.is(err, failure.ErrInvalid, "importing "+what)
		if _, err := s.Image(s.ctx(), req.Name); !errors.Is(err, volume.ErrNotFound) {
			s.Errorf("importing %s left an image behind: %v", what, err)
		}
	}
	_, err := s.ImportImage(s.ctx(), volume.ImportImage{Name: uniqueName(), Path: "/nonexistent/disk.raw"})
	if !errors.Is(err, os.ErrNotExist) {
		s.Errorf("importing a missing file: %v", err)
	}
	if after := s.countImages(); after != before {
		s.Errorf("refused imports changed the number of images from %d to %d", before, after)
	}
}

// qcow2 makes an empty qcow2 file of the virtual size.
func (s *suite) qcow2(size string, more ...string) string {
	s.Helper()
	path := filepath.Join(s.TempDir(), "disk.qcow2")
	args := append([]string{"create", "-q", "-f", "qcow2"}, more...)
	if out, err := exec.Command("qemu-img", append(args, path, size)...).CombinedOutput(); err != nil {
		s.Fatalf("qemu-img: %v\n%s", err, out)
	}
	return path
}

// countImages counts the images that this suite made.
func (s *suite) countImages() (n int) {
	s.Helper()
	all, err := s.Images(s.ctx())
	if err != nil {
		s.Fatal(err)
	}
	for _, img := range all {
		if len(img.Name) >= 13 && img.Name[:13] == "lxcboot-test-" {
			n++
		}
	}
	return n
}

func (s *suite) volumeBlank() {
	v := s.volume(volume.CreateVolume{Size: 1, Description: "made by a test", Metadata: map[string]string{"colour": "blue"}})
	check := func(what string, got volume.Volume) {
		s.Helper()
		if got.ID != v.ID || got.Name != v.Name || got.Status != volume.StatusAvailable || got.Size != 1 || got.Bootable ||
			got.Description != "made by a test" || got.Metadata["colour"] != "blue" || len(got.Attachments) != 0 || got.CreatedAt.IsZero() {
			s.Errorf("%s: %+v", what, got)
		}
	}
	check("made", v)
	for _, ref := range []string{v.ID, v.Name} {
		got, err := s.Volume(s.ctx(), ref)
		if err != nil {
			s.Fatalf("volume %s: %v", ref, err)
		}
		check("shown by "+ref, got)
	}
	all, err := s.Volumes(s.ctx())
	if err != nil {
		s.Fatal(err)
	}
	got, ok := find(all, v.ID, volumeID)
	if !ok {
		s.Fatalf("volume %s is not in the list", v.ID)
	}
	check("listed", got)
	if s.opts.ReadAt != nil {
		p := make([]byte, 4096)
		p[0] = 1
		s.opts.ReadAt(s.T, s.Store, v, p, 1<<30-4096)
		if p[0] != 0 {
			s.Errorf("a blank volume is not empty")
		}
	}

	if err := s.DeleteVolume(s.ctx(), v.ID); err != nil {
		s.Fatalf("deleting volume: %v", err)
	}
	_, err = s.Volume(s.ctx(), v.ID)
	s.is(err, volume.ErrNotFound, "showing a deleted volume")
	s.is(s.DeleteVolume(s.ctx(), v.ID), volume.ErrNotFound, "deleting a volume twice")
}

func (s *suite) volumeFromImage() {
	img := s.image(volume.ImportImage{MinDisk: 1, MinRAM: 64})
	v := s.volume(volume.CreateVolume{Size: 1, ImageID: img.ID})
	if !v.Bootable || v.ImageID != img.ID || v.MinDisk != 1 || v.MinRAM != 64 {
		s.Errorf("a volume from an image: %+v", v)
	}
	s.holds(v)

	// From qcow2 the volume gets what the image describes, not the image's bytes.
	path := filepath.Join(s.TempDir(), "disk.qcow2")
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", s.rawFile(), path).CombinedOutput(); err != nil {
		s.Fatalf("qemu-img: %v\n%s", err, out)
	}
	s.holds(s.volume(volume.CreateVolume{Size: 1, ImageID: s.image(volume.ImportImage{Path: path, DiskFormat: "qcow2"}).ID}))
}

func (s *suite) volumeFromVolumeAndSnapshot() {
	origin := s.volume(volume.CreateVolume{Size: 1, ImageID: s.image(volume.ImportImage{}).ID})

	clone := s.volume(volume.CreateVolume{SourceID: origin.ID})
	if clone.Size != 1 || clone.SourceID != origin.ID || !clone.Bootable {
		s.Errorf("a clone: %+v", clone)
	}
	s.holds(clone)

	snap := s.snapshot(origin.ID)
	if snap.VolumeID != origin.ID || snap.Size != 1 || snap.Status != volume.StatusAvailable {
		s.Errorf("a snapshot: %+v", snap)
	}
	for _, ref := range []string{snap.ID, snap.Name} {
		if got, err := s.Snapshot(s.ctx(), ref); err != nil || got.ID != snap.ID || got.Name != snap.Name {
			s.Errorf("snapshot %s: %+v, %v", ref, got, err)
		}
	}
	all, err := s.Snapshots(s.ctx())
	if err != nil {
		s.Fatal(err)
	}
	if _, ok := find(all, snap.ID, snapshotID); !ok {
		s.Errorf("snapshot %s is not in the list", snap.ID)
	}
	restored := s.volume(volume.CreateVolume{SnapshotID: snap.ID})
	if restored.Size != 1 || restored.SnapshotID != snap.ID || !restored.Bootable {
		s.Errorf("a volume from a snapshot: %+v", restored)
	}
	s.holds(restored)
	larger := s.volume(volume.CreateVolume{SnapshotID: snap.ID, Size: 2})
	if larger.Size != 2 {
		s.Errorf("a larger volume from a snapshot has %d GiB", larger.Size)
	}
	s.holds(larger)

	for _, id := range []string{clone.ID, restored.ID, larger.ID} {
		if err := s.DeleteVolume(s.ctx(), id); err != nil {
			s.Errorf("deleting a copy: %v", err)
		}
	}
	if err := s.DeleteSnapshot(s.ctx(), snap.ID); err != nil {
		s.Fatalf("deleting snapshot: %v", err)
	}
	_, err = s.Snapshot(s.ctx(), snap.ID)
	s.is(err, volume.ErrNotFound, "showing a deleted snapshot")
	s.is(s.DeleteSnapshot(s.ctx(), snap.ID), volume.ErrNotFound, "deleting a snapshot twice")
}

func (s *suite) names() {
	name := uniqueName()
	a, b := s.volume(volume.CreateVolume{Name: name, Size: 1}), s.volume(volume.CreateVolume{Name: name, Size: 1})
	_, err := s.Volume(s.ctx(), name)
	s.ambiguous(err, name, a.ID, b.ID)

	x, y := s.image(volume.ImportImage{Name: name}), s.image(volume.ImportImage{Name: name})
	_, err = s.Image(s.ctx(), name)
	s.ambiguous(err, name, x.ID, y.ID)

	// An id is what tells them apart, and a name is no id.
	if got, err := s.Volume(s.ctx(), b.ID); err != nil || got.ID != b.ID {
		s.Errorf("by id: %+v, %v", got, err)
	}
	s.is(s.DeleteVolume(s.ctx(), name), volume.ErrNotFound, "deleting a volume by its name")
	if got, err := s.Volume(s.ctx(), b.ID[:8]); err != nil || got.ID != b.ID {
		s.Errorf("by the beginning of its id: %+v, %v", got, err)
	}
	_, err = s.Image(s.ctx(), x.ID[:7])
	s.is(err, volume.ErrNotFound, "an image by less of its id")
}

func (s *suite) ambiguous(err error, name string, ids ...string) {
	s.Helper()
	var amb *volume.AmbiguousError
	if !errors.As(err, &amb) {
		s.Errorf("a name that two objects have: got the error %v", err)
		return
	}
	slices.Sort(ids)
	if got := slices.Sorted(slices.Values(amb.IDs)); amb.Name != name || !slices.Equal(got, ids) {
		s.Errorf("the ambiguous name %s: %+v, want the ids %v", name, amb, ids)
	}
}

func (s *suite) extend() {
	v := s.volume(volume.CreateVolume{Size: 1, ImageID: s.image(volume.ImportImage{}).ID})
	if _, err := s.ExtendVolume(s.ctx(), v.ID, 1, ""); !errors.Is(err, failure.ErrInvalid) {
		s.Errorf("extending to the same size: %v", err)
	}
	if _, err := s.ExtendVolume(s.ctx(), v.ID, 2, ""); err != nil {
		s.Fatalf("extending: %v", err)
	}
	v = s.until(v.ID, "extended", func(v volume.Volume) bool { return v.Status == volume.StatusAvailable && v.Size == 2 })
	s.holds(v)
	if _, err := s.ExtendVolume(s.ctx(), v.ID, 1, ""); !errors.Is(err, failure.ErrInvalid) {
		s.Errorf("shrinking: %v", err)
	}
	id := s.reserve(v.ID, newID(), false)
	_, err := s.ExtendVolume(s.ctx(), v.ID, 3, "")
	s.is(err, volume.ErrInUse, "extending a reserved volume")
	if err := s.Detach(s.ctx(), id); err != nil {
		s.Errorf("letting go: %v", err)
	}
}

func (s *suite) update() {
	v := s.volume(volume.CreateVolume{Size: 1, Metadata: map[string]string{"a": "1", "b": "1"}})
	name, long, yes, no := uniqueName(), string(slices.Repeat([]byte{'x'}, 256)), true, false
	_, err := s.UpdateVolume(s.ctx(), v.ID, volume.UpdateVolume{Name: &long})
	s.is(err, failure.ErrInvalid, "an overlong name")
	_, err = s.UpdateVolume(s.ctx(), newID(), volume.UpdateVolume{Name: &name})
	s.is(err, volume.ErrNotFound, "changing an unknown volume")
	if _, err = s.UpdateVolume(s.ctx(), v.ID, volume.UpdateVolume{Name: &name, Bootable: &yes, Metadata: map[string]string{"b": "2"}}); err != nil {
		s.Fatalf("changing a volume: %v", err)
	}
	got, err := s.Volume(s.ctx(), name)
	if err != nil || got.ID != v.ID || !got.Bootable || got.Metadata["a"] != "1" || got.Metadata["b"] != "2" {
		s.Errorf("a changed volume is %+v, %v", got, err)
	}
	if got, err = s.UpdateVolume(s.ctx(), v.ID, volume.UpdateVolume{Bootable: &no}); err != nil || got.Bootable || got.Name != name {
		s.Errorf("no longer bootable: %+v, %v", got, err)
	}
}

func (s *suite) checkCreate() {
	img := s.image(volume.ImportImage{MinDisk: 2})
	two := s.volume(volume.CreateVolume{Size: 2})
	snap := s.snapshot(two.ID)
	type test struct {
		what string
		req  volume.CreateVolume
		want error
	}
	tests := []test{
		{"a blank volume without a size", volume.CreateVolume{}, failure.ErrInvalid},
		{"a negative size", volume.CreateVolume{Size: -1}, failure.ErrInvalid},
		{"an image without a size", volume.CreateVolume{ImageID: img.ID}, failure.ErrInvalid},
		{"less than the image's min_disk", volume.CreateVolume{ImageID: img.ID, Size: 1}, failure.ErrInvalid},
		{"less than the snapshot", volume.CreateVolume{SnapshotID: snap.ID, Size: 1}, failure.ErrInvalid},
		{"less than the source volume", volume.CreateVolume{SourceID: two.ID, Size: 1}, failure.ErrInvalid},
		{"an unknown image", volume.CreateVolume{ImageID: newID(), Size: 1}, volume.ErrNotFound},
		{"an unknown snapshot", volume.CreateVolume{SnapshotID: newID()}, volume.ErrNotFound},
		{"an unknown volume", volume.CreateVolume{SourceID: newID()}, volume.ErrNotFound},
		{"two sources", volume.CreateVolume{SourceID: two.ID, SnapshotID: snap.ID, Size: 2}, failure.ErrInvalid},
		{"an overlong name", volume.CreateVolume{Name: string(slices.Repeat([]byte{'x'}, 256)), Size: 1}, failure.ErrInvalid},
	}
	big := s.image(volume.ImportImage{Path: s.qcow2("2G")})
	if big.VirtualSize != 0 {
		tests = append(tests, test{"less than the image's virtual size", volume.CreateVolume{ImageID: big.ID, Size: 1}, failure.ErrInvalid})
	}
	good := volume.CreateVolume{Name: uniqueName(), Size: 1, Type: s.opts.VolumeType}
	if err := s.CheckCreate(s.ctx(), nil); err != nil {
		s.Errorf("checking nothing: %v", err)
	}
	for _, test := range tests {
		if test.req.Type == "" {
			test.req.Type = s.opts.VolumeType
		}
		s.is(s.CheckCreate(s.ctx(), []volume.CreateVolume{good, test.req}), test.want, "asking for "+test.what)
	}
	// A check changes nothing.
	_, err := s.Volume(s.ctx(), good.Name)
	s.is(err, volume.ErrNotFound, "looking for a volume that was only checked")
}

func (s *suite) notFound() {
	id := newID()
	for what, call := range map[string]func() error{
		"Image":          func() error { _, err := s.Image(s.ctx(), id); return err },
		"Volume":         func() error { _, err := s.Volume(s.ctx(), id); return err },
		"Snapshot":       func() error { _, err := s.Snapshot(s.ctx(), id); return err },
		"Image by name":  func() error { _, err := s.Image(s.ctx(), uniqueName()); return err },
		"Volume by name": func() error { _, err := s.Volume(s.ctx(), uniqueName()); return err },
		"DeleteImage":    func() error { return s.DeleteImage(s.ctx(), id) },
		"DeleteVolume":   func() error { return s.DeleteVolume(s.ctx(), id) },
		"DeleteSnapshot": func() error { return s.DeleteSnapshot(s.ctx(), id) },
		"WaitVolume":     func() error { _, err := s.WaitVolume(s.ctx(), id); return err },
		"ExtendVolume":   func() error { _, err := s.ExtendVolume(s.ctx(), id, 2, ""); return err },
		"CreateSnapshot": func() error {
			_, err := s.CreateSnapshot(s.ctx(), volume.CreateSnapshot{Name: uniqueName(), VolumeID: id})
			return err
		},
		"Reserve":  func() error { _, err := s.Reserve(s.ctx(), id, volume.Instance{ID: newID()}, false); return err },
		"Connect":  func() error { _, err := s.Connect(s.ctx(), id); return err },
		"Complete": func() error { return s.Complete(s.ctx(), id) },
		"Detach":   func() error { return s.Detach(s.ctx(), id) },
	} {
		s.is(call(), volume.ErrNotFound, what+" of something that is not there")
	}
}

func (s *suite) volumesOf() {
	instance, other := newID(), newID()
	mine := s.volume(volume.CreateVolume{Size: 1, Metadata: map[string]string{volume.MetaInstance: instance}})
	s.volume(volume.CreateVolume{Size: 1, Metadata: map[string]string{volume.MetaInstance: other}})
	got, err := s.VolumesOf(s.ctx(), instance)
	if err != nil || len(got) != 1 || got[0].ID != mine.ID {
		s.Errorf("volumes of the instance: %+v, %v; want only %s", got, err, mine.ID)
	}
	if got, err := s.VolumesOf(s.ctx(), newID()); err != nil || len(got) != 0 {
		s.Errorf("volumes of nobody: %+v, %v", got, err)
	}
}
