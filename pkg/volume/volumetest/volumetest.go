// Package volumetest is the conformance suite of volume stores. Whatever boots
// from one store must boot from every other, so each store runs the same tests:
// the embedded one on a directory, the cloud's against real Cinder and Glance.
//
// The suite asks only what every store can promise. Work may be done in the
// background, so a status is polled within a bound; a store may hold objects of
// others, so lists are searched and never compared; sizes are 1 or 2 GiB.
package volumetest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Store is what every volume store offers. A ref is an id or a name: a name
// that stands for several objects is a *volume.AmbiguousError, one that stands
// for none wraps volume.ErrNotFound. An id argument is never taken as a name.
type Store interface {
	Images(ctx context.Context) ([]volume.Image, error)
	Image(ctx context.Context, ref string) (volume.Image, error)
	ImportImage(ctx context.Context, req volume.ImportImage) (volume.Image, error)
	UpdateImage(ctx context.Context, id string, req volume.UpdateImage) (volume.Image, error)
	DeleteImage(ctx context.Context, id string) error

	Volumes(ctx context.Context) ([]volume.Volume, error)
	Volume(ctx context.Context, ref string) (volume.Volume, error)
	CheckCreate(ctx context.Context, reqs []volume.CreateVolume) error
	CreateVolume(ctx context.Context, req volume.CreateVolume) (volume.Volume, error)
	WaitVolume(ctx context.Context, id string) (volume.Volume, error)
	DeleteVolume(ctx context.Context, id string) error
	ExtendVolume(ctx context.Context, id string, sizeGiB int, attachmentID string) (volume.Volume, error)
	UpdateVolume(ctx context.Context, id string, req volume.UpdateVolume) (volume.Volume, error)
	VolumesOf(ctx context.Context, instanceID string) ([]volume.Volume, error)

	Snapshots(ctx context.Context) ([]volume.Snapshot, error)
	Snapshot(ctx context.Context, ref string) (volume.Snapshot, error)
	CreateSnapshot(ctx context.Context, req volume.CreateSnapshot) (volume.Snapshot, error)
	DeleteSnapshot(ctx context.Context, id string) error

	Reserve(ctx context.Context, volumeID string, by volume.Instance, readOnly bool) (attachmentID string, err error)
	AttachmentsOf(ctx context.Context, volumeID, instanceID string) ([]volume.Attachment, error)
	Connect(ctx context.Context, attachmentID string) (volume.Connection, error)
	Complete(ctx context.Context, attachmentID string) error
	Detach(ctx context.Context, attachmentID string) error
}

// Options says what the store under test has and how patient to be.
type Options struct {
	// Timeout bounds each single wait; zero is one minute.
	Timeout time.Duration
	// VolumeType is given with every volume that is made; may be empty.
	VolumeType string
	// Multiattach says that the store makes multiattach volumes, of the type
	// MultiattachType (may be empty).
	Multiattach     bool
	MultiattachType string
	// Elsewhere opens a store as another host.
	Elsewhere func(t *testing.T, s Store) Store
	// ReadAt, when set, reads the content of a volume that is not attached; with
	// it the suite checks that a copy holds what it was made from.
	ReadAt func(t *testing.T, s Store, v volume.Volume, p []byte, offset int64)
}

// tests are those of the suite.
type tests []struct {
	name string
	run  func(*suite)
}

// Run runs the suite. newStore gives a store for one test; it may be the same
// one each time. Everything that a test makes it deletes again.
func Run(t *testing.T, newStore func(t *testing.T) Store, opts Options) {
	tests{
		{"Images", (*suite).images},
		{"ImageFormat", (*suite).imageFormat},
		{"VolumeBlank", (*suite).volumeBlank},
		{"VolumeFromImage", (*suite).volumeFromImage},
		{"VolumeFromVolumeAndSnapshot", (*suite).volumeFromVolumeAndSnapshot},
		{"Names", (*suite).names},
		{"CheckCreate", (*suite).checkCreate},
		{"Extend", (*suite).extend},
		{"Update", (*suite).update},
		{"NotFound", (*suite).notFound},
		{"VolumesOf", (*suite).volumesOf},
		{"Cancel", (*suite).cancel},
	}.run(t, newStore, opts)
	Attachments(t, newStore, opts)
}

