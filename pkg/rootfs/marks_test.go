package rootfs

import (
	"errors"
	"strings"
	"testing"
)

// TestShortMarks: the few bytes that some filesystems are known by prove nothing where a
// sound filesystem is; a whole superblock counts, unless a file may well have it.
func TestShortMarks(t *testing.T) {
	small := []string{"-b", "1024", "-O", "^resize_inode"} // file blocks from the fourth on
	for _, fstype := range []string{"ext4", "xfs", "btrfs", "squashfs"} {
		for name, m := range map[string]struct {
			offset int64
			magic  string
		}{
			"CD001": {32769, "CD001"}, "JFS1": {32768, "JFS1"}, "ReIsErFs": {65588, "ReIsErFs"},
			"F2FS": {1024, "\x10\x20\xf5\xf2"}, "NXSB": {32, "NXSB"},
			"bcache": {4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
		} {
			own := map[string]string{"ext4": "F2FS", "xfs": "NXSB", "squashfs": "NXSB", "btrfs": "ReIsErFs"}[fstype]
			if name == own { // it is within the superblock
				continue
			}
			t.Run(name+" in "+fstype, func(t *testing.T) {
				t.Parallel()
				path := format(t, fstype)
				patch(t, path, m.offset, []byte(m.magic))
				if got, err := Probe(path); err != nil || got.Type != fstype || got.Note != "" {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
	}
	for name, c := range map[string]struct {
		mkfs []string
		mark string   // of what the superblock is
		from int64    // where it is
		says []string // nothing: the filesystem wins
	}{
		"an ISO's where a file may be":      {small, "iso", 32768, nil},
		"an ISO's where no file is":         {nil, "iso", 32768, []string{iso, "wipefs"}},
		"a bcache's where a file may be":    {small, "bcache", 4096, nil},
		"a bcache's in the table of groups": {append(small, "-E", "resize=1000000", "-O", "resize_inode"), "bcache", 4096, []string{bcache, "wipefs"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := format(t, "ext4", c.mkfs...)
			patchFrom(t, head(t, c.mark, 1*mib), path, c.from, 512)
			got, err := Probe(path)
			if c.says == nil {
				if err != nil || got.Type != "ext4" {
					t.Errorf("%+v, %v", got, err)
				}
				return
			}
			if !errors.Is(err, ErrAmbiguous) {
				t.Fatalf("%+v, %v", got, err)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%v does not say %q", err, s)
				}
			}
		})
	}
	// What wipefs would clear may be a file's.
	t.Run("a filesystem in a file", func(t *testing.T) {
		t.Parallel()
		path := format(t, "ext4", small...)
		btrfs := format(t, "btrfs")
		run(t, "truncate", "-s", "128M", path)
		run(t, "dd", "if="+btrfs, "of="+path, "bs=4k", "skip=16", "seek=16", "conv=notrunc,sparse", "status=none")
		if _, err := Probe(path); !errors.Is(err, ErrAmbiguous) || strings.Contains(err.Error(), "wipefs") || !strings.Contains(err.Error(), "in a file of the other") {
			t.Errorf("%v", err)
		}
	})
}
