package openstack

import (
	"bytes"
	"crypto/md5"
	"crypto/sha512"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// savedImage is an image of Glance's with so many bytes, and these.
func savedImage(t *testing.T, c *cloud, s *Store) (volume.Image, []byte) {
	t.Helper()
	path, content := filepath.Join(t.TempDir(), "disk.raw"), bytes.Repeat([]byte("lxcboot!"), 1<<17)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := s.ImportImage(t.Context(), volume.ImportImage{Name: "saved", Path: path, DiskFormat: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	c.locked(func() {
		c.images[img.ID]["os_hash_algo"], c.images[img.ID]["os_hash_value"] = "sha512", fmt.Sprintf("%x", sha512.Sum512(content))
	})
	return img, content
}

func target(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "saved"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// A download that breaks off goes on where it was, and what comes is held against the
// checksum that Glance keeps.
func TestSaveImage(t *testing.T) {
	c := newCloud(t)
	s := c.open(t, nil)
	img, content := savedImage(t, c, s)
	for what, prepare := range map[string]func(){
		"whole":         func() {},
		"broken off":    func() { c.fail("GET", "/image/v2/images/"+img.ID+"/file", 2, cutWithin) },
		"busy at first": func() { c.fail("GET", "/image/v2/images/"+img.ID+"/file", 1, status(503, "", "")) },
		"with an md5": func() {
			c.locked(func() {
				delete(c.images[img.ID], "os_hash_algo")
				c.images[img.ID]["checksum"] = fmt.Sprintf("%x", md5.Sum(content))
			})
		},
	} {
		prepare()
		f, last := target(t), int64(0)
		err := s.SaveImage(t.Context(), img.ID, f, func(done, total int64) {
			if done < last || total != int64(len(content)) {
				t.Errorf("%s: %d of %d after %d", what, done, total, last)
			}
			last = done
		})
		got, rerr := os.ReadFile(f.Name())
		if err != nil || rerr != nil || !bytes.Equal(got, content) || last != int64(len(content)) {
			t.Errorf("%s: %v, %v; %d bytes, told %d", what, err, rerr, len(got), last)
		}
	}
	c.locked(func() { c.images[img.ID]["data"] = "x" + string(content[1:]) })
	if err := s.SaveImage(t.Context(), img.ID, target(t), nil); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("other content: %v", err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	before := c.count("GET /image/v2/images/" + img.ID + "/file")
	if err := s.SaveImage(t.Context(), img.ID, full, nil); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	if n := c.count("GET /image/v2/images/"+img.ID+"/file") - before; n != 1 {
		t.Errorf("with a full disk it is downloaded %d times", n)
	}
	err = s.ExportVolume(t.Context(), volume.ExportVolume{VolumeID: "v", DiskFormat: "raw", To: target(t)})
	if !errors.Is(err, volume.ErrUnsupported) || !strings.Contains(err.Error(), "image create --volume v") {
		t.Errorf("exporting a volume of Cinder: %v", err)
	}
}