// Attachments runs what of the suite is about who holds a volume. It needs no images.
func Attachments(t *testing.T, newStore func(t *testing.T) Store, opts Options) {
	all := tests{
		{"Attach", (*suite).attach},
		{"ReadOnly", (*suite).readOnly},
		{"LostAttachment", (*suite).lostAttachment},
		{"ReserveIsAtomic", (*suite).reserveIsAtomic},
		{"Held", (*suite).held},
		{"Hosts", (*suite).hosts},
		{"TakenAway", (*suite).takenAway},
		{"Released", (*suite).released},
	}
	if opts.Multiattach {
		all = append(all, tests{{"Multiattach", (*suite).multiattach}}...)
	}
	all.run(t, newStore, opts)
}

func (all tests) run(t *testing.T, newStore func(t *testing.T) Store, opts Options) {
	if opts.Timeout == 0 {
		opts.Timeout = time.Minute
	}
	for _, test := range all {
		t.Run(test.name, func(t *testing.T) {
			test.run(&suite{T: t, Store: newStore(t), opts: opts})
		})
	}
}

// suite is one test with the store it is run against.
type suite struct {
	*testing.T
	Store
	opts Options
}

// ctx bounds one step, also within a clean-up.
func (s *suite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Timeout)
	s.Cleanup(cancel)
	return ctx
}

// uniqueName gives a name that nobody else uses.
func uniqueName() string {
	b := make([]byte, 6)
	rand.Read(b)
	return "lxcboot-test-" + hex.EncodeToString(b)
}

// payload is the size of the test image: its first bytes say so, the middle is a
// hole, the end has content again.
const payload = 4 << 20

var (
	head = []byte("lxcboot test image: the first bytes")
	tail = []byte("lxcboot test image: the last bytes")
)

// rawFile makes the file that images are imported from.
func (s *suite) rawFile() string {
	s.Helper()
	path := filepath.Join(s.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	for offset, b := range map[int64][]byte{0: head, payload - int64(len(tail)): tail} {
		if _, err := f.WriteAt(b, offset); err != nil {
			s.Fatal(err)
		}
	}
	return path
}

// image imports the test image under a new name.
func (s *suite) image(req volume.ImportImage) volume.Image {
	s.Helper()
	if req.Name == "" {
		req.Name = uniqueName()
	}
	if req.Path == "" {
		req.Path = s.rawFile()
	}
	img, err := s.ImportImage(s.ctx(), req)
	if err != nil {
		s.Fatalf("importing an image: %v", err)
	}
	s.Cleanup(func() { s.gone("image", s.DeleteImage(s.cleanupCtx(), img.ID)) })
	return img
}

// volume makes a volume and waits for it.
func (s *suite) volume(req volume.CreateVolume) volume.Volume {
	s.Helper()
	if req.Name == "" {
		req.Name = uniqueName()
	}
	if req.Type == "" {
		req.Type = s.opts.VolumeType
	}
	if err := s.CheckCreate(s.ctx(), []volume.CreateVolume{req}); err != nil {
		s.Fatalf("checking a good request: %v", err)
	}
	v, err := s.CreateVolume(s.ctx(), req)
	if err != nil {
		s.Fatalf("creating a volume: %v", err)
	}
	s.Cleanup(func() { s.gone("volume", s.DeleteVolume(s.cleanupCtx(), v.ID)) })
	switch v.Status {
	case volume.StatusCreating, volume.StatusDownloading, volume.StatusAvailable:
	default:
		s.Errorf("a new volume has the status %q", v.Status)
	}
	done, err := s.WaitVolume(s.ctx(), v.ID)
	if err != nil {
		s.Fatalf("waiting for volume %s: %v", v.ID, err)
	}
	if done.ID != v.ID || done.Status != volume.StatusAvailable {
		s.Fatalf("waited for volume %s and got %s, which is %q", v.ID, done.ID, done.Status)
	}
	return done
}

// blank makes an empty volume of 1 GiB.
func (s *suite) blank() volume.Volume {
	s.Helper()
	return s.volume(volume.CreateVolume{Size: 1})
}

// snapshot makes a snapshot under a new name.
func (s *suite) snapshot(volumeID string) volume.Snapshot {
	s.Helper()
	snap, err := s.CreateSnapshot(s.ctx(), volume.CreateSnapshot{Name: uniqueName(), VolumeID: volumeID})
	if err != nil {
		s.Fatalf("creating a snapshot: %v", err)
	}
	s.Cleanup(func() { s.gone("snapshot", s.DeleteSnapshot(s.cleanupCtx(), snap.ID)) })
	return snap
}

// instanceName is what each instance is called that reserve makes.
const instanceName = "lxcboot-test.web-1"

// reserve holds a volume for an instance and lets go of it in the end.
func (s *suite) reserve(volumeID, instanceID string, readOnly bool) string {
	s.Helper()
	id, err := s.Reserve(s.ctx(), volumeID, volume.Instance{ID: instanceID, Name: instanceName}, readOnly)
	if err != nil {
		s.Fatalf("reserving volume %s: %v", volumeID, err)
	}
	s.Cleanup(func() { s.gone("attachment", s.Detach(s.cleanupCtx(), id)) })
	return id
}

// cleanupCtx is for calls within Cleanup, where the test's other contexts may
// have ended.
func (s *suite) cleanupCtx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Timeout)
	time.AfterFunc(s.opts.Timeout, cancel)
	return ctx
}

