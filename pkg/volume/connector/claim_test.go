package connector

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// disk is a block device of this host's, and its name.
func disk(t *testing.T) (path, name string) {
	t.Helper()
	path = losetup(t, sparse(t, t.TempDir()+"/disk", 64*MiB))
	t.Cleanup(func() { run(t, "losetup", "-d", path) })
	return path, filepath.Base(path)
}

// A disk that something uses is not let go, and who uses it is named; one who is about to
// let go is waited for; and once it is claimed nobody can begin to use it.
func TestClaim(t *testing.T) {
	h := New(Options{StateDir: t.TempDir(), Root: "/"})
	path, name := disk(t)
	run(t, "mkfs.ext4", "-q", path)
	at := t.TempDir()
	uses := map[string]func() (letGo func()){
		"the mount " + at: func() func() {
			run(t, "mount", path, at)
			return func() { run(t, "umount", at) }
		},
		"/dev/loop": func() func() {
			above := losetup(t, path)
			return func() { run(t, "losetup", "-d", above) }
		},
		"another program": func() func() {
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
			if err != nil {
				t.Fatal(err)
			}
			return func() { f.Close() }
		},
	}
	for by, use := range uses {
		letGo := use()
		if f, user, err := h.tryClaim(name); err != nil || f != nil || !strings.HasPrefix(user, by) {
			t.Errorf("used by %s: %v, %q, %v", by, f, user, err)
		}
		time.AfterFunc(300*time.Millisecond, letGo)
		f, err := h.claim(t.Context(), name)
		if err != nil || f == nil {
			t.Fatalf("after the end of %s: %v, %v", by, f, err)
		}
		if err := unix.Mount(path, at, "ext4", 0, ""); err != unix.EBUSY {
			t.Errorf("claimed, and it can be mounted: %v", err)
		}
		f.Close()
	}
	letGo := uses["/dev/loop"]()
	defer letGo()
	began := time.Now()
	var busy *BusyError
	if _, err := h.claim(t.Context(), name); !errors.As(err, &busy) || !errors.Is(err, volume.ErrInUse) || busy.Path != path {
		t.Errorf("in use: %v", err)
	}
	if took := time.Since(began); took < idleLimit/2 {
		t.Errorf("it was waited for %v", took)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.claim(ended, name); !errors.Is(err, context.Canceled) {
		t.Errorf("in use, and the caller is gone: %v", err)
	}
	if f, err := h.claim(t.Context(), "none-such"); f != nil || err != nil {
		t.Errorf("a disk that is gone: %v, %v", f, err)
	}
}

// What LVM activated by itself, because it saw a volume group on the disk, is deactivated.
func TestDeactivate(t *testing.T) {
	w, h := newWorld(t)
	put(t, w.root, "sys/class/block/sdb/holders/dm-3", "")
	put(t, w.root, "sys/block/sdb/sdb2/partition", "2")
	put(t, w.root, "sys/class/block/sdb2/holders/dm-4", "")
	for dm, uuid := range map[string]string{"dm-3": "mpath-3600", "dm-4": "LVM-abc"} {
		put(t, w.root, "sys/block/"+dm+"/dm/uuid", uuid+"\n")
		put(t, w.root, "sys/block/"+dm+"/dm/name", "vg-"+dm+"\n")
	}
	w.tool = func([]string) error { return nil }
	w.says = "  vg \n"
	h.deactivate(t.Context(), "sdb")
	expect(t, "deactivate", w.commands(), []string{
		"lvs --noheadings -o vg_name -- /dev/mapper/vg-dm-4",
		"vgchange --quiet --activate n -- vg",
	})
}