// gone takes "not there" as done.
func (s *suite) gone(kind string, err error) {
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		s.Errorf("cleaning up a %s: %v", kind, err)
	}
}

// status waits until the volume has the status.
func (s *suite) status(volumeID, want string) volume.Volume {
	s.Helper()
	return s.until(volumeID, want, func(v volume.Volume) bool { return v.Status == want })
}

// until polls a volume until it is as wanted.
func (s *suite) until(volumeID, want string, ok func(volume.Volume) bool) volume.Volume {
	s.Helper()
	deadline := time.Now().Add(s.opts.Timeout)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		v, err := s.Volume(s.ctx(), volumeID)
		if err != nil {
			s.Fatalf("reading volume %s: %v", volumeID, err)
		}
		if ok(v) {
			return v
		}
		if time.Now().After(deadline) {
			s.Fatalf("volume %s is not %s after %v: %+v", volumeID, want, s.opts.Timeout, v)
		}
		time.Sleep(pause)
	}
}

// is fails the test when err is not of the kind, or says nothing about about.
func (s *suite) is(err, kind error, doing string) {
	s.Helper()
	if !errors.Is(err, kind) {
		s.Errorf("%s: got the error %v, want %q", doing, err, kind)
	}
}

// holds checks that a volume has the content of the test image.
func (s *suite) holds(v volume.Volume) {
	s.Helper()
	if s.opts.ReadAt == nil {
		return
	}
	for offset, want := range map[int64][]byte{
		0:                          head,
		payload / 2:                make([]byte, 4096),
		payload - int64(len(tail)): tail,
		payload:                    make([]byte, 4096),
		int64(v.Size)<<30 - 4096:   make([]byte, 4096),
	} {
		got := make([]byte, len(want))
		s.opts.ReadAt(s.T, s.Store, v, got, offset)
		if string(got) != string(want) {
			s.Errorf("volume %s holds %q at %d, want %q", v.ID, got, offset, want)
		}
	}
}

// newID gives the id of an instance, or of something that is not there.
func newID() string { return uuid.NewString() }

// find returns the element that has the id.
func find[T any](all []T, id string, idOf func(T) string) (T, bool) {
	for _, x := range all {
		if idOf(x) == id {
			return x, true
		}
	}
	var zero T
	return zero, false
}

func imageID(i volume.Image) string       { return i.ID }
func volumeID(v volume.Volume) string     { return v.ID }
func snapshotID(s volume.Snapshot) string { return s.ID }
